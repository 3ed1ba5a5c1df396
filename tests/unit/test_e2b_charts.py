"""Charts and data for E2B's clients: what kernels make of a user's objects, and what the host believes of it."""

from __future__ import annotations

import copy
import datetime
import decimal
import json
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from e2b_code_interpreter.charts import _deserialize_chart
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.core.pylabtools import select_figure_formats
from matplotlib.figure import Figure

from jupyter_sandbox.surfaces.e2b import charts, results
from sandbox_worker import e2b_results

pytestmark = pytest.mark.unit


@pytest.fixture
def shell(monkeypatch):
    """A shell of E2B's."""
    monkeypatch.setenv(e2b_results.VARIABLE, "true")
    return new_shell()


@pytest.fixture
def shown(shell):
    """Return what a kernel of E2B's makes of a value, by MIME type."""
    return showing(shell)


def new_shell():
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(e2b_results.e2b_images, "display_images", lambda: None)  # it would change Pillow for us all
        e2b_results.load_ipython_extension(shell)
    return shell


def showing(shell):
    return lambda value: shell.display_formatter.format(value)[0]


def drawn(draw):
    """Return a figure with one plot."""
    figure = Figure()
    draw(figure.add_subplot())
    figure.canvas.draw()
    return figure


PLOTS = {
    "line": lambda axes: axes.plot([1, 2], [3, 4]),
    "scatter": lambda axes: axes.scatter([1, 2], [3, 4]),
    "bar": lambda axes: axes.bar(["a", "b"], [3, 4]),
    "pie": lambda axes: axes.pie([1, 2], labels=["a", "b"]),
    "box_and_whisker": lambda axes: axes.boxplot([[85, 90, 78, 92, 88], [95, 89, 76, 91, 84, 87]], patch_artist=True),
    "unknown": lambda axes: axes.imshow([[0, 1]]),
}


def both(axes_left, axes_right):
    PLOTS["line"](axes_left)
    PLOTS["bar"](axes_right)


@pytest.fixture(scope="module")
def made():
    """A chart of each type, as kernels make them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(e2b_results.VARIABLE, "true")
        show = showing(new_shell())
        found = {kind: show(drawn(draw))["e2b/chart"] for kind, draw in PLOTS.items()}
        figure = Figure()
        both(*figure.subplots(1, 2))
        return found | {"superchart": show(figure)["e2b/chart"]}


# -- in the kernel


@pytest.mark.parametrize("value", [None, "", "false", "1"])
def test_elsewhere_outputs_stay_what_they_are(monkeypatch, value):
    if value is None:
        monkeypatch.delenv(e2b_results.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(e2b_results.VARIABLE, value)
    show = showing(new_shell())
    assert set(show({"a": 1})) == {"text/plain"}
    assert set(show(pd.DataFrame({"a": [1]}))) == {"text/plain", "text/html"}
    assert "e2b/chart" not in show(drawn(PLOTS["line"]))


def test_nothing_is_imported_before_the_code_of_the_user_does():
    code = """
import os, sys
from types import SimpleNamespace
from IPython.core.formatters import DisplayFormatter
from sandbox_worker import e2b_results
os.environ[e2b_results.VARIABLE] = "true"
shell = SimpleNamespace(display_formatter=DisplayFormatter())
e2b_results.load_ipython_extension(shell)
shell.display_formatter.format([1])
print([name for name in ("pandas", "numpy", "matplotlib", "pydantic", "e2b_charts") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("before", ["", "import PIL.Image"])
def test_images_that_are_shown_or_saved_under_a_name_are_outputs(before, tmp_path):
    code = f"""
{before}
from sandbox_worker import e2b_images
e2b_images.display = lambda image: print(image.size)
e2b_images.display_images()
import io, sys
from PIL import Image
image = Image.new("RGB", (3, 4))
image.save("named.png")
image.save("named.x", "PNG")
image.save(io.BytesIO(), "PNG")
image.show()
print([each for each in sys.meta_path if type(each).__module__ == "sandbox_worker.e2b_images"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "(3, 4)\n" * 3 + "[]\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["named.png", "named.x"]


def test_a_frame_is_a_list_for_each_column(shown):
    frame = pd.DataFrame(
        {
            "number": [1, 2.5, None],
            "moment": pd.to_datetime(["2026-01-01 00:00", None, "2026-01-03 04:05"]),
            "text": ["a", None, "c"],
            "object": [decimal.Decimal("1.5"), float("inf"), datetime.date(2026, 1, 1)],
            "kind": pd.Categorical(["x", "y", None]),
            7: pd.array([1, None, 3], dtype="Int64"),
        }
    )
    assert shown(frame)["e2b/data"] == {
        "number": [1.0, 2.5, None],
        "moment": ["2026-01-01T00:00:00", None, "2026-01-03T04:05:00"],
        "text": ["a", None, "c"],
        "object": ["1.5", None, "2026-01-01"],
        "kind": ["x", "y", None],
        "7": [1, None, 3],
    }


@pytest.mark.parametrize(
    "frame",
    [pd.DataFrame(np.zeros((1000, 101))), pd.DataFrame({"a": ["x" * 700_000] * 2})],
    ids=["cells", "characters"],
)
def test_a_frame_that_is_too_large_has_no_data_and_is_shown_all_the_same(shown, frame):
    assert set(shown(frame)) == {"text/plain", "text/html"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([1, "a", None, {"b": [True]}], [1, "a", None, {"b": [True]}]),
        ({"a": float("nan"), 2: np.int64(3), "c": np.arange(2)}, {"a": None, "2": 3, "c": [0, 1]}),
    ],
)
def test_lists_and_dictionaries_are_json(shown, value, told):
    assert shown(value)["application/json"] == told


def _endless():
    endless = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    "value",
    [{(1, 2): 3}, [object()], _endless(), ["x" * 100] * 20_000, 1, "a"],
    ids=["keys", "object", "endless", "large", "number", "text"],
)
def test_what_is_no_json_has_none(shown, value):
    assert set(shown(value)) == {"text/plain"}


@pytest.mark.parametrize("kind", [*PLOTS, "superchart"])
def test_a_figure_is_a_chart_that_the_client_reads(made, kind):
    assert made[kind]["type"] == kind
    assert json.loads(json.dumps(made[kind], allow_nan=False)) == made[kind]
    assert charts.is_chart(made[kind])
    assert _deserialize_chart(made[kind]).type == kind


@pytest.mark.parametrize(
    "draw",
    [lambda axes: axes.plot(range(20_001)), lambda axes: axes.scatter(range(20_001), range(20_001)), lambda _: None],
    ids=["line", "scatter", "blank"],
)
def test_a_figure_with_too_many_points_or_none_has_no_chart(shown, draw):
    assert "e2b/chart" not in shown(drawn(draw))


def test_a_chart_stays_when_a_notebook_chooses_the_format_of_its_pictures(shell, shown):
    """As matplotlib's inline backend does when it is loaded."""
    for _ in range(2):
        select_figure_formats(shell, {"png"})
        assert {"image/png", "e2b/chart"} <= set(shown(drawn(PLOTS["line"])))


def test_without_the_package_there_is_no_chart(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "e2b_charts", None)
    assert "e2b/chart" not in shown(drawn(PLOTS["line"]))


def test_a_figure_that_the_package_does_not_get_along_with_has_no_chart(shown, monkeypatch):
    figure = drawn(PLOTS["line"])
    monkeypatch.setattr(mpl.axes.Axes, "get_xlabel", lambda _: 1 / 0)
    assert "e2b/chart" not in shown(figure)


# -- on the host


def result(**data):
    return results.result({"output_type": "display_data", "data": data, "metadata": {}})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


def _paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("kind", [*PLOTS, "superchart"])
@given(data=st.data())
def test_whatever_a_sandbox_says_is_a_chart_is_one_for_the_client_or_is_none(made, kind, data):
    """A part of a real chart is another value, or is not there."""
    lie = copy.deepcopy(made[kind])
    path = data.draw(st.sampled_from([path for path in _paths(lie) if path]))
    place = lie
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()):
        place[path[-1]] = data.draw(JSON)
    else:
        del place[path[-1]]
    if charts.is_chart(lie):
        assert _deserialize_chart(lie) is not None


@given(JSON)
def test_no_json_value_but_a_chart_is_a_chart(value):
    if charts.is_chart(value):
        assert _deserialize_chart(value) is not None


def test_a_superchart_holds_no_superchart(made):
    chart = made["superchart"]
    for _ in range(50):
        chart = chart | {"elements": [chart]}
        assert not charts.is_chart(chart)


def test_a_result_has_the_chart_and_the_data(made):
    told = result(**{"e2b/chart": json.dumps(made["bar"]), "e2b/data": '{"a": [1, 2], "b": ["x", null]}'})
    assert told == {
        "type": "result",
        "is_main_result": False,
        "chart": made["bar"],
        "data": {"a": [1, 2], "b": ["x", None]},
    }


@pytest.mark.parametrize(
    "lie",
    [
        *("", "x", "null", "1", "[]", "{}", '["a"]', '{"a": 1}', '{"a": {"b": []}}', '{"a": [1], "a": [2], "b": []}'),
        *('{"a": [NaN]}', "[" * 100_000, '{"a": ' * 1000, '{"a": [1], "b": [1, 2]}'),
        '{"a": ["' + "x" * (2 << 20) + '"]}',
    ],
    ids=range(15),
)
def test_what_is_neither_chart_nor_data_is_not_there(lie):
    told = result(**{"e2b/chart": lie, "e2b/data": lie, "text/plain": "x"})
    assert "chart" not in told
    assert told.get("data", {}) == {}
    assert told["text"] == "x"
