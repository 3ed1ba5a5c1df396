"""Races between a sandbox that swaps names as fast as it can and the host's file operations: how many leak?

A leak is a byte of a file outside the disk that a read returned, or anything that appeared, vanished or changed outside.
`python -m tests.attacks.races 1000000` does so many tries, as root, against both kinds of broker, a line for each kind of swap,
and exits with 1 if one leaked; the tests do fewer.

No hard link can lead out of a disk: it is a file system of its own, with the files of one sandbox, and links do not cross
file systems (`test_a_file_of_another_file_system_cannot_be_linked_onto_the_disk`). So the swap `hard link` cannot leak by
a guard that is missing. It tries to link what is outside all the same, and races the host with names that become links
to the sandbox's own files; the swaps that would leak without guards are those with symlinks.
"""

from __future__ import annotations

import json
import os
import sys
import time

from tests.attacks import attacker

SECRET = "s3cret-outside-the-disk"

SWAPS = {
    "symlink": """
        os.rename(own('link', os.symlink, outside + '/secret'), 'swap')
        os.rename(own('file', make), 'swap')
        attempt(os.rename, 'place', 'real'); attempt(os.symlink, outside, 'place')
        attempt(os.unlink, 'place'); attempt(os.rename, 'real', 'place'); attempt(make, 'place/secret')
    """,
    "exchange": """
        exchange('swap', 'swap2'); exchange('place', 'place2'); attempt(make, 'real/secret')
        attempt(os.rename, 'swap', 'real/swap'); exchange('swap2', 'real/swap'); attempt(os.rename, 'real/swap', 'swap')
    """,
    "hard link": """
        attempt(os.unlink, 'swap'); attempt(os.link, '/etc/passwd', 'swap'); attempt(os.link, '/tmp/other', 'swap')
        attempt(os.link, 'kept', 'swap'); attempt(os.unlink, 'place/secret'); attempt(os.link, 'kept', 'place/secret')
    """,
    "vanish": """
        attempt(os.unlink, 'place/secret'); attempt(os.rmdir, 'place/new'); attempt(os.rmdir, 'place')
        attempt(os.mkdir, 'place'); attempt(make, 'place/secret'); attempt(os.unlink, 'swap'); attempt(make, 'swap')
        attempt(os.rename, 'place', own('away')); attempt(os.rename, own('away'), 'place')
    """,
    "fifo": """
        os.rename(own('fifo', os.mkfifo), 'swap'); os.rename(own('file', make), 'swap')
        os.rename(own('fifo', os.mkfifo), 'place/secret'); os.rename(own('file', make), 'place/secret')
    """,
}
"""What one turn of the sandbox's loop does; `swap` and `place/secret` are what the host asks for."""

INSIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
outside, number = sys.argv[1], sys.argv[2]
os.chdir('/sandbox')
def attempt(function, *arguments):
    try: function(*arguments)
    except OSError: pass
def make(path, text='inside'):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK), 'w') as file: file.write(text)
def own(name, function=None, *arguments):
    name = f'.{name}{number}'
    attempt(os.unlink, name)
    if function: attempt(function, *arguments, name)
    return name
def exchange(one, other):
    libc.syscall(316 if os.uname().machine == 'x86_64' else 276, -100, one.encode(), -100, other.encode(), 2)
attempt(os.mkdir, 'place'); attempt(make, 'place/secret'); attempt(make, 'swap'); attempt(make, 'kept')
attempt(os.symlink, outside + '/secret', 'swap2'); attempt(os.symlink, outside, 'place2'); attempt(make, '/tmp/other', 'outside')
print('ready', flush=True)
def turn():
%s
while True:
    attempt(turn)
"""

HOST = """
import collections, itertools, json, os
from jupyter_sandbox.host import beneath
from jupyter_sandbox.host.deletion import deletion
from jupyter_sandbox.errors import SandboxError
view = beneath.View(sandbox=box.id, directory=box.disk())
def read(*names):
    descriptor, entry = beneath.open_file(view, names)
    try: return beneath.read(view, names, descriptor, min(entry.size_bytes, 100), 0).decode()
    finally: os.close(descriptor)
def write(*names):
    draft = beneath.Draft(view, names)
    try:
        draft.write(b'inside')
        draft.publish(replace=True)
    finally: draft.close()
    return 'wrote'
def delete(*names):
    for _ in deletion(view, names, recursive=True): pass
    return 'deleted'
def names(*path):
    return ' '.join(entry.name for entry in beneath.listing(view, path, after='', limit=100)[0])
def move(*path):
    beneath.move(view, path, ('.moved',), replace=True)
    return 'moved'
def make(*path):
    beneath.make_directory(view, path, parents=False)
    return 'made'
reads = [(read, ('swap',)), (read, ('place', 'secret'))] * 8 + [(names, ('place',))]
writes = [(write, ('swap',)), (write, ('place', 'secret')), (make, ('place', 'new')), (delete, ('place', 'deep'))]
writes += [(move, ('place', 'secret')), (delete, ('place', 'secret'))]
seen = collections.Counter()
for operation, path in itertools.islice(itertools.cycle(reads * 3 + writes), tries):
    try: answer = operation(*path)
    except SandboxError as error:
        answer = error.code
        seen[f'{operation.__name__}: {answer}'] += 1
        continue
    foreign = 'deep' in answer.split() if operation is names else operation is read and answer not in ('inside', '')
    seen['LEAK' if foreign else f'{operation.__name__}: ' + ('' if operation is names else answer)] += 1
os.close(view.directory)
result = dict(seen)
"""


def race(host: attacker.Host, swap: str, tries: int) -> dict[str, int]:
    """Let a sandbox swap and the host try so often; return what the tries ended with, and what happened outside."""
    outside = host.directory / f"outside-{time.monotonic_ns()}"
    host.run(
        "os.makedirs(path + '/deep'); open(path + '/secret', 'w').write(secret); open(path + '/deep/file', 'w').close()",
        path=str(outside),
        secret=SECRET,
    )
    turn = "\n".join("    " + line.strip() for line in SWAPS[swap].strip().splitlines())
    box = host.sandbox("tiny")
    try:
        box.execute(f"write('/sandbox/racer.py', {INSIDE % turn!r})")
        start = (
            "racers = [subprocess.Popen([sys.executable, '/sandbox/racer.py', {!r}, str(i)], stdout=subprocess.PIPE)"
            " for i in range(2)]\ntell([racer.stdout.readline().decode() for racer in racers])"
        )
        assert box.probe(start.format(str(outside))) == ["ready\n"] * 2
        seen = host.run(f"box = SANDBOXES[number]\n{HOST}", number=box.number, tries=tries)
        assert box.ask("[racer.poll() for racer in racers]") == [None, None], "the sandbox raced all the time"
    finally:
        box.release()
    found = sorted(str(path.relative_to(outside)) for path in outside.rglob("*"))
    if found != ["deep", "deep/file", "secret"] or (outside / "secret").read_text() != SECRET:
        seen["LEAK outside"] = seen.get("LEAK outside", 0) + 1
    return seen


def main() -> None:
    tries = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    os.environ.setdefault("JUPYTER_SANDBOX_ENGINE", "embedded")
    total = leaks = 0
    for uid in (0, attacker.USER):
        with attacker.running_host(uid) as host:
            for swap in SWAPS:
                began = time.monotonic()
                seen = race(host, swap, tries // (2 * len(SWAPS)) + 1)
                total += sum(seen.values())
                leaks += sum(count for name, count in seen.items() if name.startswith("LEAK"))
                row = {
                    "uid": uid,
                    "swap": swap,
                    "tries": sum(seen.values()),
                    "seconds": round(time.monotonic() - began, 1),
                }
                row |= seen
                print(json.dumps(row), flush=True)
    print(f"{leaks} leaks in {total} tries")
    sys.exit(1 if leaks else 0)


if __name__ == "__main__":
    main()
