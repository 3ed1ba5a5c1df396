"""The command line: every command explains itself, and wrong usage ends with 2 before anything is started."""

from __future__ import annotations

import pytest

from jupyter_sandbox import __version__, cli
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import BrokerUnavailableError, UnknownSandboxError

pytestmark = pytest.mark.unit

COMMANDS = ["list", "run", "exec", "ls", "cp", "logs", "template", "languages", "certificate"]
COMMANDS += ["release", "reap", "status", "doctor", "token"]


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """No broker is started; the requests are kept, and answered from `answers`."""
    requests: list[object] = []
    answers: dict[type, object] = {}

    async def call(request, kind, _descriptors=(), *, start=True):
        requests.append((request, start))
        absence = BrokerUnavailableError("no broker runs")
        absence.is_absent = True
        answer = answers.get(type(request), absence)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, kind)
        return answer

    monkeypatch.setattr(client, "call", call)
    return requests, answers


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", [[], *[[command] for command in COMMANDS]])
def test_help_is_given(command, capsys, asked):
    assert run(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: jupyter sandbox")
    assert len(shown.splitlines()) >= 5
    assert asked[0] == []


def test_the_help_lists_every_command(capsys):
    run("--help")
    shown = capsys.readouterr().out
    assert all(command in shown for command in [*COMMANDS, "broker"])


def test_the_version_is_told(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explode"],
        *[[command, "--no-such-flag"] for command in COMMANDS],
        ["run"],
        ["run", "1", "2"],
        ["run", "-c", "1", "2"],
        ["run", "-c", "1", "--timeout", "soon"],
        ["cp", "a"],
        ["cp", "a", "b", "--max-mib", "0"],
        ["ls"],
        ["logs"],
        ["certificate"],
        ["template"],
        ["template", "explode"],
        ["template", "create", "a"],
        ["exec"],
        ["exec", "sbx_" + "0" * 20],
        ["exec", "sbx_" + "0" * 20, "-e", "NAME", "--", "ls"],
        ["exec", "sbx_" + "0" * 20, "-t", "--", "ls"],
        ["list", "extra"],
        ["status", "extra"],
        ["release"],
        ["release", "--all", "sbx_" + "0" * 20],
    ],
)
def test_wrong_usage_ends_with_2_and_asks_nobody(arguments, capsys, asked):
    assert run(*arguments) == 2
    assert capsys.readouterr().err.strip()
    assert asked[0] == []


def _row(number: int, **changes: object) -> verbs.Summary:
    values = {
        "sandbox": f"sbx_{number:020}",
        "owner": 0,
        "template": "python",
        "created_at": "2020-01-01T00:00:00+00:00",
        "kernels": ("0" * 12,),
        "memory_bytes": 5 << 20,
        "disk_bytes": 7 << 20,
        "disk_total_bytes": 9 << 20,
    }
    return verbs.Summary(**values | changes)


def test_list_without_a_broker_is_empty_and_starts_none(capsys, asked):
    assert run("list") == 0
    assert capsys.readouterr().out == "No sandboxes.\n"
    assert asked[0] == [(verbs.List(after=""), False)]


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["release", "--all"], ["status"]])
def test_a_broker_that_does_not_answer_is_not_taken_for_none(arguments, capsys, asked):
    asked[1][verbs.List] = asked[1][verbs.Status] = BrokerUnavailableError("see BrokerApp.socket_mode")
    assert run(*arguments) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"jupyter sandbox {arguments[0]}: see BrokerApp.socket_mode\n")


@pytest.mark.parametrize(
    ("arguments", "argv"),
    [
        (["--", "git", "checkout", "--", "notes"], ("git", "checkout", "--", "notes")),
        (["--", "rm", "--", "-rf"], ("rm", "--", "-rf")),
        (["--", "--", "a"], ("--", "a")),
        (["ls", "--", "-x"], ("ls", "--", "-x")),
        (["ls"], ("ls",)),
    ],
)
def test_a_command_has_its_arguments_as_they_were_given(arguments, argv, monkeypatch):
    wanted = []

    async def run_command(what):
        wanted.append(what)
        return 0

    monkeypatch.setattr("jupyter_sandbox.run_command.run_command", run_command)
    assert run("exec", "sbx_1", "-C", "/tmp", *arguments) == 0
    assert [(each.sandbox, each.cwd, each.argv) for each in wanted] == [("sbx_1", "/tmp", argv)]


def test_list_shows_a_line_for_each(capsys, asked):
    asked[1][verbs.List] = verbs.Listing(sandboxes=(_row(1), _row(2)), more=False)
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[0] == "sbx_" + "0" * 19 + "1"
    assert "7/9 MiB" in lines[1]


def test_list_asks_for_every_page(monkeypatch, capsys):
    pages = {"": (_row(1), _row(2)), _row(2).sandbox: (_row(3),)}

    async def call(request, _kind, **_):
        return verbs.Listing(sandboxes=pages[request.after], more=request.after == "")

    monkeypatch.setattr(client, "call", call)
    assert run("list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_release_names_what_it_released(capsys, asked):
    asked[1][verbs.Release] = verbs.Done()
    assert run("release", _row(1).sandbox, _row(2).sandbox) == 0
    assert capsys.readouterr().out.splitlines() == [f"{_row(number).sandbox} released" for number in (1, 2)]


def test_releasing_an_unknown_sandbox_ends_with_1_and_a_sentence(capsys, asked):
    asked[1][verbs.Release] = UnknownSandboxError("no sandbox sbx_1")
    assert run("release", "sbx_1") == 1
    assert capsys.readouterr().err == "jupyter sandbox release: no sandbox sbx_1\n"


@pytest.mark.parametrize(("arguments", "status"), [([_row(n).sandbox for n in (1, 2, 3)], 1), (["--all"], 0)])
def test_a_sandbox_that_has_ended_keeps_no_other_from_its_release(arguments, status, monkeypatch, capsys):
    async def call(request, _kind, **_):
        if isinstance(request, verbs.List):
            return verbs.Listing(sandboxes=tuple(_row(n) for n in (1, 2, 3)), more=False)
        if request.sandbox == _row(1).sandbox:
            raise UnknownSandboxError(f"no sandbox {request.sandbox}")
        return verbs.Done()

    monkeypatch.setattr(client, "call", call)
    assert run("release", *arguments) == status
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [f"{_row(n).sandbox} released" for n in (2, 3)]
    assert ("no sandbox" in shown.err) == bool(status)


def test_reap_tells_what_it_would_do(capsys, asked):
    asked[1][verbs.Reap] = verbs.Reaped(found=("disk image x.img",))
    assert run("reap", "--dry-run") == 0
    assert capsys.readouterr().out == "disk image x.img: would be destroyed\n"
    assert asked[0][0][0] == verbs.Reap(dry_run=True)


def test_status_without_a_broker_is_no_failure_and_starts_none(capsys, asked):
    assert run("status") == 0
    assert "No broker runs" in capsys.readouterr().out
    assert asked[0] == [(verbs.Status(), False)]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0m00s"), (0, "0m00s"), (61, "1m01s"), (3599, "59m59s"), (3600, "1h00m"), (90_000, "25h00m")],
)
def test_ages_are_short(seconds, text):
    assert cli._age(seconds) == text


# -- languages


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """Where kernelspecs of this user are installed."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "kernels"


def speak(asked, *languages: str) -> None:
    report = verbs.StatusReport(
        pid=1, version="1", engine="fake", templates=(), warm=0, claimed=0, notes=(), languages=languages
    )
    asked[1][verbs.Status] = report


def test_languages_are_shown_and_how_to_get_the_others(kernels, capsys, asked):
    speak(asked, "python", "bash")
    assert run("languages") == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert shown["bash"].split() == ["bash", "sandbox-bash", "yes"]
    assert shown["r"].endswith("no: apt install r-cran-irkernel")
    assert "no: apt install default-jdk-headless and pip install jjava==" in shown["java"]
    assert not kernels.exists()


def test_kernelspecs_of_languages_come_and_go(kernels, asked):
    (kernels / "sandbox-r").mkdir(parents=True)
    (kernels / "sandbox-r" / "kernel.json").write_text('{"argv": ["mine"], "display_name": "R", "language": "r"}')
    speak(asked, "python", "bash", "typescript")
    assert run("languages", "--install", "user") == 0
    assert {path.name for path in kernels.iterdir()} == {"sandbox-bash", "sandbox-typescript", "sandbox-r"}
    speak(asked, "python", "bash")
    assert run("languages", "--install", "user") == 0
    assert {path.name for path in kernels.iterdir()} == {"sandbox-bash", "sandbox-r"}


def test_kernelspecs_that_cannot_be_installed_are_told(kernels, capsys, asked):
    kernels.parent.mkdir()
    kernels.touch()
    speak(asked, "bash")
    assert run("languages", "--install", "user") == 1
    assert "sandbox-bash could not be installed" in capsys.readouterr().err
