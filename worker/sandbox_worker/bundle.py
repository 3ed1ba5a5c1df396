"""The code of many modules in one file: to find and read four hundred by themselves takes a container 25 ms more.

Written when the image is built and used while a container starts. A module that is loaded from here looks as if it had
been imported from its own file, and comes from there when that file is another one than when this was written: who
derives an image may have installed another version.
"""

from __future__ import annotations

import contextlib
import marshal  # noqa: TID251 - what the image holds, written and read in containers only
import os
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import CodeType, ModuleType

OF_THE_IMAGE: Final = f"{sys.prefix}/share/jupyter-sandbox/modules"

_HEADER_BYTES: Final = 16
"""Of a byte code file (PEP 552): magic number, flags, then the source's time of change and size, four bytes each."""
_LENGTH_BYTES: Final = 8
_BY_TIME: Final = bytes(4)


def write(path: str, names: Iterable[str]) -> None:
    """Write to `path` the code of those of `names` that were imported from Python files."""
    index, codes, start = {}, [], 0
    for name in names:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is None or spec.name != name or type(spec.loader) is not SourceFileLoader or not spec.cached:
            continue
        with contextlib.suppress(OSError), open(spec.cached, "rb") as file:
            header, code = file.read(_HEADER_BYTES), file.read()
            if header[4:8] == _BY_TIME:
                is_package = spec.submodule_search_locations is not None
                index[name] = (spec.origin, is_package, header[8:], start, len(code))
                codes.append(code)
                start += len(code)
    described = marshal.dumps(index)
    with open(path, "wb") as file:
        file.writelines((len(described).to_bytes(_LENGTH_BYTES, "little"), described, *codes))


@contextlib.contextmanager
def used(path: str) -> Iterator[list[str]]:
    """Import from the file at `path` meanwhile; yields the names of its modules, none if there is no such file."""
    try:
        with open(path, "rb") as file:
            data = memoryview(file.read())
    except FileNotFoundError:
        yield []
        return
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    finder: Any = _Finder(marshal.loads(data[_LENGTH_BYTES:end]), data[end:])  # noqa: S302 - a file of the image
    sys.meta_path.insert(-1, finder)  # built-in and frozen modules first, as ever
    try:
        yield list(finder.index)
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """Finds what is in the file."""

    def __init__(self, index: dict[str, tuple[str, bool, bytes, int, int]], codes: memoryview) -> None:
        self.index = index
        self._codes = codes

    def find_spec(self, name: str, _path: Sequence[str] | None = None, _target: object = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name not in self.index:
            return None
        origin, is_package, stamp, start, length = self.index[name]
        try:
            status = os.stat(origin)
        except OSError:
            return None
        if stamp != _stamp(status):
            return None
        loader = _Loader(name, origin, self._codes[start : start + length])
        spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(os.path.dirname(origin))
        return spec


class _Loader(SourceFileLoader):
    """Runs the code that was found, and leaves no trace of itself."""

    def __init__(self, name: str, origin: str, code: memoryview) -> None:
        super().__init__(name, origin)
        self._code = code

    def get_code(self, _name: str) -> CodeType | None:
        """See importlib.abc.InspectLoader."""
        code: CodeType = marshal.loads(self._code)  # noqa: S302 - a file of the image
        return code

    def exec_module(self, module: ModuleType) -> None:
        """See importlib.abc.Loader."""
        usual = SourceFileLoader(self.name, self.path)
        module.__loader__ = usual
        if module.__spec__ is not None:
            module.__spec__.loader = usual
        super().exec_module(module)


def _stamp(source: os.stat_result) -> bytes:
    changed, size = int(source.st_mtime) & 0xFFFFFFFF, source.st_size & 0xFFFFFFFF
    return changed.to_bytes(4, "little") + size.to_bytes(4, "little")
