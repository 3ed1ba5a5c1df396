"""What the code interpreter's API makes of errors. Pure."""

from __future__ import annotations

import pytest

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.interpreter import answers

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.UnknownSandboxError, 404),
        (errors.UnknownTemplateError, 503),
        (errors.TemplateFailingError, 503),
        (errors.StartError, 503),
        (errors.ProgramMissingError, 503),
        (errors.CapacityError, 503),
        (errors.DiskSpaceError, 503),
        (errors.QuotaError, 503),
        (errors.BusyError, 503),
        (errors.SandboxLostError, 503),
        (errors.ServerStoppingError, 503),
        (errors.IsolationUnavailableError, 503),
        (errors.BrokerUnavailableError, 504),
        (errors.EngineUnavailableError, 504),
        (errors.RateError, 429),
        (errors.ForbiddenError, 403),
        (errors.UrlRefusedError, 400),
        (errors.FileRefusedError, 400),
        (errors.FileConflictError, 400),
        (errors.FileChangedError, 400),
        (errors.UnknownFileError, 404),
        (errors.FileTooLargeError, 413),
        (errors.TransferError, 502),
        (errors.DiskFullError, 507),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_every_error_has_the_status_that_its_clients_know(kind, status):
    assert answers.detail(kind("odd {0} words"))[0] == status


def test_words_are_the_apis_or_the_errors_own_and_never_a_pattern():
    assert answers.detail(errors.SandboxLostError("its kernel died")) == (503, answers.RESET)
    assert answers.detail(errors.CapacityError("all {0} are in use")) == (503, "all {0} are in use")
    said = answers.detail(errors.StartError("odd {0} words"))[1]
    assert said == "No environment could be made: odd {0} words"
    assert answers.detail(errors.BrokerUnavailableError("none runs"))[1].startswith(
        "Gateway Timeout: Could not connect"
    )
