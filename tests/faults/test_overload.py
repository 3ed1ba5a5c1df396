"""More is asked for than there is: who is refused is told at once and when to come again, nobody gets another's."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import os
import subprocess
import sys
import time

import pytest

from jupyter_sandbox.broker import client
from jupyter_sandbox.errors import CapacityError, DiskSpaceError, StartError, TemplateFailingError
from tests.conftest import eventually

from .conftest import Tree, claim, listed, status, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(180)]

CAPACITY = 20
CLAIMS = 500
FEW = f"min_idle = 2\nmax_total = {CAPACITY}\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n"
CLI = (sys.executable, "-P", "-m", "jupyter_sandbox.cli")
ALICE, BOB = "a" * 16, "b" * 16


async def _gone() -> bool:
    return await listed() == []


async def _warm(template: str, number: int) -> bool:
    return next(row for row in (await status()).workers if row.name == template).warm == number


@pytest.mark.slow
async def test_five_hundred_claims_of_twenty_places_give_twenty_sandboxes_and_480_refusals(tree):
    tree.template("few", FEW)
    tree.start()
    first = await claim("few")  # the pool begins to fill, which must cost nobody a place
    answers = await asyncio.gather(*(claim("few") for _ in range(CLAIMS)), return_exceptions=True)
    got = [first, *(answer for answer in answers if isinstance(answer, client.Lease))]
    refused = [answer for answer in answers if not isinstance(answer, client.Lease)]
    assert {type(answer) for answer in refused} == {CapacityError}
    assert {answer.retry_after_s for answer in refused} == {5}
    assert len({lease.sandbox for lease in got}) == CAPACITY == len(got), "each of them once"
    assert sorted(lease.sandbox for lease in got) == await listed()
    began = time.monotonic()
    with pytest.raises(CapacityError):
        await claim("few")
    print(f"a refusal of a full template took {time.monotonic() - began:.3f} s")
    for lease in got:
        lease.close()
    await until(_gone)
    await until(lambda: _warm("few", 2), 30)
    await eventually(lambda: len(tree.records()) == 3)  # one of `python`


async def test_the_number_of_all_workers_is_a_limit_of_all_templates(tree):
    tree.template("few", FEW.replace("min_idle = 2", "min_idle = 0"))
    tree.configure(max_total=3)
    tree.start()
    await until(lambda: _warm("python", 1))
    leases = [await claim("few"), await claim("few")]
    with pytest.raises(CapacityError, match="all 3 sandboxes that may exist"):
        await claim("few")
    leases.append(await claim("python"))
    for lease in leases:
        lease.close()
    await until(_gone)
    await until(lambda: _warm("python", 1), 30)


async def test_a_host_whose_memory_is_at_its_mark_makes_no_sandbox_and_says_so(tree):
    tree.configure(memory_percent=1)
    tree.start()
    with pytest.raises(CapacityError, match="1 % of the host's memory is in use") as refused:
        await claim("python")
    assert (refused.value.status, refused.value.retry_after_s) == (503, 5)
    assert await listed() == []
    await eventually(lambda: tree.records() == {})


async def test_places_that_are_freed_go_to_who_holds_fewer(tree):
    tree.template("few", FEW.replace("min_idle = 2", "min_idle = 0").replace(f"= {CAPACITY}", "= 4"))
    tree.start()
    rich = [await claim("few", ALICE) for _ in range(4)]
    with pytest.raises(CapacityError):
        await claim("few", BOB)
    rich.pop().close()
    await until(lambda: _number(3))
    with pytest.raises(CapacityError, match="for others"):
        await claim("few", ALICE)
    poor = await claim("few", BOB)
    for lease in [*rich, poor]:
        lease.close()


async def _number(number: int) -> bool:
    now = await status()
    return sum(row.total for row in now.workers if row.name == "few") == number


async def test_a_template_whose_workers_do_not_start_is_told_and_heals(tree):
    tree.template("broken", "min_idle = 0\n[limits]\ndisk_mib = 1\ndisk_inodes = 1000000\n")
    tree.start()
    codes: collections.Counter[type] = collections.Counter()
    for _ in range(6):
        with pytest.raises((StartError, TemplateFailingError)) as refused:
            await claim("broken")
        codes[refused.type] += 1
    assert codes[TemplateFailingError] >= 1
    assert codes[StartError] >= 3
    (row,) = [row for row in (await status()).workers if row.name == "broken"]
    assert row.starts in {"open", "half_open"}
    (await claim("python")).close()
    done = await asyncio.to_thread(subprocess.run, [*CLI, "status"], capture_output=True, text=True, check=True)
    assert "template broken: its sandboxes do not start" in done.stdout


@pytest.fixture
def small_host(tree: Tree):
    """Images lie on a file system of 400 MiB of their own: a disk of the host that can be filled."""
    image, images = tree.directory / "host.img", tree.directory / "images"
    images.mkdir()
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 400 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(images)], check=True)
    images.chmod(0o700)
    yield images
    tree.close_brokers()
    subprocess.run(["umount", str(images)], check=True)


FILL = """
import hashlib, os, sys
digest, size = hashlib.sha256(), 0
with open("/sandbox/full", "wb", buffering=0) as file:
    try:
        while True:
            block = os.urandom(1 << 16)
            written = file.write(block)
            digest.update(block[:written]); size += written
    except OSError as error:
        print(error.errno)
    os.fsync(file.fileno())
print(digest.hexdigest(), size)
"""


async def test_on_a_host_whose_disk_is_full_claims_are_refused_and_no_byte_is_lost(tree, small_host):
    tree.template("disk", "min_idle = 0\n[limits]\ndisk_mib = 60\ndisk_inodes = 1024\n")
    tree.template("python", "min_idle = 0\n[limits]\ndisk_mib = 60\n")
    tree.configure(disk_reserve_mib=0)
    tree.start()
    leases = []
    with pytest.raises(DiskSpaceError) as refused:
        while True:
            leases.append(await claim("disk"))
    assert refused.value.retry_after_s == 5
    assert 3 <= len(leases) <= 6
    space = os.statvfs(small_host)
    used = space.f_blocks - space.f_bfree
    assert used / (used + space.f_bavail) <= 0.95
    with (small_host / "ballast").open("wb", buffering=0) as ballast:
        for block in (1 << 20, 1 << 10):
            with contextlib.suppress(OSError):
                while ballast.write(bytes(block)) == block:
                    pass  # until there is no room at all
        os.fsync(ballast.fileno())
    assert os.statvfs(small_host).f_bavail == 0
    told = {}
    for lease in leases:  # every sandbox fills its disk, while the host has no block for it but those it has
        error, digest, size = (await output_of(lease.sandbox, FILL)).split()
        assert error == "28"
        assert int(size) > 40 << 20, "all of the disk"
        told[lease.sandbox] = digest, int(size)
    assert os.statvfs(small_host).f_bavail == 0
    for lease in leases:
        assert await content_of(lease.sandbox) == told[lease.sandbox]
        lease.close()
    await until(_gone)


async def output_of(sandbox: str, code: str) -> str:
    """What a program says that runs in a sandbox."""
    arguments = [*CLI, "exec", sandbox, "--", "python3", "-c", code]
    done = await asyncio.to_thread(subprocess.run, arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def content_of(sandbox: str) -> tuple[str, int]:
    """What the host reads of the file, from the disk and not from memory."""
    view = await client.open_disk(sandbox)
    try:
        os.sync()
        descriptor = os.open("full", os.O_RDONLY, dir_fd=view)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            digest, size = hashlib.sha256(), 0
            while block := os.read(descriptor, 1 << 20):
                digest.update(block)
                size += len(block)
        finally:
            os.close(descriptor)
    finally:
        os.close(view)
    return digest.hexdigest(), size
