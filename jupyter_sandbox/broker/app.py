"""The broker as a process: `jupyter sandbox broker`, or started by the first client that needs it.

As root it stays in the host's user namespace. As an ordinary user it first enters a user namespace in which it is
root over nothing but itself, so that it may mount. In both cases its mounts live in a mount namespace that the host
does not see.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import logging.handlers
import os
import pwd
import resource
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, cast

from jupyter_core.application import JupyterApp, NoStart
from jupyter_core.paths import jupyter_config_path
from traitlets import Dict, Enum, Float, Int, List, TraitError, Unicode, validate

from jupyter_sandbox import cgroups, rulesets, template_shape, templates
from jupyter_sandbox._version import __version__
from jupyter_sandbox.broker import background, namespaces, recovery, upkeep
from jupyter_sandbox.broker.admission import Admission, Marks
from jupyter_sandbox.broker.catalog import Catalog
from jupyter_sandbox.broker.registry import Registry
from jupyter_sandbox.broker.server import Server
from jupyter_sandbox.disks import LoopDisks, MemoryDisks
from jupyter_sandbox.engines import docker, image
from jupyter_sandbox.engines.embedded import EmbeddedEngine
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    InvalidRequestError,
    IsolationUnavailableError,
    SandboxError,
)
from jupyter_sandbox.firewall import Firewall, NftFirewall, NoFirewall
from jupyter_sandbox.guards import networks
from jupyter_sandbox.host import channel, places
from jupyter_sandbox.host.stage import Stage
from jupyter_sandbox.ledger import Ledger
from jupyter_sandbox.template_store import TemplateStore
from jupyter_sandbox.workspace import Mounter

if TYPE_CHECKING:
    import io

    from jupyter_sandbox.disks import Disks
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.specs import Template

ENGINE_VARIABLE: Final = "JUPYTER_SANDBOX_ENGINE"
ENGINES: Final = ("auto", "embedded", "docker")
_LOG_BYTES: Final = 1 << 20
_DISPLACED_S: Final = 10
_FIRST_UID: Final = 0x70000000

log = logging.getLogger(__name__)


class Mode(Int[int, int]):
    """File permissions; on a command line octal, as `chmod` takes them."""

    def from_string(self, s: str) -> int:
        """Return the number that `600`, `0600` or `0o600` means."""
        return int(s, 8)


class _PrivateLog(logging.handlers.RotatingFileHandler):
    """A log that only its owner reads, also the file that follows a full one."""

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).touch(mode=0o600)
        Path(self.baseFilename).chmod(0o600)
        return super()._open()


class BrokerApp(JupyterApp):
    """Owns the workers of this machine and user; every knob of the host side is a trait here."""

    name = "jupyter-sandbox-broker"
    version = __version__
    description = __doc__ or ""
    examples = "jupyter sandbox broker --BrokerApp.idle_exit_s=0    # in the foreground, until Ctrl-C"
    flags = dict(
        debug=({"BrokerApp": {"log_level": logging.DEBUG}}, "Log every action on the host."),
        background=({"BrokerApp": {"background": "yes"}}, "Return once the broker serves; it goes on by itself."),
    )
    aliases = dict([("engine", "BrokerApp.engine"), ("log-level", "BrokerApp.log_level")])

    engine = Enum(
        ENGINES,
        default_value="auto",
        help="Which engine makes workers. The environment variable JUPYTER_SANDBOX_ENGINE sets it as well.",
    ).tag(config=True)
    template_directories = List(
        Unicode(),
        help="Directories with template files (*.toml). Default: `sandbox-templates` in Jupyter's config directories.",
    ).tag(config=True)
    template_ceiling = Dict(
        key_trait=Unicode(),
        value_trait=Float(),
        help="The most that templates may have that are defined over REST or by `jupyter sandbox template`: limits by "
        "their names, `min_idle` and `max_total`. What is not named here keeps its default.",
    ).tag(config=True)
    uid_base = Int(
        help="Root only: first host uid of the 65536 that workers use. No account or container may use one of them. "
        "Default: a range of its own for each broker, at 1879048192 or above.",
    ).tag(config=True)
    network_pool = Unicode(
        str(rulesets.DEFAULT_POOL),
        help="Root only: IPv4 range for the addresses of sandboxes whose template opens the network. Nothing else that "
        "this host can reach may use it.",
    ).tag(config=True)
    max_total = Int(
        0, min=0, help="Workers of all templates that may exist at once, warm ones included; 0: no such number."
    ).tag(config=True)
    memory_percent = Int(
        95, min=1, max=100, help="No new sandbox while more of the host's memory than this is in use, percent."
    ).tag(config=True)
    disk_percent = Int(
        95, min=1, max=100, help="Root only: no new sandbox if more of the host's disk than this were in use, percent."
    ).tag(config=True)
    disk_reserve_mib = Int(
        1024, min=0, help="Root only: no new sandbox if the host's disk would have less than this left."
    ).tag(config=True)
    docker_image = Unicode(
        image.DEFAULT, help="Engine docker: name of the image of workers; `jupyter sandbox image build` makes it."
    ).tag(config=True)
    docker_runtime = Unicode(
        help="Engine docker: the daemon's name of the OCI runtime to use, for example `crun`. Empty: its default. It "
        "must run containers on this machine's own kernel."
    ).tag(config=True)
    socket_mode = Mode(
        0o600, help="Permissions of the broker's socket; 0o666 lets every local user claim sandboxes of its own."
    ).tag(config=True)
    idle_exit_s = Float(
        60, help="Exit when nothing was claimed and nobody connected for so long, seconds; 0 means never."
    ).tag(config=True)
    recover_grace_s = Float(
        60, help="How long sandboxes that outlived their broker, or their server, wait for a next one, seconds."
    ).tag(config=True)
    background = Enum(("yes", "no"), default_value="no", help="See the flag.").tag(config=True)

    def _config_file_name_default(self) -> str:
        return "jupyter_sandbox_config"

    def _uid_base_default(self) -> int:
        return _FIRST_UID + 65536 * (int(places.find().instance[:3], 16))

    @validate("network_pool")
    def _judge_network_pool(self, proposal: dict[str, str]) -> str:
        try:
            return str(networks.pool(proposal["value"]))
        except InvalidRequestError as error:
            raise TraitError(f"BrokerApp.network_pool: {error}") from error

    @validate("template_ceiling")
    def _judge_template_ceiling(self, proposal: dict[str, dict[str, float]]) -> dict[str, float]:
        try:
            template_shape.ceiling(proposal["value"])
        except InvalidRequestError as error:
            raise TraitError(f"BrokerApp.template_ceiling: {error}") from error
        return proposal["value"]

    def _engine_default(self) -> str:
        named = os.environ.get(ENGINE_VARIABLE, "auto")
        if named not in ENGINES:
            self._fail(IsolationUnavailableError(f"{ENGINE_VARIABLE}={named!r} is none of {', '.join(ENGINES)}"))
        return named

    def _template_directories_default(self) -> list[str]:
        return [str(Path(path, "sandbox-templates")) for path in reversed(jupyter_config_path())]

    def start(self) -> None:
        """Serve until stopped. Exits with 1 and a JSON error on the last line of stderr when that is impossible."""
        super().start()
        os.umask(0o022)
        try:
            where = places.find()
            places.make(where)
            if self.background == "yes":
                background.detach(where)
            self._log_to(where.log if self.background == "yes" else None)
            homes = own_homes()
            os.environ.setdefault("HOME", str(homes[0]))
            lock = lock_or_refuse(where)
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each sandbox takes some
            privileged = namespaces.enter()
            asyncio.run(self._run(where, None if privileged else homes, lock))
            os.close(lock)
        except SandboxError as error:
            self._fail(error)
        except OSError as error:
            self._fail(BrokerUnavailableError(f"the broker could not start: {error}"))

    def _fail(self, error: SandboxError) -> NoReturn:
        log.error("%s", error)
        background.report({"code": error.code, "message": str(error)})
        sys.exit(1)

    def _log_to(self, file: Path | None) -> None:
        handler: logging.Handler = logging.StreamHandler()
        if file is not None:
            handler = _PrivateLog(file, maxBytes=_LOG_BYTES, backupCount=1)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s"))
        root = logging.getLogger("jupyter_sandbox")
        root.addHandler(handler)
        root.setLevel(min(cast("int", self.log_level), logging.INFO))

    async def _run(self, where: places.Places, homes: tuple[Path, ...] | None, lock: int) -> None:
        """Everything between the lock and the exit; `homes` is None for root."""
        privileged = homes is None
        known = templates.load(Path(directory) for directory in self.template_directories)
        ledger = Ledger(where.ledger)
        stage = Stage(where.stage)
        disks: Disks = MemoryDisks(stage)
        if privileged:
            disks = LoopDisks(where.images, self.disk_reserve_mib, stage, percent=self.disk_percent)
        engine = await self._engine(where, ledger, known["python"], disks, privileged=privileged)
        mounter = Mounter(stage, homes=homes)
        firewall: Firewall = NoFirewall()
        if privileged:
            firewall = NftFirewall(instance=where.instance, pool=networks.pool(self.network_pool))
        registry = Registry(
            engine=engine,
            ledger=ledger,
            places=where,
            mounter=mounter,
            known_templates=known,
            firewall=firewall,
            admission=Admission(Marks(max_total=self.max_total, memory_percent=self.memory_percent)),
        )
        catalog = Catalog(
            known,
            store=TemplateStore(where.templates),
            ceiling=template_shape.ceiling(self.template_ceiling),
            pool=registry.pool,
            engine=engine,
        )
        await asyncio.to_thread(catalog.load)
        rest = functools.partial(catalog.rest, known["python"])
        stop = asyncio.Event()
        everything = False  # claimed sandboxes live on for the broker that comes next, whatever ends this one

        def on_interrupt() -> None:
            nonlocal everything
            everything = True
            stop.set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, on_interrupt)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        await engine.start()
        await registry.recover(self.recover_grace_s)
        await asyncio.to_thread(firewall.survey, known.values())
        registry.pool.want(known["python"])
        listener = channel.listen(where.socket, kind=socket.SOCK_SEQPACKET, mode=self.socket_mode)
        server = Server(listener, registry, engine, catalog)
        log.info(
            "broker %s serves with engine %s; %s",
            __version__,
            engine.name,
            "; ".join([*engine.notes(), *firewall.notes()]),
        )
        background.report({"serving": str(where.socket)})
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in {
                "server": server.serve(),
                "pool": registry.pool.run(),
                "upkeep": upkeep.keep_up(registry, rest=rest if self.idle_exit_s else None),
                "displaced": displaced(where, lock),
                "idle": self._wait_until_unneeded(server),
                "stop": stop.wait(),
            }.items()
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            if holds(where, lock):
                where.socket.unlink(missing_ok=True)
            listener.close()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await server.stop()
            await registry.stop(everything=everything)
            if everything:
                await upkeep.reap(registry)  # what could not end cleanly, on a busy machine, now can
            await asyncio.to_thread(firewall.stop)
            await engine.stop()
            log.info("broker ends")

    async def _engine(
        self, where: places.Places, ledger: Ledger, default: Template, disks: Disks, *, privileged: bool
    ) -> Engine:
        """Return the engine to use, not started; `auto` takes Docker's when its image is ready, if nothing lives."""
        wanted = recovery.engine_for(self.engine, ledger.records())
        if wanted == "auto":
            chosen = (self.docker_image, self.docker_runtime)
            unfit = await docker.unfit(*chosen) if privileged else "the broker is not root"
            if unfit:
                log.info("engine docker is not used: %s", unfit)
            wanted = "embedded" if unfit else "docker"
        if wanted == "docker" and not privileged:
            raise IsolationUnavailableError(
                "the engine `docker` needs a broker that runs as root: run one and name its socket to this user "
                "(docs/docker.md), or use the engine `embedded`"
            )
        if wanted == "docker":
            return docker.DockerEngine(
                places=where,
                ledger=ledger,
                disks=disks,
                uid_base=self.uid_base,
                image_name=self.docker_image,
                runtime=self.docker_runtime,
            )
        return EmbeddedEngine(
            places=where,
            ledger=ledger,
            disks=disks,
            hierarchy=cgroups.find(where.instance),
            uid_base=self.uid_base if privileged else None,
            default=default,
        )

    async def _wait_until_unneeded(self, server: Server) -> None:
        """Return when nobody needed the broker for `idle_exit_s`, or when it was asked to go and nobody is there."""
        while True:
            await server.idle.wait()
            idle_since = time.monotonic()
            while server.is_idle:
                waited = time.monotonic() - idle_since
                if server.is_retiring or 0 < self.idle_exit_s < waited:
                    return
                await asyncio.sleep(0.1 if waited < 2 else 1)
            server.idle.clear()


def own_homes() -> tuple[Path, ...]:
    """Return this user's home directories: by the environment and by the account."""
    found = {Path.home().resolve()}
    with contextlib.suppress(KeyError):
        found.add(Path(pwd.getpwuid(os.getuid()).pw_dir).resolve())
    return tuple(sorted(found))


def lock_or_refuse(where: places.Places) -> int:
    """Return a descriptor that holds the lock of this tree; raises BrokerUnavailableError when another has it."""
    descriptor = os.open(where.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BrokerUnavailableError("another broker is running already for this user and environment") from error
    return descriptor


def holds(where: places.Places, lock: int) -> bool:
    """Return whether the lock at its path is still ours, and so is everything else in this tree."""
    try:
        return os.path.samestat(where.lock.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


async def displaced(where: places.Places, lock: int) -> None:
    """Return when the tree was removed, and perhaps made anew for another broker: as when its user has logged out."""
    while holds(where, lock):  # noqa: ASYNC110 - what others remove has no event
        await asyncio.sleep(_DISPLACED_S)
    log.warning("the lock %s is not ours any more: this broker ends", where.lock)


def main(argv: list[str] | None = None) -> None:
    """Run the broker. Not by `launch_instance`: that makes an event loop first, which `detach` would tear apart."""
    app = BrokerApp.instance()
    with contextlib.suppress(NoStart):
        app.initialize(argv)
        app.start()
