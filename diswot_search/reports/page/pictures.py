"""Figures as pictures of a page: the same figures as those of the PNG files, as SVG that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..style import axis_number, shortened
from .blocks import Grid, Picture, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

_VARIABLES = {
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    "#696969": "var(--muted)",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--orange)",
    "#009e73": "var(--green)",
    "#9a9a9a": "var(--grey)",
    "#cc79a7": "var(--pink)",
    "#56b4e9": "var(--sky)",
    "#e69f00": "var(--amber)",
    "#b0b0b0": "var(--line)",
}
"""Colours of figures, and the variables of the page that stand for them."""

_MAX_TOLD = 2000
"""Most points of a picture that tell their values; more could not be pointed at one by one."""

_MAX_NAME = 60

_PIXELS_PER_POINT = 1.5
"""Largest scale of a picture, at which its smallest texts are as large as those of the page."""


def to_picture(
    figure: Figure, name: str, title: str, alt: str, *, points: Points | None = None, is_plain: bool = False
) -> Picture:
    """A figure as a picture of a page.

    Args:
        figure: The figure.
        name: A name that no other picture of the page has.
        title: The caption.
        alt: What it shows.
        points: What can be pointed at; by default the points of all labelled lines, which tell their values.
        is_plain: Whether its colours stay the same on a dark page.
    """
    from matplotlib import rc_context

    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", transparent=not is_plain, metadata=_NO_METADATA)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    widest = f' style="max-width: {_PIXELS_PER_POINT * 72 * figure.get_figwidth():.0f}px"'
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', widest, svg, count=1)
    svg = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"\n\s*", "\n", svg)
    if not is_plain:
        svg = re.sub(r"#[0-9a-f]{6}\b", lambda match: _VARIABLES.get(match[0], match[0]), svg)
    told = points if points is not None else _told(figure)
    return Picture(svg=svg, title=title, alt=alt, points=told, is_plain=is_plain)


def points_of(figure: Figure, axes: Axes, x: ArrayLike, y: ArrayLike, grid: Grid, rows: Sequence[int]) -> Points:
    """Points of a picture that are rows of a table.

    Args:
        figure: The figure.
        axes: The axes that the points are in.
        x, y: (N,) coordinates.
        grid: The table.
        rows: The N rows.
    """
    places = _places(figure, axes, np.asarray(x, float), np.asarray(y, float))
    across, down = (tuple(np.round(column, 1).tolist()) for column in places.T)
    return Points(x=across, y=down, rows=tuple(rows), grid=grid)


def _places(figure: Figure, axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates in the view box, (N, 2), which has 72 units in an inch and its origin at the top."""
    figure.draw_without_rendering()  # settles the layout
    scale = 72 / figure.dpi
    points = axes.transData.transform(np.stack([x, y], axis=1)) * scale
    points[:, 1] = 72 * figure.get_figheight() - points[:, 1]
    return points


def _told(figure: Figure) -> Points | None:
    """The points of all labelled lines with what they tell; None without any, or if there are too many."""
    found = [point for axes in figure.axes for point in _points_in(figure, axes)]
    if not found or len(found) > _MAX_TOLD:
        return None
    x, y, texts = zip(*found, strict=True)
    return Points(x=x, y=y, texts=texts)


def _points_in(figure: Figure, axes: Axes) -> Iterator[tuple[float, float, str]]:
    across, down = (axes.get_xlabel().split(":")[0].split("(")[0].strip(), axes.get_ylabel())
    for line in axes.get_lines():
        name = str(line.get_label()).strip()
        if name.startswith("_") or line.get_transform() != axes.transData:
            continue  # without a name, or a line over the whole width
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        is_there = np.isfinite(x) & np.isfinite(y)
        if not is_there.any():
            continue
        places = _places(figure, axes, x[is_there], y[is_there])
        for (left, top), value, height in zip(places.tolist(), x[is_there], y[is_there], strict=True):
            where = f"{across or 'at'} {axis_number(value)}"
            text = f"{shortened(name, _MAX_NAME)}\n{where}\n{down or 'value'} {axis_number(height, 5)}"
            yield round(left, 1), round(top, 1), text
