"""One small program for each language, and what its kernel is to say."""

from __future__ import annotations

import os
from dataclasses import dataclass

import docker

from jupyter_sandbox import image_build, languages
from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.engines import daemon, host_languages, image


@dataclass(frozen=True, kw_only=True)
class Program:
    """`says`: what `asks` returns as an output of type `returned`, or prints where nothing has a value.

    `fails` ends with an error named `error`, whose traceback says `traced`.
    """

    keeps: str
    asks: str
    says: str = "42"
    returned: str = "execute_result"
    prints: str
    fails: str
    error: str
    traced: str = "boom"
    endless: str
    variable: str
    """Returns or prints the variable ONCE of the environment."""


_DENO = Program(
    keeps="let x = 41",
    asks="x + 1",
    prints="console.log('hello')",
    fails="function deep() { throw new TypeError('boom') }\ndeep()",
    error="TypeError",
    endless="while (true) {}",
    variable="Deno.env.get('ONCE')",
)

PROGRAMS = {
    "python": Program(
        keeps="x = 41",
        asks="x + 1",
        prints="print('hello')",
        fails="def deep(): raise TypeError('boom')\ndeep()",
        error="TypeError",
        endless="while True: pass",
        variable="import os; os.environ.get('ONCE')",
    ),
    "javascript": _DENO,
    "typescript": Program(**vars(_DENO) | {"keeps": "let x: number = 41; interface Of { a: string }"}),
    "r": Program(
        keeps="x <- 41",
        asks="x + 1",
        says="[1] 42",
        returned="display_data",
        prints="cat('hello\\n')",
        fails="deep <- function() stop('boom'); deep()",
        error="ERROR",
        traced="deep(): boom",
        endless="while (TRUE) {}",
        variable="Sys.getenv('ONCE')",
    ),
    "java": Program(
        keeps="int x = 41;",
        asks="x + 1",
        prints='System.out.println("hello");',
        fails='throw new IllegalStateException("boom");',
        error="RuntimeException",
        traced="IllegalStateException: boom",
        endless="while (true) {}",
        variable='System.getProperty("ONCE")',
    ),
    "bash": Program(
        keeps="x=41",
        asks="echo $((x + 1))",
        returned="stream",
        prints="echo hello",
        fails="ls /missing",
        error="ExitStatus",
        traced="ExitStatus: 2",
        endless="while :; do :; done",
        variable="echo $ONCE",
    ),
}


IMAGE = image_build.tag(image_build.Plan(languages=languages.NAMES))
"""For the engine `docker`; CI makes it."""


def spoken() -> tuple[str, ...]:
    """The languages that workers of the engine under test have kernels for."""
    if os.environ[ENGINE_VARIABLE] == "embedded":
        return host_languages.of_this_host()
    client = docker.APIClient(base_url=daemon.address(), timeout=10)
    try:
        return image.languages(client.inspect_image(IMAGE)["Config"]["Labels"])
    finally:
        client.close()
