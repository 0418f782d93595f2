"""What a page is made of: sections of blocks, without any HTML.

A section says what it shows; ``page.html`` has one macro for every kind of block. All text is
escaped there.

Convention: marks on a picture are points (x, y) in [-1, 1], ±1 being the picture's edges, see
``geometry/points.py``. On a picture r times as wide as high x is in [-r, r].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Tone = Literal["plain", "good", "warn", "bad"]
Shape = Literal["dot", "ring", "cross", "line"]


@dataclass(frozen=True)
class Text:
    """A paragraph; with a tone it is a notice with a coloured edge."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Facts:
    """Terms and what is known of them."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is: a command, a configuration."""

    kind: ClassVar[str] = "code"
    text: str
    label: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        tone: colours a word such as a verdict.
        landmark: puts the landmark's colour before the text.
        detail: a small line below.
        sub: a further row of the one above, indented.
    """

    text: str
    tone: Tone = "plain"
    landmark: int | None = None
    detail: str = ""
    sub: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows.

    Attributes:
        columns: the heading of each column; one that starts with "#" is a column of numbers.
        rows: as many cells as there are columns.
        caption: above the table.
    """

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Drawings side by side, or below each other where there is no room.

    Attributes:
        charts: the drawings.
        size: ``wide`` takes the whole width.
        title: above all of them.
    """

    kind: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    size: Literal["small", "medium", "wide"] = "medium"
    title: str = ""


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        svg: made by ``charts.py``.
        title: above it.
        alt: what it shows, for who cannot see it.
        caption: below it.
    """

    svg: str
    title: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Mark:
    """Something drawn on a picture.

    Attributes:
        shape: ``line`` goes from the point to ``end``.
        x, y: where.
        landmark: takes the landmark's colour and can be picked out by it; None takes ``role``'s.
        role: whose colour a mark has that is no landmark.
        label: a number beside it.
        size: radius, or the width of a line, in hundredths of the picture's half side.
        end: of a line.
    """

    shape: Shape
    x: float
    y: float
    landmark: int | None = None
    role: Literal["truth", "found", "axis"] = "found"
    label: str = ""
    size: float = 3.0
    end: tuple[float, float] = (math.nan, math.nan)

    @property
    def drawable(self) -> bool:
        """Whether it has a place; one far outside the picture has none."""
        places = (self.x, self.y, *(self.end if self.shape == "line" else ()))
        return all(abs(place) < 3 for place in places)


@dataclass(frozen=True)
class Stroke:
    """A line of many points drawn on a picture.

    Attributes:
        points: (x, y) of each.
        role: whose colour it takes.
    """

    shape: ClassVar[str] = "stroke"
    drawable: ClassVar[bool] = True
    points: Sequence[tuple[float, float]]
    role: Literal["truth", "found", "axis"] = "axis"


@dataclass(frozen=True)
class Picture:
    """A picture with marks.

    Attributes:
        source: a data URI, or None for an empty square.
        alt: what it shows.
        marks: what is drawn on it.
        label: a line below it.
        ratio: its width over its height.
    """

    source: str | None
    alt: str
    marks: Sequence[Mark | Stroke] = ()
    label: str = ""
    ratio: float = 1.0


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side.

    Attributes:
        pictures: in groups that stay together.
        caption: below all of them.
        size: how large they are shown; ``three``: that many side by side; ``wide``
            suits pictures wider than high, ``full`` very wide ones.
        title: above all of them.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Sequence[Picture]]
    caption: str = ""
    size: Literal["small", "medium", "large", "three", "wide", "full"] = "small"
    title: str = ""


@dataclass(frozen=True)
class Legend:
    """The landmarks by number and colour; picking one picks it out in all pictures."""

    kind: ClassVar[str] = "legend"
    landmarks: Sequence[int]


@dataclass(frozen=True)
class More:
    """Blocks that are folded away at first."""

    kind: ClassVar[str] = "more"
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Beside:
    """Blocks beside each other, or below each other where there is no room."""

    kind: ClassVar[str] = "beside"
    blocks: Sequence[Block]


Block = Beside | Text | Facts | Code | Table | Charts | Pictures | Legend | More


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        anchor: of links to it: letters and hyphens.
        title: the heading.
        lead: what it shows and how to read it.
        blocks: the content.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]


def number(value: float | None, unit: str = "") -> str:
    """A number with three digits that count, a dash for one that is unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−") + unit


def plural(count: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
