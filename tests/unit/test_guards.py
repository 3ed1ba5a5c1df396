"""Guards: what passes comes back unchanged; all else is refused before it reaches a path, a worker or a log line."""

from __future__ import annotations

import signal

import pytest
import zmq

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import ids, keys, processes
from sandbox_worker.protocol import CurveKeys

pytestmark = pytest.mark.unit

SANDBOX = "sbx_0123456789abcdef0123"
SEAT = "0123456789ab"


def test_fresh_ids_pass_their_own_guard_and_differ():
    sandboxes = {ids.new_sandbox_id() for _ in range(50)}
    seats = {ids.new_seat() for _ in range(50)}
    assert len(sandboxes) == len(seats) == 50
    assert all(ids.sandbox_id(sandbox) == sandbox for sandbox in sandboxes)
    assert all(ids.seat(seat) == seat for seat in seats)


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        "sbx_",
        SANDBOX[:-1],
        SANDBOX + "0",
        SANDBOX + "\n",
        "\n" + SANDBOX,
        SANDBOX.upper(),
        SANDBOX.replace("sbx", "ctx"),
        SANDBOX[:-1] + "g",
        SANDBOX[:-1] + "\0",
        SANDBOX[:-1] + "\N{FULLWIDTH DIGIT THREE}",
        SANDBOX[:-1] + "\N{ARABIC-INDIC DIGIT THREE}",
        "sbx_../../etc/passwd",
        "../" + SANDBOX,
        "x" * 100_000,
        "\ud800",
    ],
)
def test_what_is_no_sandbox_id_is_refused(hostile):
    with pytest.raises(InvalidRequestError, match="not a sandbox id") as caught:
        ids.sandbox_id(hostile)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "hostile", ["", SEAT[:-1], SEAT + "0", SEAT + "\n", SEAT.upper(), "../../../../", "0" * 11 + "/"]
)
def test_what_is_no_seat_is_refused(hostile):
    with pytest.raises(InvalidRequestError, match="not a kernel seat"):
        ids.seat(hostile)


@pytest.mark.parametrize("name", ["python", "r", "0", "data-science-3", "a" * 40])
def test_template_names_pass(name):
    assert ids.template_name(name) == name


@pytest.mark.parametrize(
    "hostile", ["", "-a", "A", "a" * 41, "a/b", "a.b", "a_b", "a b", "a\n", "..", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_what_is_no_template_name_is_refused(hostile):
    with pytest.raises(InvalidRequestError, match="not a template name"):
        ids.template_name(hostile)


def test_an_argument_list_passes_unchanged():
    assert processes.argv(["python", "-c", "print('ü')", ""]) == ("python", "-c", "print('ü')", "")
    assert len(processes.argv(["x"] * 256)) == 256
    assert processes.argv(["x" * 32_764]) == ("x" * 32_764,)


@pytest.mark.parametrize("hostile", [[], ["x"] * 257, ["x" * 32_765], ["a", "b\0c"]])
def test_what_is_no_argument_list_is_refused(hostile):
    with pytest.raises(InvalidRequestError, match="argv"):
        processes.argv(hostile)


def test_an_environment_passes_as_a_copy():
    given = {"LANG": "C", "_x9": "", "A" * 128: "text"}
    judged = processes.environment(given)
    assert judged == given
    assert judged is not given


@pytest.mark.parametrize(
    "name", ["", "9A", "A-B", "A=B", "A B", "A\0", "A\n", "A" * 129, "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_what_is_no_variable_name_is_refused(name):
    with pytest.raises(InvalidRequestError, match="not an environment variable"):
        processes.environment({name: "x"})


def test_a_variable_with_nul_is_refused():
    with pytest.raises(InvalidRequestError, match="not an environment variable: 'A'"):
        processes.environment({"A": "x\0y"})


def test_an_environment_has_a_number_and_a_size():
    assert len(processes.environment({f"V{number}": "" for number in range(256)})) == 256
    with pytest.raises(InvalidRequestError, match="at most 256"):
        processes.environment({f"V{number}": "" for number in range(257)})
    assert processes.environment({"A": "x" * (24 * 1024 - 1)})
    with pytest.raises(InvalidRequestError, match="24576"):
        processes.environment({"A": "x" * (24 * 1024)})


@pytest.mark.parametrize(
    ("given", "judged"),
    [
        ("/sandbox", "/sandbox"),
        ("/sandbox/", "/sandbox"),
        ("/sandbox/a/../b/.", "/sandbox/b"),
        ("/workspace/my notebooks", "/workspace/my notebooks"),
        ("/tmp//x", "/tmp/x"),
        ("/home/user/a", "/home/user/a"),
    ],
)
def test_working_directories_come_back_normal(given, judged):
    assert processes.working_directory(given) == judged


@pytest.mark.parametrize(
    "hostile",
    [
        "",
        ".",
        "sandbox",
        "/",
        "/etc",
        "/sandboxes",
        "/sandbox/../etc",
        "/tmp/../../proc/1",
        "//sandbox",
        "/tmp/\0",
        "/tmp/" + "x" * 8192,
    ],
)
def test_directories_elsewhere_are_refused(hostile):
    with pytest.raises(InvalidRequestError, match="working directory"):
        processes.working_directory(hostile)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH])
def test_usual_signals_pass(number):
    assert processes.signal_number(int(number)) == number


@pytest.mark.parametrize("number", [0, -1, -9, 64, 65, 1 << 40, signal.SIGCHLD, signal.SIGSEGV])
def test_other_signals_are_refused(number):
    with pytest.raises(InvalidRequestError, match="not a signal"):
        processes.signal_number(int(number))


def test_a_pair_of_curve_keys_passes_and_so_does_none():
    public, secret = (key.decode() for key in zmq.curve_keypair())
    pair = CurveKeys(public=public, secret=secret)
    assert keys.curve(pair) is pair
    assert keys.curve(None) is None


@pytest.mark.parametrize(
    "hostile", ["", "a" * 39, "a" * 41, "a" * 40 + "\n", "a" * 39 + "\0", "a" * 39 + "~", "ü" * 40]
)
def test_what_is_no_curve_key_is_refused(hostile):
    for pair in (CurveKeys(public="a" * 40, secret=hostile), CurveKeys(public=hostile, secret="a" * 40)):
        with pytest.raises(InvalidRequestError) as refused:
            keys.curve(pair)
        assert "a" * 39 not in str(refused.value)
