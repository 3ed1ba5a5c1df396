"""The languages that a server offers: the kernelspecs of those for which its broker's workers have kernels.

Jupyter offers every kernelspec that lies where it looks, whether its kernel can start or not. So only Python's is
installed there; those of other languages come with this package, each in a directory of its own, and a server looks
there only as long as its broker says that workers have the kernel. It knows no HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_sandbox import kernel_specs
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.languages import PYTHON, TABLE

if TYPE_CHECKING:
    from collections.abc import Collection

_DIRECTORIES = {language.name: str(language.directory) for language in TABLE if language.name != PYTHON}


class OfferedLanguages:
    """Those of one server."""

    def __init__(self, spec_manager: Any) -> None:
        """`spec_manager`: the server's kernelspecs; what it finds already is offered as it is."""
        self._spec_manager = spec_manager

    def offer(self, names: Collection[str]) -> None:
        """Offer these languages, and Python, and no others of ours."""
        kept = [each for each in self._spec_manager.kernel_dirs if each not in _DIRECTORIES.values()]
        shown = [directory for name, directory in _DIRECTORIES.items() if name in names]
        self._spec_manager.kernel_dirs = [*kept, *shown]

    async def look(self) -> None:
        """Offer those for which workers have kernels now; raises SandboxError."""
        self.offer((await client.call(verbs.Status(), verbs.StatusReport)).languages)

    async def kernel_name(self, language: str, template: str) -> str | None:
        """Return the kernelspec for a language, or None when workers have none; raises SandboxError.

        One of this template if there is one, else the first by name. What has been installed since is found.
        """
        name = self._find(language, template)
        if name is None and language in _DIRECTORIES:
            await self.look()
            name = self._find(language, template)
        return name

    def _find(self, language: str, template: str) -> str | None:
        fitting: list[tuple[bool, str]] = []
        for name, entry in sorted(self._spec_manager.get_all_specs().items()):
            spec = entry["spec"]
            needs_directory = any("{resource_dir}" in argument for argument in spec["argv"])
            if spec["language"] == language and kernel_specs.is_ours(spec.get("metadata")) and not needs_directory:
                stanza = spec["metadata"]["kernel_provisioner"].get("config", {})
                fitting.append((stanza.get("template", "python") != template, name))
        return min(fitting)[1] if fitting else None
