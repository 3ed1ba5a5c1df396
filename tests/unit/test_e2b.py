"""E2B's protocols without a server: envelopes, words, results, signatures, variables of one execution."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import subprocess
import tracemalloc
from datetime import UTC, datetime

import pytest
from e2b.sandbox.signature import get_signature
from hypothesis import assume, given
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell

from jupyter_sandbox.broker.usage_verbs import UsageReport
from jupyter_sandbox.errors import BodyTooLargeError, InvalidRequestError
from jupyter_sandbox.execution_fold import OutputEvent
from jupyter_sandbox.host.beneath import Entry, Kind
from jupyter_sandbox.surfaces.e2b import (
    code,
    connect,
    files,
    filesystem,
    gzips,
    keepalives,
    metrics,
    process,
    results,
    variables,
    watches,
    words,
)
from jupyter_sandbox.usage_service import Load

pytestmark = pytest.mark.unit

JSON = st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(-9, 9) | st.none(), max_size=4)


@pytest.mark.parametrize(
    ("asked", "interval_s"),
    [
        (None, 15),
        ("50", 15),
        ("15", 15),
        ("5", 5),
        ("0", 1),
        *((bad, 15) for bad in ("", "-1", "x", "1.5", "\u0663", "9" * 6)),
    ],
)
def test_how_long_a_stream_may_be_silent(asked, interval_s):
    assert keepalives.interval_s(asked, process.KEEPALIVE_S) == interval_s
    assert (watches.KEEPALIVE_S, code.KEEPALIVE_S) == (15, 5)


@pytest.mark.parametrize("silences", [0, 1, 3])
async def test_a_stream_says_that_it_is_there_as_often_as_it_is_silent(silences):
    go = asyncio.Event()

    async def events():
        yield {"n": 1}
        await go.wait()
        yield {"n": 2}

    heard = []
    async for event in keepalives.with_keepalives(events(), {"alive": True}, 0.01 if silences else 60):
        heard.append(event)
        if len(heard) == 1 + silences:
            go.set()
    assert heard[: 1 + silences] == [{"n": 1}, *[{"alive": True}] * silences]
    assert heard[-1] == {"n": 2}


@given(JSON)
def test_what_is_put_into_an_envelope_comes_out_of_it(message):
    assert connect.only(connect.envelope(message), 1 << 20) == message


def test_an_envelope_is_a_flag_a_length_and_json():
    assert connect.envelope({"a": 1}) == b"\x00\x00\x00\x00\x07" + b'{"a":1}'
    assert connect.end() == b"\x02\x00\x00\x00\x02{}"
    assert connect.end({"code": "not_found"}).endswith(b'{"error":{"code":"not_found"}}')


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\x00", b"\x00\x00\x00\x00\x09{}", b"\x01\x00\x00\x00\x02{}", b"\x00\x00\x00\x00\x02[]"),
        *(
            connect.envelope({}) * 2,
            connect.envelope({}) + b"\x00",
            connect.envelope({}) + connect.end(),
            connect.end(),
        ),
    ],
    ids=["nothing", "cut", "too-short", "compressed", "no-object", "two", "a-part-of-two", "an-end", "only-an-end"],
)
def test_requests_that_are_not_one_message_are_refused(body):
    with pytest.raises(InvalidRequestError):
        connect.only(body, 1 << 20)


def test_a_message_that_would_be_too_large_is_refused_though_it_did_not_come():
    with pytest.raises(BodyTooLargeError):
        connect.only(b"\x00\xff\xff\xff\xff", 1 << 20)


@given(st.binary(max_size=64))
def test_no_body_does_anything_but_be_refused(body):
    with contextlib.suppress(InvalidRequestError, BodyTooLargeError):
        assert isinstance(connect.only(body, 1 << 20), dict)


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("0", 0.0), ("1500", 1.5)])
def test_how_long_a_client_waits(header, seconds):
    assert connect.timeout_s(header) == seconds


@pytest.mark.parametrize("header", ["", "-1", "1.5", "1e3", "\u0663", "9" * 11])
def test_times_that_are_none_are_refused(header):
    with pytest.raises(InvalidRequestError):
        connect.timeout_s(header)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("", "/sandbox"),
        ("~", "/sandbox"),
        ("~/a", "/sandbox/a"),
        ("a/b", "/sandbox/a/b"),
        ("/home/user", "/sandbox"),
        ("/home/user/a", "/sandbox/a"),
        ("/home//./user/a", "/sandbox/a"),
        ("/sandbox/a", "/sandbox/a"),
    ],
)
def test_paths_on_the_disk(theirs, ours):
    assert words.disk_path(theirs) == ours


@pytest.mark.parametrize("theirs", ["/home/username", "/home", "/home/user2/a", "/etc/passwd", "../a", "~/../a", "/"])
def test_paths_that_lead_elsewhere_are_refused(theirs):
    with pytest.raises(InvalidRequestError):
        words.disk_path(theirs)


@pytest.mark.parametrize(
    ("theirs", "whole"),
    [("", "/home/user"), ("~", "/home/user"), ("~/a", "/home/user/a"), ("a", "/home/user/a"), ("/tmp", "/tmp")],
)
def test_where_programs_start(theirs, whole):
    assert words.whole_path(theirs) == whole


def test_ids_are_letters_and_digits():
    ours = "sbx_0123456789abcdef0123"
    assert words.our_id(words.sandbox_id(ours)) == ours
    assert words.sandbox_id(ours).isalnum()
    assert words.our_id("../x") == "../x"


def event(output):
    return results.of_output(OutputEvent(kind="output", output=output), datetime(2026, 1, 1, tzinfo=UTC))


def test_results_lose_colours_and_quotes():
    data = {"text/plain": "\x1b[33m'a'\x1b[39m", "application/json": '{"b": 1}', "x/y": "z"}
    assert event({"output_type": "execute_result", "data": data, "metadata": {}}) == {
        "type": "result",
        "is_main_result": True,
        "text": "a",
        "json": {"b": 1},
        "extra": {"x/y": "z"},
    }


def test_json_that_is_none_is_nothing():
    data = {"application/json": "[" * 100_000}
    assert event({"output_type": "display_data", "data": data, "metadata": {}})["json"] is None


@pytest.mark.parametrize(("modified_ns", "told"), [(10**30, "9999-12-31T23:59:59"), (-(10**30), "1970-01-01T00:00:00")])
def test_times_that_no_calendar_has(modified_ns, told):
    entry = Entry(name="a", is_nameable=True, kind=Kind.FILE, size_bytes=1, mode=0o644, modified_ns=modified_ns)
    assert filesystem.model(entry, "/sandbox/a")["modifiedTime"].startswith(told)


def test_streams_and_errors():
    told = event({"output_type": "stream", "name": "stderr", "text": "t"})
    assert (told["type"], told["text"]) == ("stderr", "t")
    told = event({"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["a", "b"]})
    assert told == {"type": "error", "name": "E", "value": "v", "traceback": "a\nb"}
    assert results.of_output(OutputEvent(kind="clear"), datetime.now(UTC)) is None


def test_a_signature_is_what_the_sdk_makes():
    theirs = get_signature("a b/\u00e9.txt", "read", None, "token", None)["signature"]
    assert files.signature("token", "a b/\u00e9.txt", "read", "", "") == theirs
    signed = get_signature("p", "write", "user", "token", 60)
    assert files.signature("token", "p", "write", "user", str(signed["expiration"])) == signed["signature"]


@pytest.mark.parametrize(
    "source", ["import os; seen = os.environ.get('ONCE')", "    import os\n    seen = os.environ.get('ONCE')"]
)
def test_variables_are_there_while_the_code_runs(source, monkeypatch):
    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)  # IPython warns of one that is not its own
    shell = InteractiveShell.instance()
    shell.run_cell(variables.preceded("python", source, {"ONCE": 'it\'s "1"', "KEPT": "new"}, {}))
    assert shell.user_ns["seen"] == 'it\'s "1"'
    assert ("ONCE" in os.environ, os.environ["KEPT"]) == (False, "before")


@pytest.mark.parametrize("value", ["plain", 'it\'s "1" $HOME `id` \\n\n{}', "é😀"])
def test_variables_of_bash_are_what_was_asked_for_and_then_what_was_before(value):
    script = variables.preceded("bash", 'printf "%s|" "$ONCE" "$KEPT"\n', {"ONCE": value, "KEPT": "new"}, {})
    script += variables.restoring("bash", {"ONCE": "", "KEPT": ""}, {"KEPT": "before"})
    script += 'printf "%s|" "${ONCE-none}" "$KEPT"'
    said = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout
    assert said == f"{value}|new|none|before|"


def test_variables_of_other_languages_stand_before_the_code_on_its_first_line():
    assert variables.preceded("typescript", "a\nb", {"A": '"'}, {"B": "2"}) == 'Deno.env.set("A", "\\""); a\nb'
    assert variables.preceded("r", "a", {"A": "é"}, {}) == 'invisible(do.call(Sys.setenv, list("A" = "é"))); a'
    assert variables.preceded("java", "a", {"A": "1"}, {"A": "0"}) == 'System.setProperty("A", "1"); a'
    assert variables.preceded("java", "a", {}, {"B": "2"}) == 'System.setProperty("B", "2"); a'
    assert variables.preceded("bash", "a", {}, {"B": "2"}) == "a"
    assert variables.restoring("javascript", {"A": "1"}, {}) == 'Deno.env.delete("A"); '
    assert variables.restoring("r", {"A": "1"}, {}) == 'invisible(Sys.unsetenv("A")); '
    assert variables.restoring("java", {"A": "1", "B": ""}, {"A": "0"}) == (
        'System.setProperty("A", "0"); System.clearProperty("B"); '
    )
    assert variables.restoring("python", {"A": "1"}, {}) is None


def test_variables_of_a_language_that_is_not_known_are_refused():
    with pytest.raises(InvalidRequestError, match="klingon"):
        variables.preceded("klingon", "a", {"A": "1"}, {})


def test_variables_and_a_magic_of_the_whole_cell_do_not_go_together():
    with pytest.raises(InvalidRequestError):
        variables.preceded("python", "%%bash\necho", {"A": "1"}, {})
    with pytest.raises(InvalidRequestError):
        variables.preceded("python", " \n\t\n%%bash\necho", {"A": "1"}, {})


@given(st.text(alphabet=" \t\n\r%a", max_size=20))
def test_what_stands_before_python_code_is_as_far_indented_as_its_first_line(code):
    first = next((line for line in code.split("\n") if line.strip()), "")
    assume(not first.startswith("%%"))
    preceded = variables.preceded("python", code, {"A": "1"}, {})
    assert preceded.partition("exec(")[0] == first[: len(first) - len(first.lstrip())]
    assert preceded.endswith(f")\n{code}")


def test_code_of_many_lines_takes_no_more_memory_than_of_one():
    peaks = []
    for source in ("\n" * 1_000_000, "a" * 1_000_000):
        tracemalloc.start()
        variables.preceded("python", source, {"A": "1"}, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[0] < 2 * peaks[1]


async def _pieces(data, sizes):
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def _joined(pieces):
    """What an asynchronous generator yields, and the size of its largest piece."""

    async def collect():
        return [piece async for piece in pieces]

    found = asyncio.run(collect())
    return b"".join(found), max(map(len, found), default=0)


@given(st.lists(st.binary(max_size=99), min_size=1, max_size=4), st.lists(st.integers(0, 20), max_size=30))
def test_what_is_packed_is_unpacked_however_it_is_cut(files, sizes):
    data = b"".join(gzip.compress(each) for each in files)
    assert _joined(gzips.unpacked(_pieces(data, sizes)))[0] == b"".join(files)


@given(st.binary(max_size=999), st.lists(st.integers(0, 200), max_size=9))
def test_what_is_sent_packed_is_what_gzip_reads(data, sizes):
    assert gzip.decompress(_joined(gzips.packed(_pieces(data, sizes)))[0]) == data


def test_nothing_is_unpacked_in_pieces_that_are_large():
    data = gzip.compress(bytes(5 * gzips.PIECE + 1))
    whole, largest = _joined(gzips.unpacked(_pieces(data, [])))
    assert (len(whole), largest) == (5 * gzips.PIECE + 1, gzips.PIECE)


@given(st.binary(min_size=1, max_size=99))
def test_what_gzip_did_not_make_is_refused(data):
    for wrong in (data[:1] + b"x" + data, gzip.compress(data)[:-1], gzip.compress(data) + b"x"):
        with pytest.raises(InvalidRequestError):
            _joined(gzips.unpacked(_pieces(wrong, [])))


def test_what_is_unknown_of_a_sandbox_is_a_number_all_the_same():
    report = UsageReport(
        cpu_s=None,
        cpus=1.5,
        memory_bytes=None,
        memory_cache_bytes=None,
        memory_total_bytes=7,
        disk_bytes=None,
        disk_total_bytes=8,
    )
    told = metrics.metric(Load(report=report, cpu_percent=None), datetime(2026, 1, 1, tzinfo=UTC))
    assert told == {
        "timestamp": "2026-01-01T00:00:00.000Z",
        "timestampUnix": 1767225600,
        "cpuCount": 2,
        "cpuUsedPct": 0.0,
        "memUsed": 0,
        "memTotal": 7,
        "memCache": 0,
        "diskUsed": 0,
        "diskTotal": 8,
    }
