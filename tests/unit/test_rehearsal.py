"""What a kernel that stands by has sent is gone before it is anybody's."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from sandbox_worker.rehearsal import end_of_output

pytestmark = pytest.mark.unit


def test_what_was_published_before_is_sent_when_the_output_has_ended():
    going, sent = threading.Event(), []
    with ThreadPoolExecutor(max_workers=1) as publishing:
        publishing.submit(going.wait, 5)
        publishing.submit(sent.append, "an earlier kernel's")
        threading.Timer(0.1, going.set).start()
        end_of_output(SimpleNamespace(iopub_thread=SimpleNamespace(schedule=publishing.submit)))
        assert sent == ["an earlier kernel's"]
