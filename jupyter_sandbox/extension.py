"""The Jupyter server extension: wiring only.

It wakes the broker early and stays connected with it, smooths the kernel websocket, tells people in the notebook why a
kernel ended, serves REST for sandboxes, and leaves nothing behind when the server stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
from typing import TYPE_CHECKING, Any

from jupyter_client.ioloop.manager import AsyncIOLoopKernelManager
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.extension.application import ExtensionApp
from jupyter_server.services.kernels.handlers import _kernel_id_regex
from tornado import web
from traitlets import Bool, Float, Int, TraitError, Unicode, validate

from jupyter_sandbox import (
    event_routes,
    exclusive,
    json_logs,
    jupyter_requests,
    jupyter_routes,
    kernel_channels,
    kernel_pauses,
    metrics,
    owners,
)
from jupyter_sandbox._version import __version__
from jupyter_sandbox.authorizer import OwnerAuthorizer
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.broker_presence import BrokerPresence
from jupyter_sandbox.commands import CommandBounds, Commands
from jupyter_sandbox.contexts import Contexts, forget_failed_starts
from jupyter_sandbox.errors import InvalidRequestError, SandboxError, TokenFileError
from jupyter_sandbox.event_log import EventLog
from jupyter_sandbox.execution_slate import ExecutionSlate
from jupyter_sandbox.executions import Bounds, Executions
from jupyter_sandbox.file_quotas import FileQuotas
from jupyter_sandbox.file_transfers import FileTransfers
from jupyter_sandbox.file_watches import FileWatches
from jupyter_sandbox.files import Files
from jupyter_sandbox.guards import ids
from jupyter_sandbox.identity import OwnerTokens, SandboxIdentityProvider
from jupyter_sandbox.journal import Journal
from jupyter_sandbox.kept_watches import KeptWatches
from jupyter_sandbox.kernel_restarts import PromptRestarter
from jupyter_sandbox.kernel_websocket import SandboxKernelWebsocketHandler
from jupyter_sandbox.named_sandboxes import NamedSandboxes
from jupyter_sandbox.offered_languages import OfferedLanguages
from jupyter_sandbox.outlets import OutputLimits
from jupyter_sandbox.pool_metrics import POOL
from jupyter_sandbox.provisioner import SandboxProvisioner
from jupyter_sandbox.quotas import Quotas
from jupyter_sandbox.rates import Rates
from jupyter_sandbox.sandbox_tokens import SandboxTokens
from jupyter_sandbox.sandboxes import Sandboxes
from jupyter_sandbox.services import Services
from jupyter_sandbox.succession import Succession
from jupyter_sandbox.surfaces.contexts import handlers as contexts_api
from jupyter_sandbox.surfaces.contexts.api import ContextsApi
from jupyter_sandbox.surfaces.e2b import routes as e2b
from jupyter_sandbox.surfaces.e2b.held import E2b
from jupyter_sandbox.surfaces.interpreter import handlers as interpreter
from jupyter_sandbox.surfaces.mcp import handlers as mcp
from jupyter_sandbox.surfaces.mcp.desk import Desk
from jupyter_sandbox.surfaces.native import handlers, models, operations
from jupyter_sandbox.surfaces.ragflow import handlers as ragflow
from jupyter_sandbox.surfaces.ragflow.executor import RagflowExecutor
from jupyter_sandbox.web import EMIT

if TYPE_CHECKING:
    from jupyter_sandbox.events import Emit


class ClosedHandler(JupyterHandler):
    """Answers 403 to everything."""

    async def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Refuse before any method is looked at."""
        await super().prepare(*args, **kwargs)
        raise web.HTTPError(403, "closed: this server runs code in sandboxes only")


class SandboxExtension(ExtensionApp):
    """Kernels in isolated workers, for one Jupyter server."""

    name = "jupyter_sandbox"
    app_name = "Jupyter Sandbox"
    version = __version__
    description = "Every kernel in an isolated worker with its own disk and its own firewall"
    load_other_extensions = True
    classes = [
        SandboxProvisioner,
        Files,
        FileTransfers,
        Quotas,
        Rates,
        SandboxIdentityProvider,
        interpreter.CodeInterpreter,
        E2b,
        RagflowExecutor,
        ContextsApi,
    ]
    _services: Services | None = None
    _watching: asyncio.Task[None] | None = None
    _presence: BrokerPresence | None = None
    _is_stopping = False
    _event_log: EventLog | None = None
    _mcp: Desk | None = None
    _succession: Succession

    exclusive = Bool(
        default_value=False,
        help="Refuse to start while the server's configuration leaves a way round the sandbox: native kernels, foreign "
        "kernelspecs, terminals. Server-side nbconvert is closed.",
    ).tag(config=True)
    max_message_mib = Int(
        8,
        min=1,
        max=256,
        help="The largest message of a sandbox kernel that is passed on, MiB. While the server judges one it does "
        "nothing else: 8 MiB can take 100 ms.",
    ).tag(config=True)
    max_unsent_mib = Int(
        4,
        min=1,
        help="How much output of a sandbox kernel waits in the server for one client that reads slowly, MiB. More "
        "waits in the sandbox.",
    ).tag(config=True)
    slow_reader_s = Float(
        60, min=0.1, help="A client that takes nothing for so long while that much waits is hung up on, seconds."
    ).tag(config=True)
    max_offline_mib = Int(
        16,
        min=0,
        help="How much output of a sandbox kernel is kept for a tab that was closed, MiB, if the server's "
        "buffer_offline_messages is on.",
    ).tag(config=True)

    sandbox_timeout_s = Float(
        900, min=1, help="How long a sandbox that was claimed over REST lives unless the claim or a renewal says more."
    ).tag(config=True)
    max_sandbox_timeout_s = Float(
        86_400, min=1, help="The longest time that a claim or a renewal may ask for, seconds."
    ).tag(config=True)
    execution_timeout_s = Float(
        60, min=0.1, help="When an execution over REST is interrupted unless it says otherwise, seconds."
    ).tag(config=True)
    max_execution_timeout_s = Float(
        3_600, min=0.1, help="The longest time that an execution over REST may ask for, seconds."
    ).tag(config=True)
    max_output_mib = Int(
        8, min=1, max=256, help="How much of the outputs of one execution over REST is kept, MiB; more ends it."
    ).tag(config=True)
    max_waiting_executions = Int(
        16, min=0, help="How many executions over REST may wait in one context behind the one that runs."
    ).tag(config=True)
    max_commands = Int(32, min=1, max=128, help="How many commands may run in one sandbox at the same time.").tag(
        config=True
    )

    server_name = Unicode(
        help="The name under which this server, when it has been started anew, finds the sandboxes that it left by a "
        "crash or SIGTERM. Default: made of host name, root directory, runtime directory and base URL. Of two servers "
        "with one name that run at the same time the second leaves nothing and finds nothing.",
    ).tag(config=True)
    drain_s = Float(
        5, min=0, help="How long code that runs may still take when the server is stopped by SIGTERM, seconds."
    ).tag(config=True)

    json_logs = Bool(
        default_value=False,
        help="Log JSON for machines: one line for each record and each request, without queries, tokens and paths of "
        "the host. The token that a starting server prints is not readable then.",
    ).tag(config=True)

    @validate("server_name")
    def _judge_server_name(self, proposal: dict[str, str]) -> str:
        try:
            return ids.server_name(proposal["value"]) if proposal["value"] else ""
        except InvalidRequestError as error:
            raise TraitError(f"SandboxExtension.server_name: {error}") from error

    def initialize_settings(self) -> None:
        """Judge the configuration in exclusive mode; look for dead kernels more often than stock Jupyter does."""
        server: Any = self.serverapp
        if self.json_logs:
            json_logs.adopt_ours(server.log)
            json_logs.convert(server.log)
            counts = getattr(server, "record_http_request_metrics", True)
            self.settings["log_function"] = json_logs.request_logger(counts=counts)
        kept_out = self.settings.get("extra_log_scrub_param_keys", [])
        self.settings["extra_log_scrub_param_keys"] = [*kept_out, "signature"]  # it opens a file
        try:
            open_ways = exclusive.findings(server) if self.exclusive else exclusive.token_findings(server)
        except Exception as error:  # noqa: BLE001 - a server whose extension fails to load would go on, all ways open
            open_ways = [f"this configuration cannot be judged ({type(error).__name__}: {error})"]
        if open_ways:
            listed = "\n".join(f"  - {way}" for way in open_ways)
            what = "is exclusive" if self.exclusive else "takes tokens"
            self.log.critical("jupyter-sandbox %s, but this configuration opens ways round it:\n%s", what, listed)
            server.exit(1)
        manager = server.kernel_manager
        kernel_channels.guard_managers(manager, self.max_message_mib << 20)
        kernel_pauses.show(manager)
        self._event_log = EventLog(server.event_logger, metrics.DROPPED_EVENTS.inc)
        emit = self.settings[EMIT] = Journal(metrics.read, self._event_log)
        owners.note_owners(manager, emit)
        sandboxes = Sandboxes(manager, quotas=Quotas(parent=self), emit=emit)
        self._offered = OfferedLanguages(server.kernel_spec_manager)
        self._succession = Succession(server, self.server_name, sandboxes, self._offered, self.max_offline_mib << 20)
        contexts = Contexts(manager, self._offered, sandboxes)
        bounds = Bounds(max_waiting=self.max_waiting_executions)
        executions = Executions(contexts, bounds, emit, ExecutionSlate(self._succession.slate))
        sandboxes.also_watch = executions.hang_up_on_the_gone
        files = Files(parent=self, writing=FileQuotas(sandboxes).writing, emit=emit)
        watches = FileWatches(files)
        commands = Commands(sandboxes, CommandBounds(max_running=self.max_commands), emit)
        sandboxes.terms.in_use = lambda: itertools.chain(executions.in_use(), commands.in_use())
        self._services = Services(
            sandboxes=sandboxes,
            contexts=contexts,
            executions=executions,
            named=NamedSandboxes(sandboxes, contexts, executions, files),
            commands=commands,
            files=files,
            transfers=FileTransfers(files, parent=self, emit=emit),
            watches=watches,
            kept_watches=KeptWatches(watches),
            tokens=self._tokens(sandboxes, emit),
            emit=emit,
        )
        AsyncIOLoopKernelManager.restarter_class.default_value = PromptRestarter

    def _tokens(self, sandboxes: Sandboxes, emit: Emit) -> SandboxTokens | None:
        """Begin to take tokens, if the identity provider knows them."""
        server: Any = self.serverapp
        provider = server.identity_provider
        if not isinstance(provider, OwnerTokens):
            return None
        tokens = SandboxTokens(sandboxes, emit=emit)
        try:
            provider.load_tokens(tokens)
        except TokenFileError as error:
            self.log.critical("%s", error)
            server.exit(1)
        return tokens

    def initialize_handlers(self) -> None:
        """Serve the kernel websocket ourselves; the route shadows the stock one."""
        if self.exclusive:
            self.handlers.extend((route, ClosedHandler) for route in exclusive.CLOSED_ROUTES)
        self.handlers.extend(event_routes.ROUTES)
        self.handlers.extend(jupyter_requests.rules())
        limits = OutputLimits(
            max_message_bytes=self.max_message_mib << 20,
            max_unsent_bytes=self.max_unsent_mib << 20,
            slow_reader_s=self.slow_reader_s,
            max_offline_bytes=self.max_offline_mib << 20,
        )
        route = rf"/api/kernels/{_kernel_id_regex}/channels"
        self.handlers.append((route, SandboxKernelWebsocketHandler, {"limits": limits}))
        times = models.Times(
            sandbox_s=min(self.sandbox_timeout_s, self.max_sandbox_timeout_s),
            max_sandbox_s=self.max_sandbox_timeout_s,
            execution_s=min(self.execution_timeout_s, self.max_execution_timeout_s),
            max_execution_s=self.max_execution_timeout_s,
            max_output_bytes=self.max_output_mib << 20,
        )
        if self._services is not None:
            if isinstance(self.serverapp.authorizer, OwnerAuthorizer):  # type: ignore[union-attr]
                self.handlers[:0] = jupyter_routes.rules(self._services.contexts, limits)
            self.handlers.extend(handlers.rules(operations.table(times), self._services))
            settings = interpreter.CodeInterpreter(parent=self)
            self.handlers.extend(interpreter.rules(self._services, settings))
            e2b_settings = E2b(parent=self)
            e2b_routes = e2b.rules(self._services, e2b_settings)
            self.handlers.extend(e2b_routes)
            e2b.serve_top(self.serverapp.web_app, e2b_routes)  # type: ignore[union-attr]
            e2b.serve_domain(self.serverapp.web_app, e2b_settings)  # type: ignore[union-attr]
            self.handlers.extend(ragflow.rules(self._services, self))
            api = ContextsApi(self._services.named, times.max_output_bytes, parent=self)
            self.handlers.extend(contexts_api.rules(self._services, api))
            self._mcp = Desk(api)
            self.handlers.extend(mcp.rules(self._services, self._mcp))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Wake the broker and stay with it, so that no kernel waits for it. Failing is told, not fatal."""
        gc.collect()
        gc.freeze()  # what a server is made of stays; to look through it took 90 ms again and again, while all waited
        if self.json_logs:
            for applications in serverapp.extension_manager.extension_apps.values():
                for application in applications:  # each has a log of its own
                    json_logs.convert(application.log)
        if self._services is not None:
            await self._succession.begin(self._services, self.drain_s)
        if not self._is_stopping:  # a signal may have come during the adoption
            self._presence = BrokerPresence(self._hear, self._tell_refusal)
            self._presence.begin()
        if isinstance(serverapp.identity_provider, OwnerTokens):
            self._watching = asyncio.create_task(serverapp.identity_provider.watch_tokens(), name="watch over tokens")

    def _hear(self, status: verbs.StatusReport) -> None:
        POOL.note(status)
        self._offered.offer(status.languages)
        spoken = ", ".join(status.languages)
        self.log.info("Sandbox kernels are ready (engine %s, broker pid %d): %s", status.engine, status.pid, spoken)

    def _tell_refusal(self, error: Exception) -> None:
        self.log.error("Sandbox kernels cannot start: %s", error)

    async def stop_extension(self) -> None:
        """Shut the kernels down and let the broker go if nobody else needs it.

        At SIGTERM they are left to the next start of this server instead, and end when it does not come.
        """
        self._is_stopping = True
        if self._presence is not None:
            await self._presence.end()
        if self._watching is not None:
            self._watching.cancel()
        if self._mcp is not None:
            await self._mcp.stop()
        if self._services is not None:  # a server may stop because we could not be initialized
            await self._succession.end(self._services)
        manager: Any = self.serverapp.kernel_manager  # type: ignore[union-attr]
        forget_failed_starts(manager)
        await manager.shutdown_all()
        POOL.stop()
        if self._event_log is not None:
            await self._event_log.stop()
        with contextlib.suppress(SandboxError):
            await client.call(verbs.Retire(), verbs.Done, start=False)
