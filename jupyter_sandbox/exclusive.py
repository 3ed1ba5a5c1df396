"""Exclusive mode: judge whether a server's configuration leaves a way round the sandbox. Pure, but for reading the server's traits.

Stock Jupyter always offers native kernels and terminals to whoever may log in. With `SandboxExtension.exclusive` the extension
refuses to start while one of these is open; each finding names the setting that closes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

PROVISIONER: Final = "sandbox-provisioner"


def findings(server: Any) -> list[str]:
    """Return what `server`, a ServerApp after its initialization, leaves open; empty when nothing."""
    return [*_kernels(server), *_terminals(server), *_conversions(server), *_extensions(server)]


def provisioner_of(spec: Mapping[str, Any]) -> str | None:
    """Return the provisioner that a kernelspec's metadata names."""
    stanza = spec.get("metadata", {}).get("kernel_provisioner") or {}
    name = stanza.get("provisioner_name")
    return str(name) if name else None


def _kernels(server: Any) -> Iterator[str]:
    manager = server.kernel_spec_manager
    if manager.ensure_native_kernel:
        yield "native kernels: set c.KernelSpecManager.ensure_native_kernel = False"
    for name, entry in manager.get_all_specs().items():
        if provisioner_of(entry["spec"]) != PROVISIONER:
            yield (
                f"kernel {name!r} runs outside the sandbox: list only sandbox kernels in "
                "c.KernelSpecManager.allowed_kernelspecs"
            )
    default = server.kernel_manager.default_kernel_name
    if default not in manager.get_all_specs():
        yield f"the default kernel {default!r} is none of ours: set c.MultiKernelManager.default_kernel_name"
    if server.gateway_config.gateway_enabled:
        yield "a gateway runs kernels elsewhere: unset c.GatewayClient.url"


def _terminals(server: Any) -> Iterator[str]:
    if server.terminals_enabled or _enabled(server, "jupyter_server_terminals"):
        yield "terminals: set c.ServerApp.terminals_enabled = False and disable the extension jupyter_server_terminals"


def _conversions(server: Any) -> Iterator[str]:
    if "nbconvert" in server.default_services:
        yield "server-side nbconvert runs code of a notebook's template: leave `nbconvert` out of c.ServerApp.default_services"


def _extensions(server: Any) -> Iterator[str]:
    if server.allow_root and not server.password_required and not server.identity_provider.token:
        yield "anybody may log in to a server that runs as root: set a token or a password"


def _enabled(server: Any, name: str) -> bool:
    return bool(server.extension_manager.extensions.get(name) and server.extension_manager.extensions[name].enabled)
