"""RAGFlow's words: what is accepted, what an end of a command is called, what is an artifact, how an answer is put together."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jupyter_sandbox import errors
from jupyter_sandbox.command import CommandEnd, CommandState, CommandView
from jupyter_sandbox.command_output import Piece, Stream
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.events import CommandOutcome
from jupyter_sandbox.host.beneath import Entry, Kind
from jupyter_sandbox.surfaces.ragflow import artifacts, models, programs
from jupyter_sandbox.surfaces.ragflow.artifacts import Artifact
from jupyter_sandbox.surfaces.ragflow.models import Outcome, Status
from jupyter_sandbox.surfaces.ragflow.programs import Language, Program
from tests.server.ragflow import FIELDS, body_of

pytestmark = pytest.mark.unit


def view(end: CommandEnd | None, stdout: bytes = b"", stderr: bytes = b"", offset: int = 0) -> CommandView:
    return CommandView(
        id="cmd_" + "0" * 20,
        sandbox_id="sbx_" + "0" * 20,
        pid=2,
        wanted=programs.command(Language.PYTHON, 10),
        state=CommandState.ENDED,
        end=end,
        started_at=datetime.now(UTC),
        ended_at=datetime.now(UTC),
        duration_s=0.5,
        kept={
            Stream.STDOUT: Piece(stream=Stream.STDOUT, offset=offset, data=stdout),
            Stream.STDERR: Piece(stream=Stream.STDERR, offset=0, data=stderr),
        },
        written={},
    )


def ended(outcome: str, **how) -> CommandEnd:
    return CommandEnd(outcome=CommandOutcome(outcome), **how)


KILLED = {"signal": "SIGKILL", "message": "It needed more."}
FAILED = ended("error", exit_code=1)


@pytest.mark.parametrize(
    ("end", "stderr", "expected", "said"),
    [
        (ended("ok", exit_code=0), b"", (Status.SUCCESS, 0, None), ""),
        (FAILED, b"x", (Status.PROGRAM_ERROR, 1, "nonzero_exit"), "x"),
        (ended("error", exit_code=124), b"", (Status.PROGRAM_ERROR, 124, "nonzero_exit"), ""),
        (FAILED, b"[Errno 13] Permission denied: 'x'", (Status.UNAUTHORIZED_ACCESS, 1, "file_access"), "[Errno 13]"),
        (FAILED, b"Operation not permitted", (Status.UNAUTHORIZED_ACCESS, 1, "disallowed_syscall"), "Operation"),
        (ended("ok", exit_code=0), b"Permission denied", (Status.SUCCESS, 0, None), "Permission denied"),
        (
            ended("timeout", signal="SIGKILL"),
            b"a",
            (Status.RESOURCE_LIMIT_EXCEEDED, -124, "time"),
            "a\nExecution timeout",
        ),
        (
            ended("signalled", is_out_of_memory=True, **KILLED),
            b"a\n",
            (Status.RESOURCE_LIMIT_EXCEEDED, -137, "memory"),
            "a\nMemory limit exceeded. It needed more.\n",
        ),
        (
            ended("error", exit_code=137),
            b"",
            (Status.RESOURCE_LIMIT_EXCEEDED, -137, "memory"),
            "Memory limit exceeded.\n",
        ),
        (
            ended("signalled", **KILLED),
            b"",
            (Status.RUNTIME_ERROR, 137, "signalled"),
            "The program was ended by SIGKILL.\n",
        ),
        (ended("signalled", signal="SIG63"), b"", (Status.RUNTIME_ERROR, 191, "signalled"), "ended by SIG63"),
        (ended("died", message="Gone."), b"", (Status.PROGRAM_RUNNER_ERROR, -3, None), "The run broke off. Gone.\n"),
        (None, b"", (Status.PROGRAM_RUNNER_ERROR, -3, None), "The run broke off.\n"),
    ],
)
def test_an_end_is_called_as_ragflow_calls_it(end, stderr, expected, said):
    told = models.outcome(view(end, b"out", stderr), timeout_s=10)
    kinds = {told.resource_limit_type, told.unauthorized_access_type, told.runtime_error_type} - {None}
    assert (told.status, told.exit_code, kinds.pop() if kinds else None) == expected
    assert not kinds
    assert said in told.stderr
    assert (told.stdout, told.time_used_ms, told.result) == ("out", 500, None)
    assert (told.detail is not None) == (told.status is Status.PROGRAM_RUNNER_ERROR)


def test_output_is_text_in_any_case_and_says_what_is_missing():
    told = models.outcome(view(ended("ok", exit_code=0), b"\xffa", offset=7), 10)
    assert told.stdout == "[7 bytes of stdout are left out; the last 2 are here]\n\ufffda"


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.RateError, -429),
        (errors.QuotaError, -10),
        (errors.CapacityError, -10),
        (errors.DiskSpaceError, -10),
        (errors.BusyError, -10),
        (errors.ProgramMissingError, -999),
        (errors.StartError, -3),
        (errors.BrokerUnavailableError, -3),
        (errors.SandboxError, -3),
    ],
)
def test_what_was_not_run_is_told_with_its_code(error, exit_code):
    told = models.not_run(error("words"))
    assert (told.status, told.exit_code, told.detail, told.stderr) == (
        *(Status.PROGRAM_RUNNER_ERROR, exit_code, error.code, "words"),
    )


# -- requests


def test_a_request_is_judged():
    assert models.program(json.dumps(body_of("ü", "nodejs", a=[1])).encode()) == Program(
        language=Language.NODEJS, code="ü", arguments={"a": [1]}
    )
    assert models.program(b'{"code_b64": "", "arguments": null, "base_image": "x"}') == Program(
        language=Language.PYTHON, code="", arguments={}
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"1",
        b"{}",
        b'{"code_b64": 1}',
        b'{"code_b64": "a"}',
        b'{"code_b64": "/w=="}',
        b'{"code_b64": "", "language": 1}',
        b'{"code_b64": "", "language": "javascript"}',
        b'{"code_b64": "", "arguments": []}',
        b"[" * 1_000,
    ],
)
def test_what_is_no_request_is_refused(body):
    with pytest.raises(InvalidRequestError):
        models.program(body)


# -- programs


def test_a_program_is_brought_with_its_arguments():
    program = Program(language=Language.PYTHON, code="ü", arguments={"a": "\ud800"})
    assert programs.files(program) == {
        "/sandbox/run/main.py": "ü".encode(),
        "/sandbox/run/args.json": b'{"a": "\\ud800"}',
    }
    script = programs.files(replace(program, language=Language.NODEJS, code="// end"))["/sandbox/run/main.js"]
    assert script.startswith(b"// end\n")
    assert b"module.exports = { main }" in script


@pytest.mark.parametrize("language", Language)
def test_the_runner_fits_into_a_command(language):
    command = programs.command(language, 3)
    assert all(0 < len(argument) <= 8192 for argument in command.argv)
    assert (command.cwd, command.timeout_s, command.max_output_bytes) == ("/sandbox/run", 3, 1 << 20)


# -- artifacts


def entry(name: str, **other) -> Entry:
    values = {"kind": Kind.FILE, "size_bytes": 1, "mode": 0o644, "is_nameable": True, "modified_ns": 0}
    return Entry(name=name, **values | other)


@pytest.mark.parametrize(
    "name", ["a.png", "a.JPG", "a.jpeg", "a.svg", "a.pdf", "a.csv", "a.json", "a.html", "a.py.csv"]
)
def test_listed_ends_of_names_are_artifacts(name):
    (found,), left_out = artifacts.choose([entry(name)], [])
    assert (found.name, found.path, left_out) == (name, f"/sandbox/run/artifacts/{name}", 0)
    assert found.mime_type == artifacts.MIME_TYPES["." + name.rpartition(".")[2].lower()]


@pytest.mark.parametrize(
    "odd",
    [
        entry("a.py"),
        entry("a"),
        entry(".csv"),
        entry(".a.csv"),
        entry("a..csv"),
        entry("a\\b.csv"),
        entry("a\nb.csv", is_nameable=False),
        entry("a.csv", kind=Kind.SYMLINK),
        entry("a.csv", kind=Kind.DIRECTORY),
        entry("a.csv", kind=Kind.OTHER),
        entry("a.csv", size_bytes=0),
        entry("a.csv", size_bytes=(10 << 20) + 1),
        entry("a.csv", mode=0o044),
    ],
    ids=repr,
)
def test_what_is_odd_is_left_out_and_counted(odd):
    assert artifacts.choose([odd], []) == ((), 1)
    beside = artifacts.choose([], [odd])
    assert beside[0] == ()


def test_files_beside_count_and_come_before_those_of_their_name_inside():
    beside = [entry("args.json"), entry("main.py"), entry("a.csv"), entry("b.csv")]
    found, left_out = artifacts.choose([entry("a.csv"), entry("c.csv")], beside)
    paths = [artifact.path.removeprefix("/sandbox/run/") for artifact in found]
    assert (paths, left_out) == (["a.csv", "b.csv", "artifacts/c.csv"], 0)


def test_ten_are_taken():
    found, left_out = artifacts.choose([entry(f"{n:02}.csv") for n in range(12)], [])
    assert ([artifact.name for artifact in found], left_out) == ([f"{n:02}.csv" for n in range(10)], 2)


# -- answers


@pytest.mark.parametrize(
    "data", [b" 1\n", b'"\\ud800"', '"ü\u2028"'.encode(), b'{"a": [null]}', b"[" * 100 + b"]" * 100]
)
def test_a_result_is_told_as_it_is(data):
    told = models.with_result(Outcome(status=Status.SUCCESS, exit_code=0), data)
    answer = json.loads(models.head(told) + models.TAIL)
    assert set(answer) == set(models.table(told)) == FIELDS
    assert answer["result"] == {"present": True, "value": json.loads(data), "type": "json"}


@pytest.mark.parametrize(
    "data", [b"", b"x", b"1 2", b"NaN", b"1e999", b'{"a": 1, "a": 1}', b"\xff", b"[" * 101 + b"]" * 101]
)
def test_a_result_that_is_none_is_the_programs_error(data):
    told = models.with_result(Outcome(status=Status.SUCCESS, exit_code=0, stderr="so far"), data)
    assert (told.status, told.exit_code, told.result) == (Status.PROGRAM_ERROR, 1, None)
    assert told.stderr.startswith("so far\nError: the result of main() cannot be used: ")


def test_an_artifact_is_told_around_its_content():
    artifact = Artifact(path="/x", name='a"\u202e.csv', mime_type="text/csv", size_bytes=3)
    assert json.loads(models.artifact_head(artifact) + "YWJj" + models.ARTIFACT_TAIL) == {
        "name": 'a"\u202e.csv',
        "mime_type": "text/csv",
        "size": 3,
        "content_b64": "YWJj",
    }
