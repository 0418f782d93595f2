"""Charts as SVG that lives in a page: its text in the page's font, its colours the page's.

matplotlib draws; the only file that imports it. What it draws in one of the colours below is given
the page's colour of that name, so that one drawing is legible on light and on dark paper.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from landmark_lab.figures import point_colour

Floats = NDArray[np.float64]
Colour = Literal["ink", "muted", "line", "accent", "second", "third", "fourth", "bad", "pale"]

_COLOURS: dict[Colour, str] = {
    "ink": "#010101",
    "muted": "#010102",
    "line": "#010103",
    "accent": "#010104",
    "second": "#010105",
    "third": "#010106",
    "fourth": "#010107",
    "bad": "#010108",
    "pale": "#010109",
}
_CROWD = 15
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "the same drawing is the same text",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _COLOURS["muted"],
    "axes.labelcolor": _COLOURS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _COLOURS["line"],
    "grid.linewidth": 0.7,
    "text.color": _COLOURS["ink"],
    "xtick.color": _COLOURS["muted"],
    "ytick.color": _COLOURS["muted"],
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "path.simplify_threshold": 0.5,
}


@dataclass(frozen=True, eq=False)
class Line:
    """A line of a chart.

    Attributes:
        x, y: (N,) each; NaN leaves a gap.
        label: in the legend; none if empty.
        colour: of the page.
        style: of the stroke.
        faint: drawn thin and pale, behind the others.
        dots: a dot at every point.
        steps: it jumps at each point instead of rising towards it.
        error: (N,) half the length of a bar at every point, or None.
    """

    x: Floats
    y: Floats
    label: str = ""
    colour: Colour = "accent"
    style: Literal["-", "--", ":"] = "-"
    faint: bool = False
    dots: bool = False
    steps: bool = False
    error: Floats | None = None


def lines(
    drawn: Sequence[Line],
    x_label: str,
    y_label: str = "",
    *,
    log_x: bool = False,
    log_y: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    small: bool = False,
) -> str:
    """A chart of lines."""
    with _chart((3.6, 2.3) if small else (5.4, 3.5)) as (axes, svg):
        for line in drawn:
            colour = _COLOURS[line.colour]
            look: dict[str, Any] = {"color": colour, "linestyle": line.style}
            if line.faint:
                look |= {"linewidth": 0.8, "alpha": 0.35}
            if line.steps:
                look["drawstyle"] = "steps-post"
            if line.dots:
                look |= {"marker": "o", "markersize": 3 if small else 4.5}
            axes.plot(line.x, line.y, label=line.label or "_", **look)
            if line.error is not None:
                axes.errorbar(
                    line.x, line.y, line.error, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5
                )
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        axes.set(xlabel=x_label, ylabel=y_label, xlim=x_range, ylim=y_range)
        if x_ticks is not None:
            axes.set_xticks(x_ticks, [f"{tick:g}" for tick in x_ticks])
            axes.set_xticks([], minor=True)
        elif not log_x and _whole(line.x for line in drawn):
            axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        if log_y:
            low, high = axes.get_ylim()
            _plain_ticks(axes.yaxis, high / low)
        elif _whole(line.y for line in drawn):
            axes.locator_params(axis="y", integer=True, min_n_ticks=1)
        if any(line.label for line in drawn):
            above = (0.0, 1.0)  # where no line can be
            axes.legend(loc="lower left", bbox_to_anchor=above, ncols=2, borderaxespad=0.3)
    return svg()


def _whole(values: Iterable[Floats]) -> bool:
    """Whether all that is finite is whole: rounds, clusters, images."""
    return all(bool((some[np.isfinite(some)] % 1 == 0).all()) for some in values)


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Numbers instead of powers of ten on a logarithmic axis with this ratio of its ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0,) if ratio > 100 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def bars_across(
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[Colour],
    interval: tuple[int, float, float] | None = None,
) -> str:
    """Horizontal bars with their names and numbers, the first on top.

    Args:
        labels, values, colours: of the bars.
        interval: (which bar, low, high): a line over the end of that bar.
    """
    with _chart((5.4, 0.12 + 0.34 * len(labels))) as (axes, svg):
        rows = np.arange(len(labels))[::-1]
        axes.barh(rows, values, height=0.62, color=[_COLOURS[colour] for colour in colours])
        ends = np.array(values)
        if interval is not None:
            bar, low, high = interval
            ends[bar] = max(ends[bar], high)
            axes.plot([low, high], [rows[bar]] * 2, color=_COLOURS["ink"], linewidth=1.6)
        room = 0.012 * max(ends.max(), 1e-9)
        for row, value, end in zip(rows, values, ends, strict=True):
            axes.text(end + room, row, f"{value:.3g}", va="center")
        axes.set_yticks(rows, labels, color=_COLOURS["ink"])
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set(xticks=[], xlim=(0, ends.max() * 1.12 or 1))
        axes.set_ylim(-0.5, len(labels) - 0.5)
        axes.grid(False)
    return svg()


def bars(labels: Sequence[str], values: Floats, y_label: str, reference: float, name: str) -> str:
    """Vertical bars in the given order, and a line across for comparison.

    Args:
        labels: below the bars; some of them where there are many.
        values: (N,) NaN for no bar.
        y_label: of the axis.
        reference: height of the line.
        name: of the line.
    """
    count = len(labels)
    with _chart((9.6, 3.0)) as (axes, svg):
        axes.bar(np.arange(count), np.nan_to_num(values), width=0.75, color=_COLOURS["accent"])
        axes.axhline(reference, color=_COLOURS["ink"], linewidth=1, linestyle="--")
        axes.text(count - 0.4, reference, f" {name}", va="center")
        step = -(-count // 34)
        axes.set_xticks(range(0, count, step), [*labels][::step], rotation=60, ha="right")
        axes.tick_params(axis="x", length=0, pad=1)
        axes.grid(False, axis="x")
        axes.set(ylabel=y_label, xlim=(-0.8, count - 0.2))
    return svg()


def numbered(x: Floats, y: Floats, x_label: str, y_label: str, diagonal: tuple[str, str]) -> str:
    """Landmarks in their colours and with their numbers, by two of their qualities.

    Args:
        x, y: (K,) each, on logarithmic axes; NaN is not drawn.
        x_label, y_label: of the axes.
        diagonal: what it means to lie above and below the line x = y. In a crowd only landmarks
            above it have their numbers.
    """
    with _chart((5.4, 4.6)) as (axes, svg):
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        values = np.concatenate([x[known], y[known]])
        end = 1.6 * values.max(initial=1e-9)
        start = max(0.6 * values.min(initial=end), end / 1000)
        axes.set_xscale("log")
        axes.set_yscale("log")
        line = np.array([start, end])
        axes.fill_between(line, line, end, color=_COLOURS["bad"], alpha=0.1, linewidth=0)
        axes.plot(line, line, color=_COLOURS["muted"], linewidth=1, linestyle="--")
        words: dict[str, Any] = {"transform": axes.transAxes, "color": _COLOURS["muted"]}
        axes.text(0.02, 0.98, diagonal[0], ha="left", va="top", **words)
        axes.text(0.98, 0.02, diagonal[1], ha="right", va="bottom", **words)
        for k in known.tolist():
            at = np.clip((x[k], y[k]), start, end)
            colour = "#{:02x}{:02x}{:02x}".format(*point_colour(k))
            axes.plot(*at, "o", color=colour, markersize=6, markeredgecolor="#333333")
            if len(known) <= _CROWD or y[k] > x[k]:
                axes.annotate(str(k), at, (4, 3), textcoords="offset points", fontsize=8)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(start, end), ylim=(start, end))
        _plain_ticks(axes.xaxis, end / start)
        _plain_ticks(axes.yaxis, end / start)
    return svg()


def heat(values: Floats, rows: Sequence[str], columns: Sequence[str], x_label: str) -> str:
    """Numbers as depth of colour: none for 0, full for the largest.

    Args:
        values: (R, C), not negative; NaN counts as 0.
        rows, columns: their names.
        x_label: below the names of the columns.
    """
    filled = np.nan_to_num(values)
    height = 0.7 + max(min(0.16, 6.0 / len(rows)) * len(rows), 0.9)
    with _chart((9.6, height)) as (axes, svg):
        # One colour whose opacity is the value: legible on any paper.
        image = np.zeros((*filled.shape, 4))
        image[..., :3] = np.array([0x2F, 0x7F, 0xD0]) / 255
        image[..., 3] = filled / max(filled.max(initial=0), 1e-9)
        axes.imshow(image, aspect="auto", interpolation="none")
        step = 1 if len(rows) <= 40 else 2
        axes.set_yticks(np.arange(0, len(rows), step), [*rows][::step], fontsize=7)
        axes.set_xticks(np.arange(len(columns)), columns, fontsize=7)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.set_xlabel(x_label)
        for side in axes.spines.values():
            side.set_visible(True)
            side.set_color(_COLOURS["line"])
    return svg()


def scattered(x: Floats, y: Floats, numbers: Sequence[int | None]) -> str:
    """Points in the colours of their numbers, on axes that mean nothing.

    Args:
        x, y: (N,) each.
        numbers: of each point; None: pale, behind the others.
    """
    with _chart((3.6, 3.4)) as (axes, svg):
        for coloured in (False, True):
            rows = [i for i, number in enumerate(numbers) if (number is not None) == coloured]
            fill: Any = _COLOURS["pale"]
            if coloured:
                fill = ["#{:02x}{:02x}{:02x}".format(*point_colour(numbers[i] or 0)) for i in rows]
            axes.scatter(x[rows], y[rows], s=9, c=fill, linewidths=0)
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set_visible(True)
            side.set_color(_COLOURS["line"])
    return svg()


def level_lines(values: Floats, known: NDArray[np.bool_]) -> list[Floats]:
    """Where a map (H, W) is zero: lines of points (N, 2) in pixels, x and y.

    Args:
        values: the map.
        known: (H, W) where there are lines at all.
    """
    from contourpy import contour_generator  # matplotlib's own, without a figure

    masked = np.ma.masked_array(values, ~known)
    return [np.asarray(line) for line in contour_generator(z=masked).lines(0.0)]


@contextmanager
def _chart(inches: tuple[float, float]) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Axes to draw on, and a function that gives the SVG when the drawing is done."""
    # Not pyplot, which keeps every figure and may look for a screen.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure.add_subplot(), lambda: _for_page(buffer.getvalue())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)


def _for_page(svg: str) -> str:
    """A file of matplotlib's as a part of a page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would count for all charts
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r" xmlns(:\w+)?=\"[^\"]*\"| version=\"1.1\"", "", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", svg)
    # A page may hold each id once: only what is referred to keeps one, of this drawing alone.
    own = "c" + hashlib.blake2b(svg.encode(), digest_size=4).hexdigest()
    used = set(re.findall(r"#([a-zA-Z]\w*)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: f' id="{own}{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{own}", svg)
    for name, sentinel in _COLOURS.items():
        svg = svg.replace(sentinel, f"var(--{name})")
    return re.sub(r"\s*\n\s*", " ", svg).strip()
