"""What Bash's kernel says of a line that failed."""

from __future__ import annotations

import pytest

from sandbox_worker import bash


def failed(evalue):
    return {"ename": "", "evalue": evalue, "traceback": [], "status": "error", "execution_count": 3}


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("1", "ExitStatus: 1"),
        ("2", "ExitStatus: 2"),
        ("126", "ExitStatus: 126 (cannot be executed)"),
        ("127", "ExitStatus: 127 (command not found)"),
        ("137", "ExitStatus: 137 (ended by SIGKILL)"),
        ("255", "ExitStatus: 255"),
        ("Cell has trailing backslash", "SyntaxError: Cell has trailing backslash"),
    ],
)
def test_an_error_has_a_name_and_a_traceback(status, line):
    told = bash.explained(failed(status))
    assert told == failed(status) | {"ename": line.partition(":")[0], "traceback": [line]}


@pytest.mark.parametrize(
    "content",
    [
        {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}},
        {"status": "abort", "execution_count": 1},
        {"ename": "Other", "evalue": "1", "traceback": []},
        {"ename": "", "evalue": "1", "traceback": ["line"]},
    ],
)
def test_all_else_is_passed_on(content):
    assert bash.explained(content) == content
