"""The two ways to start a kernel that are compared."""

from enum import StrEnum


class Provisioner(StrEnum):
    """A side of the comparison."""

    LOCAL = "local"
    SANDBOX = "sandbox"

    @property
    def entry_point(self) -> str:
        """Its name in the entry point group `jupyter_client.kernel_provisioners`."""
        return {Provisioner.LOCAL: "local-provisioner", Provisioner.SANDBOX: "sandbox-provisioner"}[self]

    @property
    def kernel_name(self) -> str:
        """The kernelspec that stands for it, where a kernel is asked for by name."""
        return {Provisioner.LOCAL: "python3", Provisioner.SANDBOX: "sandbox-python"}[self]
