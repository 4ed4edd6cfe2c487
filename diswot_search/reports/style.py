"""Colours, figures and numbers that all reports share."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


# A palette for every kind of colour vision. Source: Okabe and Ito, "Color Universal Design", 2008.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#9A9A9A"


PINK, SKY, AMBER = "#CC79A7", "#56B4E9", "#E69F00"


def human_number(value: float) -> str:
    """A count with up to four digits and its unit.

    Example:
        >>> human_number(273258)
        '273.3 k'
    """
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:g}"


def format_count(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one.

    Example:
        >>> format_count(1200, "class")
        '1,200 classes'
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def shortened(text: str, length: int) -> str:
    """A text of limited length: a longer one loses its middle, since names differ at their ends.

    Example:
        >>> shortened("a_rather_long_name_of_a_class", 16)
        'a_rathe..._class'
    """
    letters = length - 3
    return text if len(text) <= length else f"{text[: letters - letters // 2]}...{text[-(letters // 2) :]}"


def to_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    return content.getvalue()


def new_figure(width: float = 7, height: float = 4.2) -> Figure:
    """An empty figure, whose layout makes room for titles, labels and legends.

    It has its own canvas instead of one from pyplot, which keeps figures in global state and may need a display.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> Axes:
    """Give axes the style of all pictures: a faint grid and no box."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def label_log_axis(axis: Axis) -> None:
    """Put plain numbers at 1, 2 and 5 times each power of ten of a logarithmic axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def label_points(
    figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]], coloured: Sequence[str]
) -> None:
    """Write a label near each point, at the closest place where it covers no other label and no point."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles the layout, so that points have their final positions
    places = {label: axes.transData.transform(point) for label, point in points.items()}
    taken = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in places.values()]
    frame = axes.get_window_extent()
    scale = figure.dpi / 72
    for label in sorted(places, key=lambda label: (label not in coloured, -points[label][1])):
        colour = BLUE if label in coloured else "dimgrey"
        text = axes.annotate(
            label, points[label], xytext=(0, 0), textcoords="offset points", fontsize=7, color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        size = text.get_window_extent()
        for shift_x, shift_y in _shifts(size.width / scale):
            x, y = places[label] + scale * np.array([shift_x, shift_y])
            place = Bbox.from_bounds(x, y - size.height / 2, size.width, size.height)
            if frame.x0 <= place.x0 and place.x1 <= frame.x1 and not place.count_overlaps(taken):
                break
        text.set_position((shift_x, shift_y))
        taken.append(place)


def _shifts(width: float) -> Iterator[tuple[float, float]]:
    """Offsets in points from a dot at which its label may begin: right and left, then farther up and down."""
    for distance in range(0, 90, 8):
        for shift_y in (distance, -distance):
            for shift_x in (5.0 + distance / 4, -5.0 - distance / 4 - width, -width / 2 if distance else 5.0):
                yield shift_x, shift_y


def name_points(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], names: Sequence[str], distance: float
) -> None:
    """Write names in a column right of the axes, each with a line to its point.

    The total length of the lines is the least possible, so that no two of them cross.

    Args:
        axes: Axes of the points.
        x: (N,) horizontal coordinates of the points.
        y: (N,) vertical coordinates.
        names: N names.
        distance: Least distance of two names, as a share of the height of the axes.
    """
    from scipy.optimize import linear_sum_assignment

    points = np.stack([_share(x, axes.get_xlim()), _share(y, axes.get_ylim())], axis=1)
    heights = np.sort(points[:, 1])
    for place in range(1, len(heights)):
        heights[place] = max(heights[place], heights[place - 1] + distance)
    heights[-1] = min(heights[-1], 1.0)
    for place in reversed(range(len(heights) - 1)):
        heights[place] = min(heights[place], heights[place + 1] - distance)
    ends = np.stack([np.full_like(heights, 1.04), heights], axis=1)
    lengths = np.linalg.norm(points[:, None] - ends, axis=2)
    for point, end in zip(*linear_sum_assignment(lengths), strict=True):
        axes.annotate(
            names[point], (x[point], y[point]), (1.04, heights[end]), textcoords="axes fraction", va="center",
            fontsize=8, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 3},
        )  # fmt: skip


def _share(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """The position of values between two limits, from 0 to 1."""
    return (values - limits[0]) / (limits[1] - limits[0])
