"""What handlers make of a request's head: pure."""

from __future__ import annotations

import pytest

from jupyter_sandbox.web import Form, form_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.JSON),
        ("*/*", Form.JSON),
        ("text/html, TEXT/event-stream;q=0.9, application/x-ndjson", Form.SSE),
        ("a/b," * 63 + "application/x-ndjson", Form.NDJSON),
        ("a/b," * 64 + "application/x-ndjson", Form.JSON),
        ("," * 60_000 + "application/x-ndjson", Form.JSON),
    ],
    ids=["nothing", "anything", "the first", "the last that is looked at", "one too late", "commas"],
)
def test_the_first_known_form_counts_if_it_is_among_the_first(accept, form):
    assert form_of(accept) == form
