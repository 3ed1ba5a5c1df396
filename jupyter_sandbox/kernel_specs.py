"""A kernelspec manager that knows sandbox kernels only, for exclusive mode.

Jupyter's own lists of allowed kernelspecs filter what is *shown*; whoever knows another name can still start it.
This one refuses the name, so that every way to a kernel (REST, sessions, restart) is closed at once.
"""

from __future__ import annotations

from typing import Any, Final

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from tornado import web
from traitlets import Bool

PROVISIONER: Final = "sandbox-provisioner"


def is_ours(metadata: Any) -> bool:
    """Whether a kernelspec with this metadata runs its kernels in sandboxes."""
    stanza = metadata.get("kernel_provisioner") if isinstance(metadata, dict) else None
    return isinstance(stanza, dict) and stanza.get("provisioner_name") == PROVISIONER


class NotASandboxError(NoSuchKernel, web.HTTPError):
    """The kernelspec does not exist, or its kernels would run outside sandboxes; a server answers 404."""

    def __init__(self, name: str) -> None:
        """`name`: the kernelspec that was asked for."""
        NoSuchKernel.__init__(self, name)
        message = f"no sandbox kernel {name[:60]!r}; this server runs code in sandboxes only"
        web.HTTPError.__init__(self, 404, message, reason="No such sandbox kernel")


class SandboxKernelSpecManager(KernelSpecManager):
    """See the module."""

    ensure_native_kernel = Bool(default_value=False, help="Never: a native kernel is no sandbox.")

    def find_kernel_specs(self) -> dict[str, str]:
        """Return the directories of our kernelspecs by name."""
        found: dict[str, str] = super().find_kernel_specs()
        return {name: directory for name, directory in found.items() if self._spec(name)}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return one of our kernelspecs; raises NotASandboxError for every other."""
        spec = self._spec(kernel_name)
        if spec is None:
            raise NotASandboxError(kernel_name)
        return spec

    def get_all_specs(self) -> dict[str, Any]:
        """Return our kernelspecs with their directories."""
        every: dict[str, Any] = super().get_all_specs()
        return {name: entry for name, entry in every.items() if is_ours(entry["spec"].get("metadata"))}

    def _spec(self, kernel_name: str) -> KernelSpec | None:
        try:
            spec: KernelSpec = super().get_kernel_spec(kernel_name)
        except NoSuchKernel:
            return None
        return spec if is_ours(spec.metadata) else None
