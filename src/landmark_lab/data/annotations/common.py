"""What every annotation reader returns, and the checks that no reader may skip.

Convention: points and boxes are in pixels; (0, 0) is the centre of the top-left pixel, so an image
of width W reaches from -0.5 to W - 0.5. Every reader converts from the convention of its format.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import DataError
from landmark_lab.files import IMAGE_SUFFIXES
from landmark_lab.geometry.symmetry import check_flip


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotated points of N objects, one row an object; usually one object an image.

    Attributes:
        images: image of each row, relative, with forward slashes, as the file names it.
        points: ``(N, P, 2)`` float64 pixels, (x, y); NaN where a point is not annotated.
        visible: ``(N, P)`` whether the point is annotated and seen (not hidden by something).
        names: the P names of the points.
        flip: left-right permutation: point i of a mirrored image is point ``flip[i]``; an
            involution; None if the format does not say.
        normalise_by: the pair of points whose distance normalises an error, or None.
        skeleton: pairs of points to join in drawings.
        box: ``(N, 4)`` pixels [x0, y0, x1, y1], NaN rows where there is none; or None.
        size: ``(N, 2)`` (width, height) of the image that was annotated, 0 if unknown; or None.
        identity: who or what is on the image, "" if unknown; or None.
        clip: the film or series of the image, "" if unknown; or None.
        frame: ``(N,)`` number of the image in its clip, -1 if unknown; or None.
        label: ``(N,)`` class number, -1 if unknown; or None.
        source: the file, for messages.

    Raises:
        DataError: the values contradict one another; the message names ``source``.
    """

    images: tuple[str, ...]
    points: NDArray[np.float64]
    visible: NDArray[np.bool_]
    names: tuple[str, ...]
    flip: tuple[int, ...] | None = None
    normalise_by: tuple[int, int] | None = None
    skeleton: tuple[tuple[int, int], ...] = ()
    box: NDArray[np.float64] | None = None
    size: NDArray[np.int64] | None = None
    identity: tuple[str, ...] | None = None
    clip: tuple[str, ...] | None = None
    frame: NDArray[np.int64] | None = None
    label: NDArray[np.int64] | None = None
    source: str = ""

    def __post_init__(self) -> None:
        rows, count = len(self.images), len(self.names)
        self._expect(count > 0, "names no points")
        self._expect(self.points.shape == (rows, count, 2), "points do not fit images and names")
        self._expect(self.visible.shape == (rows, count), "visible does not fit the points")
        per_row = {"box": (rows, 4), "size": (rows, 2)}
        for field in ("box", "size", "frame", "label", "identity", "clip"):
            value = getattr(self, field)
            self._expect(
                value is None or np.shape(value) == per_row.get(field, (rows,)),
                f"{field} does not fit",
            )
        repeated = {name for name in self.names if self.names.count(name) > 1}
        self._expect(not repeated, f"two points are called '{min(repeated, default='')}'")
        unknown = np.isnan(self.points)
        bad = unknown.any(axis=2) & ~unknown.all(axis=2) | np.isinf(self.points).any(axis=2)
        for row, point in np.argwhere(bad)[:1]:
            name, image = self.names[point], self.images[row]
            self._expect(False, f"point '{name}' of image '{image}' is not a pair of numbers")
        self._expect(not (self.visible & ~self.known).any(), "a missing point is called visible")
        if self.flip is not None:
            check_flip(self.flip, count, self.source or None)
        for pair in (*self.skeleton, *([self.normalise_by] if self.normalise_by else [])):
            self._expect(
                all(0 <= i < count for i in pair), f"{pair} names a point beyond 0..{count - 1}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def known(self) -> NDArray[np.bool_]:
        """``(N, P)`` whether the point is annotated."""
        return np.asarray(~np.isnan(self.points).any(axis=2))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Annotations:
        """The given rows, in the given order."""
        chosen = np.asarray(rows, dtype=np.int64)
        changes: dict[str, Any] = {}
        for name in _PER_ROW:
            value = getattr(self, name)
            if isinstance(value, tuple):
                changes[name] = tuple(value[i] for i in chosen)
            elif value is not None:
                changes[name] = value[chosen]
        return replace(self, **changes)

    def blank(self, images: Sequence[str]) -> Annotations:
        """Rows without any annotation, for other images of the same kind of object."""
        nothing: dict[str, Any] = dict.fromkeys(_PER_ROW[3:])
        return replace(
            self,
            images=tuple(images),
            points=np.full((len(images), len(self.names), 2), np.nan),
            visible=np.zeros((len(images), len(self.names)), dtype=bool),
            **nothing,
        )

    def _expect(self, condition: bool, problem: str) -> None:
        if not condition:
            raise DataError(problem, where=self.source or "annotations")


_PER_ROW = ("images", "points", "visible", "box", "size", "identity", "clip", "frame", "label")


def concatenate(parts: Sequence[Annotations], source: str) -> Annotations:
    """The rows of several annotations of the same points, in order.

    Raises:
        DataError: the parts annotate different points.
    """
    first = parts[0]
    for part in parts[1:]:
        for name in ("names", "flip", "normalise_by", "skeleton"):
            if getattr(part, name) != getattr(first, name):
                raise DataError(
                    f"has other {name} than {first.source}",
                    where=part.source,
                    hint="annotations of one data set must describe the same points",
                )
    changes: dict[str, Any] = {"source": source}
    for field in fields(Annotations):
        if field.name not in _PER_ROW:
            continue
        values = [getattr(part, field.name) for part in parts]
        if all(value is None for value in values):
            continue
        if field.name in ("images", "identity", "clip"):
            changes[field.name] = tuple(
                item
                for part, value in zip(parts, values, strict=True)
                for item in (value if value is not None else ("",) * len(part))
            )
        else:
            template = next(value for value in values if value is not None)
            fill = {"visible": 0, "box": np.nan, "size": 0}.get(field.name, -1)
            changes[field.name] = np.concatenate(
                [
                    value
                    if value is not None
                    else np.full((len(part), *template.shape[1:]), fill, dtype=template.dtype)
                    for part, value in zip(parts, values, strict=True)
                ]
            )
    return replace(first, **changes)


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        DataError: it is missing or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError("is not a text file", where=str(path)) from error


def csv_rows(text: str, where: str, delimiter: str = ",") -> list[list[str]]:
    """The rows of a CSV that are not empty.

    Raises:
        DataError: a quotation mark is never closed, so that the rest of the file is one cell.
    """
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"is not a readable CSV ({error})", where=where) from error
    return [row for row in rows if any(cell.strip() for cell in row)]


def number(text: str, where: str) -> float:
    """A finite number.

    Raises:
        DataError: the text is something else.
    """
    # float() also takes "1_0", "nan" and "inf", which are never coordinates.
    if _NUMBER.fullmatch(text.strip()):
        value = float(text)
        if np.isfinite(value):
            return value
    raise DataError(f"'{text[:40]}' is not a number", where=where)


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def format_number(value: float) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return (
        str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))
    )


def posix(name: str) -> str:
    """A relative image path with forward slashes; annotation tools on Windows write backslashes."""
    return name.strip().replace("\\", "/")


def frame_number(image: str) -> int:
    """The last number in an image's name, which counts frames by custom; -1 if there is none."""
    digits = re.findall(r"\d+", Path(image).stem)
    return int(digits[-1]) if digits and len(digits[-1]) < 18 else -1


def image_beside(path: Path) -> Path:
    """The image with the same stem in the same folder as an annotation file.

    Raises:
        DataError: there is none, or there are several.
    """
    found = sorted(
        other
        for other in path.parent.glob(f"{_escaped(path.stem)}.*")
        if other.suffix.lower() in IMAGE_SUFFIXES
    )
    if len(found) != 1:
        listed = ", ".join(other.name for other in found)
        raise DataError(
            f"has several images beside it: {listed}" if found else "has no image beside it",
            where=str(path),
            allowed=f"one file '{path.stem}' with one of {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    return found[0]


def _escaped(stem: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", stem)
