"""Empty ext4 file systems, made once for each shape and then only copied: what mke2fs(8) writes is a few blocks."""

from __future__ import annotations

import errno
import functools
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.host import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK: Final = 4096
MOUNT_OPTIONS: Final[dict[str, str | None]] = {
    "errors": "remount-ro",
    "nobarrier": None,
    "noinit_itable": None,
}
"""A disk does not outlive the host, so nothing of it is flushed to the host's: who calls fsync all day makes nobody
else wait. And its new inode tables are zeros already. See ext4(5)."""


@functools.lru_cache(maxsize=16)
def blank(size_mib: int, inodes: int) -> tuple[tuple[int, bytes], ...]:
    """Return an empty file system of this shape as pieces with their offsets, in bytes; all the rest must be zeros.

    Blocking for milliseconds, the first time. Raises StartError when mkfs.ext4 is missing or refuses. Copies share
    their UUID and hash seed.
    """
    image = os.memfd_create("blank")
    try:
        os.ftruncate(image, size_mib << 20)
        shape = ["-b", str(BLOCK), "-N", str(inodes), "-m", "0", "-O", "^has_journal,^resize_inode"]
        command = ["mkfs.ext4", "-q", "-F", *shape, "-E", "lazy_itable_init=1,nodiscard", f"/proc/self/fd/{image}"]
        processes.run(command, pass_fds=[image])
        return tuple((start, os.pread(image, end - start, start)) for start, end in _written(image))
    finally:
        os.close(image)


def write_blank(device: int, size_mib: int, inodes: int) -> None:
    """Write an empty file system to a device of zeros. Raises StartError and OSError."""
    for offset, piece in blank(size_mib, inodes):
        os.pwrite(device, piece, offset)


def _written(image: int) -> Iterator[tuple[int, int]]:
    """Yield where data begins and ends in a sparse file."""
    end = 0
    while True:
        try:
            start = os.lseek(image, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(image, start, os.SEEK_HOLE)
        yield start, end
