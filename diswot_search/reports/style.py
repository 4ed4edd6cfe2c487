"""Colours, figures and numbers that all reports share."""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
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
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{unit}"
    return f"{value:g}"


def axis_number(value: float, digits: int = 4) -> str:
    """A number on an axis: with its unit if it is large, as a power of ten if it is beyond all units.

    Args:
        value: The number.
        digits: Most digits.

    Example:
        >>> [axis_number(value) for value in (-0.5, 2e8, 3e30, 1.5e-7)]
        ['-0.5', '200 M', '3·10³⁰', '1.5·10⁻⁷']
    """
    size = abs(value)
    if not size or 1e-4 <= size < 1e3:
        return _positional(value, digits)
    if 1e3 <= size < 1e4:
        return f"{value:,.{max(digits - 4, 0)}f}"
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if limit <= size < 1e3 * limit:
            return _positional(value / limit, digits) + unit
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{_positional(float(mantissa), digits)}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def _positional(value: float, digits: int) -> str:
    """A number with so many digits at most, without an exponent."""
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def format_count(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is one.

    Example:
        >>> format_count(1200, "class")
        '1,200 classes'
    """
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def format_duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, as its size asks for.

    Example:
        >>> format_duration(49), format_duration(90), format_duration(7200)
        ('49 seconds', '1.5 minutes', '2 hours')
    """
    size, unit = next((size, unit) for size, unit in _UNITS_OF_TIME if seconds >= size or size == 1)
    text = f"{seconds / size:.3g}"
    return f"{text} {unit if text == '1' else f'{unit}s'}"


_UNITS_OF_TIME = ((3600, "hour"), (60, "minute"), (1, "second"))


def describe_workers(counts: Mapping[str, int], total: int, job: str, *, did: str, noun: str) -> Iterator[str]:
    """Say in a line how many workers made the records of a job; no line if its own process made them all.

    Args:
        counts: Number of records of each worker, by its name.
        total: Number of all records.
        job: Name of the job.
        did: What was done with a record, in the past tense.
        noun: Name of a record.

    Example:
        >>> list(describe_workers({"worker 0": 5, "worker 1": 7}, 15, "search", did="made", noun="record"))
        ["workers: 2 made 12 records, 5 to 7 each; the search's own process made 3"]
    """
    if of_each := counts.values():
        each = f"{min(of_each):,} to {max(of_each):,} each" if len(of_each) > 1 else "all of them"
        own = f"; the {job}'s own process {did} {total - sum(of_each):,}" if total > sum(of_each) else ""
        yield f"workers: {len(of_each):,} {did} {format_count(sum(of_each), noun)}, {each}{own}"


def shortened(text: str, length: int) -> str:
    """A text of limited length: a longer one loses its middle, since names differ at their ends.

    Example:
        >>> shortened("a_rather_long_name_of_a_class", 16)
        'a_rathe..._class'
    """
    letters = length - 3
    return text if len(text) <= length else f"{text[: letters - letters // 2]}...{text[-(letters // 2) :]}"


_DPI = 150
"""Resolution of all pictures in dots per inch; text is measured at the one at which it is drawn."""


def to_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    return content.getvalue()


def new_figure(width: float = 7, height: float = 4.2) -> Figure:
    """An empty figure, whose layout makes room for titles, labels and legends.

    It has its own canvas instead of one from pyplot, which keeps figures in global state and may need a display.

    Args:
        width: Width in inches.
        height: Height in inches, with a title of one line and a legend of one row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> Axes:
    """Give axes the style of all pictures: a faint grid, no box, and numbers without a factor beside the axis."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    for axis in (axes.xaxis, axes.yaxis):
        label_axis(axis)
    return axes


def label_axis(axis: Axis) -> None:
    """Put plain numbers at the ticks of an axis, with as many digits as tell them apart."""
    from matplotlib.ticker import FuncFormatter

    class Numbers(FuncFormatter):
        def format_ticks(self, values: Sequence[float]) -> list[str]:
            labels: list[str] = []
            for digits in range(3, 17):
                labels = [axis_number(value, digits) for value in values]
                if len(set(labels)) == len(set(values)):
                    break
            return labels

    axis.set_major_formatter(Numbers(lambda value, _: axis_number(value)))


def label_log_axis(axis: Axis) -> None:
    """Put plain numbers on a logarithmic axis, however narrow or wide its range.

    They are at 1, 2 and 5 times the powers of ten; at powers of ten alone where those are too many, and evenly spaced
    where fewer than two are in sight.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    class Places(LogLocator):
        def tick_values(self, vmin: float, vmax: float) -> Sequence[float]:
            for locator in (LogLocator(subs=(1, 2, 5)), LogLocator(subs=(1,)), MaxNLocator(5)):
                places = np.asarray(locator.tick_values(vmin, vmax))
                if np.count_nonzero((places >= vmin) & (places <= vmax) & (places > 0)) >= 2:
                    return places[places > 0].tolist()
            return [vmin, vmax]

        def __call__(self) -> Sequence[float]:
            assert self.axis is not None
            return self.tick_values(*sorted(self.axis.get_view_interval()))

    axis.set_major_locator(Places())
    label_axis(axis)
    axis.set_minor_formatter(NullFormatter())


# -- names ----------------------------------------------------------------------------------------


TITLE_SIZE = 11
"""Size of a title in points."""


_USABLE = 0.94
"""Share of a figure's width that text may have by the widths of its letters; drawn ones are up to 3 % wider."""

_MAX_TITLE_LINES = 3
"""Most lines of a title or a line below it; longer ones lose their middle."""


_LINE_HEIGHT = 0.19
"""Height of a line of a title, and of a row of a legend, in inches."""


def drawable(text: str) -> str:
    """A text that a picture can show: characters that the font lacks are escaped, as are line breaks and the like.

    Example:
        >>> print(drawable("grün" + chr(9) + chr(0x732B)))
        grün\\t\\u732b
    """
    known = _characters()
    return "".join(
        letter if ord(letter) in known and letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


@functools.cache
def _characters() -> frozenset[int]:
    """The characters of the font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def escape_markdown(text: str) -> str:
    """A text in which nothing is read as Markdown or HTML."""
    return re.sub(r"[\\`*<>|~\[\]&]|(?<!\w)_|_(?!\w)", lambda match: f"\\{match[0]}", " ".join(text.split()))


def set_title(figure: Figure, *paragraphs: str) -> None:
    """Write a title over the whole figure, which grows by as many lines as the title needs.

    Args:
        figure: The figure.
        paragraphs: The title, and any text below it. Each is broken where the figure ends.
    """
    lines = [line for text in paragraphs if text for line in _broken(figure, drawable(text))]
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * (len(lines) - 1))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=TITLE_SIZE, parse_math=False)


def _broken(figure: Figure, text: str) -> list[str]:
    """The lines of a text that fit the width of a figure."""
    width = _USABLE * figure.get_figwidth() * 72
    for length in range(260, 20, -20):
        lines = [""]
        for word in re.findall(r"\S+\s*", shortened(text, length)):
            if _width(lines[-1] + word.rstrip()) > width and lines[-1]:
                lines.append("")
            for letter in word:
                if _width((lines[-1] + letter).rstrip()) > width:
                    lines.append("")
                lines[-1] += letter
        if len(lines) <= _MAX_TITLE_LINES:
            break
    return [line.rstrip() for line in lines]


def _width(text: str, size: float = TITLE_SIZE) -> float:
    """The width of a text in points."""
    return sum(_letter_width(letter) for letter in text) * size


@functools.lru_cache(maxsize=4096)
def _letter_width(letter: str) -> float:
    """The width of a letter as a share of the size of the font."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    font.set_size(100, 72)
    return float(font.load_char(ord(letter)).linearHoriAdvance) / 65536 / 100


def add_legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str], *, size: float = 10) -> None:
    """Put a legend below the axes, in as many columns as the figure has room for; it grows by the other rows.

    Args:
        figure: The figure.
        handles: The lines and points.
        names: Their names.
        size: Size of the letters in points.
    """
    if not names:
        return
    labels = [legend_name(name) for name in names]
    column = max(_width(label, size) for label in labels) + 5 * size  # with the line before it and the space behind it
    columns = max(1, min(len(labels), int(_USABLE * figure.get_figwidth() * 72 / column)))
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)
    figure.set_figheight(figure.get_figheight() + _LINE_HEIGHT * (rows - 1))
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=size)
    for text in legend.get_texts():
        text.set_parse_math(False)


def add_side_legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str], title: str) -> None:
    """Put a legend with a title right of the axes."""
    labels = [legend_name(name, 30) for name in names]
    legend = figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8, title=title)
    for text in legend.get_texts():
        text.set_parse_math(False)


def legend_name(name: str, length: int = 60) -> str:
    """A name as the label of a line: cut to a length, and without the underscore in front that hides a line."""
    name = shortened(drawable(name), length)
    return f" {name}" if name.startswith("_") else name


def legend_entries(figure: Figure) -> dict[str, Artist]:
    """All that has a label in the axes of a figure, once for each label."""
    return {
        name: handle for axes in figure.axes for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }


def name_ticks(axis: Axis, names: Sequence[str], *, length: int = 40, size: float = 8, rotation: float = 0) -> None:
    """Name the places 0, 1, 2 ... of an axis.

    Args:
        axis: The axis.
        names: The names in order.
        length: Most characters; a longer name loses its middle.
        size: Size of the letters in points.
        rotation: Angle of the names in degrees.
    """
    labels = [shortened(drawable(name), length) for name in names]
    axis.set_ticks(range(len(names)), labels, fontsize=size, rotation=rotation, parse_math=False)


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
            shortened(drawable(label), 30), points[label], parse_math=False, xytext=(0, 0),
            textcoords="offset points", fontsize=7, color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        size = text.get_window_extent()
        for shift_x, shift_y in _shifts(size.width / scale):
            x, y = places[label] + scale * np.array([shift_x, shift_y])
            place = Bbox.from_bounds(x, y - size.height / 2, size.width, size.height)
            if frame.x0 <= place.x0 and place.x1 <= frame.x1 and not place.count_overlaps(taken):
                break
        if shift_x < -size.width / scale:  # held at its end, which stays clear of the point at any resolution
            text.set_horizontalalignment("right")
            shift_x += size.width / scale
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
            shortened(drawable(names[point]), 34), (x[point], y[point]), (1.04, heights[end]),
            textcoords="axes fraction", va="center",
            fontsize=8, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 3},
        )  # fmt: skip


def _share(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.float64]:
    """The position of values between two limits, from 0 to 1."""
    return (values - limits[0]) / (limits[1] - limits[0])
