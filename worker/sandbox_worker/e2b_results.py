"""Results as E2B's clients know them: the data of frames, the charts of figures, lists and dictionaries as JSON.

They are for sandboxes that E2B's clients made, which VARIABLE tells; elsewhere outputs stay what they are. IPython
finds a formatter by the name of a class, so nothing is imported before the user's code has imported it: neither
pandas, nor matplotlib, nor `e2b_charts`, without which there are no charts. What is larger than the bounds has no such
representation. The host believes nothing of it.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from sandbox_worker import e2b_images

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE: Final = "E2B_SANDBOX"
"""The variable by which programs know that they run in E2B's sandboxes: `true`."""
_FRAMES: Final = ("pandas", "pandas.core.frame")
"""Where pandas says that its class is: since version 3, and before."""
_MAX_CELLS: Final = 100_000
_MAX_POINTS: Final = 20_000
"""`e2b_charts` takes 5 µs for each."""
_MAX_CHARACTERS: Final = 1 << 20
"""Of JSON."""


class _Data(BaseFormatter):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = dict


class _Chart(BaseFormatter):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = dict

    def pop(self, typ: Any, default: Any = None) -> Any:
        """Keep it: matplotlib's inline backend takes what there is for figures away from every formatter."""
        del typ
        return default


def load_ipython_extension(shell: Any) -> None:
    """Add the representations to what `shell` makes of results, if its environment asks for them."""
    if os.environ.get(VARIABLE) != "true":
        return
    display = shell.display_formatter
    data, chart = _Data(parent=display), _Chart(parent=display)
    for module in _FRAMES:
        data.for_type_by_name(module, "DataFrame", partial(_told, _data))
    chart.for_type_by_name("matplotlib.figure", "Figure", partial(_told, _chart))
    for formatter in (data, chart):
        display.formatters[formatter.format_type] = formatter
    for kind in (dict, list):
        display.formatters["application/json"].for_type(kind, _json)
    e2b_images.display_images()


def _told(tell: Callable[[Any], Any], value: Any) -> Any:
    """Return what `tell` makes of a value; None where it fails, since the other representations are shown then."""
    try:
        return tell(value)
    except Exception:  # noqa: BLE001 - foreign packages and the user's own values: anything can be raised
        return None


def _data(frame: Any) -> Any:
    """Return the columns of a DataFrame as lists; what is missing is None."""
    if frame.size > _MAX_CELLS:
        return None
    cells = frame.astype(object).where(frame.notna(), None)
    return _plain({str(name): column.tolist() for name, column in cells.items()}, _text)


def _chart(figure: Any) -> Any:
    """Return what a figure shows; raises whatever `e2b_charts` does for what it is not made for."""
    axes = figure.get_axes()
    lines = sum(len(line.get_xdata()) for each in axes for line in each.get_lines())
    points = sum(len(collection.get_offsets()) for each in axes for collection in each.collections)
    if lines + points > _MAX_POINTS:
        return None
    with warnings.catch_warnings(action="ignore"):  # it uses what matplotlib deprecates
        return _plain(importlib.import_module("e2b_charts").chart_figure_to_dict(figure), _text) or None


def _json(value: Any) -> Any:
    return _plain(value, _refuse)


def _plain(value: Any, default: Any) -> Any:
    """Return a value as JSON has it, without NaN; None when it cannot be told or is too large."""
    pieces, size = [], 0
    try:
        for piece in json.JSONEncoder(default=default).iterencode(value):  # so no more is made than the bound
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_CHARACTERS:
                return None
        return json.loads("".join(pieces), parse_constant=lambda _: None)
    except (TypeError, ValueError, RecursionError):
        return None


def _refuse(value: Any) -> Any:
    """Return numbers of numpy as Python's; raises TypeError for what JSON has no word for."""
    if type(value).__module__ == "numpy":
        return value.tolist()
    raise TypeError(type(value).__name__)


def _text(value: Any) -> Any:
    """Return anything in words of JSON."""
    try:
        return _refuse(value)
    except TypeError:
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
