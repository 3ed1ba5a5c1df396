"""What of a kernelspec and an environment goes into the worker: the fast way when it is the same, and no secret."""

from __future__ import annotations

import sys

import pytest

from jupyter_sandbox import launch
from sandbox_worker.protocol import PYTHON

pytestmark = pytest.mark.unit

SPEC = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "a",
    "JUPYTER_TOKEN": "b",
    "JUPYTERHUB_API_TOKEN": "c",
    "JPY_API_TOKEN": "d",
    "JPY_PARENT_PID": "1",
    "OPENAI_API_KEY": "e",
    "HOME": "/home/me",
    "PATH": "/home/me/bin",
    "PYTHONPATH": "/home/me/lib",
    "LD_PRELOAD": "/tmp/x.so",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "HTTPS_PROXY": "http://me:secret@proxy",
    "USER": "me",
    "LCX": "no prefix of ours",
    "MY_KERNEL_X": "neither",
}


@pytest.mark.parametrize(
    "python",
    ["python", "python3", "python3.11", "python3.99", "/usr/bin/python3", "{prefix}/bin/python", sys.executable],
)
def test_our_python_is_forked(python):
    assert launch.argument_list([python, *SPEC[1:]], [], {"prefix": "/opt/env"}) is None


@pytest.mark.parametrize(
    "extra",
    [["--HistoryManager.hist_file=:memory:"], ["--no-secure"], ["-Xfrozen_modules=off"]],
)
def test_arguments_without_effect_do_not_keep_from_forking(extra):
    assert launch.argument_list(SPEC, extra, {}) is None
    assert launch.argument_list([SPEC[0], *extra, *SPEC[1:]], [], {}) is None


@pytest.mark.parametrize(
    ("spec", "extra"),
    [
        (SPEC, ["--debug"]),
        (SPEC, ["--IPKernelApp.exec_lines=['x=1']"]),
        ([SPEC[0], "-X", "dev", *SPEC[1:]], []),
        (["python", "-m", "bash_kernel", "-f", "{connection_file}"], []),
        (["python", "-m", "ipykernel_launcher", "-f", "elsewhere.json"], []),
        (["python", "-c", "x", "-m", "ipykernel_launcher", "-f", "{connection_file}"], []),
    ],
)
def test_another_python_command_is_executed_by_our_python(spec, extra):
    command = launch.argument_list(spec, extra, {})
    assert command is not None
    assert command == (PYTHON, *spec[1:], *extra)


@pytest.mark.parametrize(
    "program", ["R", "julia", "pythonx", "python2", "pypy3", "python3.11-config", "/opt/python/bin/ruby"]
)
def test_another_program_is_executed_as_it_is(program):
    assert launch.argument_list([program, *SPEC[1:]], [], {}) == (program, *SPEC[1:])


def test_known_templates_are_replaced_and_what_the_worker_knows_stays():
    command = launch.argument_list(
        ["R", "{resource_dir}/x", "{more}{more}", "{prefix}", "{connection_file}", "{unknown}", "{}", "{{more}}"],
        ["--at={resource_dir}"],
        {"resource_dir": "/share/r", "more": "/opt"},
    )
    kept = ("{prefix}", "{connection_file}", "{unknown}", "{}")
    expected = ("R", "/share/r/x", "/opt/opt", *kept, "{/opt}", "--at=/share/r")
    assert command == expected


def test_a_replaced_text_is_not_replaced_again():
    assert launch.argument_list(["R", "{a}"], [], {"a": "{b}", "b": "x"}) == ("R", "{b}")


def test_no_secret_of_the_caller_passes():
    assert launch.environment(SECRETS, {}) == {}


def test_language_and_kernel_variables_pass():
    wanted = {
        "LANG": "C",
        "LC_ALL": "C",
        "TZ": "UTC",
        "KERNEL_USERNAME": "u",
        "JPY_SESSION_NAME": "/a.ipynb",
        "COLUMNS": "80",
    }
    assert launch.environment(SECRETS | wanted, {}) == wanted


def test_the_kernelspec_s_own_variables_pass_with_the_caller_s_value():
    assert launch.environment(SECRETS | {"MODE": "substituted"}, {"MODE": "${x}", "ABSENT": "1"}) == {
        "MODE": "substituted"
    }


def test_an_operator_may_allow_more_names():
    assert launch.environment(SECRETS, {}, ["USER"]) == {"USER": "me"}


@pytest.mark.parametrize(
    ("policy", "metadata", "wanted"),
    [
        ("disabled", {"supported_encryption": ["curve"]}, False),
        ("required", {"supported_encryption": ["curve"]}, True),
        ("required", {}, True),
        ("auto", {"supported_encryption": ["curve"]}, True),
        ("auto", {"supported_encryption": " Curve "}, True),
        ("auto", {"supported_encryption": ["gssapi", "CURVE"]}, True),
        ("auto", {"supported_encryption": ["gssapi"]}, False),
        ("auto", {"supported_encryption": None}, False),
        ("auto", {"supported_encryption": {"curve": 1}}, False),
        ("auto", {}, False),
    ],
)
def test_encryption_is_for_those_who_can_or_must(policy, metadata, wanted):
    assert launch.wants_curve(policy, metadata) is wanted
