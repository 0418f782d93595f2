"""Plain CSV: one row an object, the easiest file to make from a spreadsheet.

::

    image,nose_x,nose_y,tail_x,tail_y
    a.png,10.5,20,,
    b/c.png,11,21.5,80,44

- ``image``: path of the image;
- ``NAME_x``, ``NAME_y``: a point; or ``x0``, ``y0``, ``x1``, ``y1``, ... for points 0, 1, ...;
  empty cells where the point is not annotated;
- optional ``NAME_visible``: 1 seen, 0 hidden (seen, if the column is absent);
- optional ``box_x0``, ``box_y0``, ``box_x1``, ``box_y1``, ``identity``, ``clip``, ``frame``,
  ``label``.

Columns are separated by commas, semicolons or tabs; any other column is refused, for it may be a
misspelt one.

Convention: pixels count from 0 at the centre of the top-left pixel, which is ours.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.annotations.common import (
    Annotations,
    csv_rows,
    format_number,
    number,
    posix,
    read_text,
)
from landmark_lab.errors import DataError
from landmark_lab.files import write_text

_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
_TEXTS = ("identity", "clip")
_COUNTS = ("frame", "label")
_POINT = re.compile(r"(?P<name>.+)_(?P<axis>[xy])|(?P<numbered>[xy])(?P<index>\d+)", re.ASCII)


def separator(header: str) -> str:
    """The character that separates the columns of a header line."""
    for mark in ",;\t":
        if "image" in (cell.strip().strip('"') for cell in header.split(mark)):
            return mark
    return max(",;\t", key=header.count)


def read_table(path: str | Path) -> Annotations:
    """Read a plain CSV.

    Raises:
        DataError: the file is not such a table; the message names the row or the column.
    """
    where = str(path)
    text = read_text(path)
    rows = csv_rows(text, where, separator(text.partition("\n")[0]))
    header = [cell.strip() for cell in rows[0]] if rows else []
    allowed = "columns 'image', then 'NAME_x' and 'NAME_y' of each point"
    if "image" not in header:
        raise DataError("has no column 'image'", where=where, allowed=allowed)
    if len(set(header)) < len(header):
        repeated = next(name for name in header if header.count(name) > 1)
        raise DataError(f"has two columns '{repeated}'", where=where)
    column = {name: i for i, name in enumerate(header)}

    names: dict[str, dict[str, int]] = {}
    for name in header:
        match = _POINT.fullmatch(name)
        if match and name not in _BOX:
            point = match["name"] or f"point_{int(match['index'])}"
            axis = match["axis"] or match["numbered"]
            if names.setdefault(point, {}).setdefault(axis, column[name]) != column[name]:
                raise DataError(f"has two columns for {axis} of point '{point}'", where=where)
    if not names:
        raise DataError("has no points", where=where, allowed=allowed)
    for name, axes in names.items():
        if len(axes) < 2:
            raise DataError(f"has only one coordinate of point '{name}'", where=where)
    hidden = {name: f"{name}_visible" for name in names}
    used = {*_BOX, *_TEXTS, *_COUNTS, "image", *hidden.values()}
    used |= {header[i] for axes in names.values() for i in axes.values()}
    for name in header:
        if name not in used:
            raise DataError("is not a known column", where=f"{where}: '{name}'", allowed=allowed)
    if 0 < sum(name in column for name in _BOX) < len(_BOX):
        raise DataError("has only a part of a box", where=where, allowed=_BOX)

    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(
                f"row {line} has {len(row)} cells instead of {len(header)}", where=where
            )

    def texts(name: str) -> tuple[str, ...]:
        return tuple(row[column[name]].strip() for row in rows[1:])

    def values(name: str) -> NDArray[np.float64]:
        cells = texts(name)
        return np.array(
            [
                np.nan if cell.lower() in ("", "nan") else number(cell, f"{where}: row {line}")
                for line, cell in enumerate(cells, start=2)
            ]
        )

    def counts(name: str) -> NDArray[np.int64]:
        found = np.nan_to_num(values(name), nan=-1)
        for line, value in enumerate(found.tolist(), start=2):
            if not value.is_integer() or abs(value) >= 2**53:
                raise DataError(f"row {line}: {name} {value:g} is not a whole number", where=where)
        return found.astype(np.int64)

    images = tuple(posix(image) for image in texts("image"))
    if "" in images:
        raise DataError(f"row {images.index('') + 2} names no image", where=where)
    points = np.stack(
        [
            np.stack([values(header[axes["x"]]), values(header[axes["y"]])], axis=-1)
            for axes in names.values()
        ],
        axis=1,
    )
    visible = np.asarray(~np.isnan(points).any(axis=2))
    for i, name in enumerate(names):
        if hidden[name] in column:
            seen = values(hidden[name])
            if not np.isin(seen[visible[:, i]], (0, 1)).all():
                raise DataError("is not 0 or 1", where=f"{where}: '{hidden[name]}'")
            visible[:, i] &= seen == 1
    return Annotations(
        images=images,
        points=points,
        visible=visible,
        names=tuple(names),
        box=np.stack([values(name) for name in _BOX], axis=1) if _BOX[0] in column else None,
        identity=texts("identity") if "identity" in column else None,
        clip=texts("clip") if "clip" in column else None,
        frame=counts("frame") if "frame" in column else None,
        label=counts("label") if "label" in column else None,
        source=where,
    )


def write_table(annotations: Annotations, path: str | Path) -> None:
    """Write a plain CSV that :func:`read_table` reads back unchanged.

    The format holds neither a flip permutation nor a normalising pair, skeleton or image size.
    """
    points, known = annotations.points, annotations.known
    header, columns = ["image"], [list(annotations.images)]
    some_hidden = bool((known & ~annotations.visible).any())
    for i, name in enumerate(annotations.names):
        for axis, letter in enumerate("xy"):
            header.append(f"{name}_{letter}")
            columns.append([_cell(value) for value in points[:, i, axis].tolist()])
        if some_hidden:
            header.append(f"{name}_visible")
            columns.append([str(int(seen)) for seen in annotations.visible[:, i]])
    if annotations.box is not None:
        for i, name in enumerate(_BOX):
            header.append(name)
            columns.append([_cell(value) for value in annotations.box[:, i].tolist()])
    for name in _TEXTS:
        if (texts := getattr(annotations, name)) is not None:
            header.append(name)
            columns.append(list(texts))
    for name in _COUNTS:
        if (counts := getattr(annotations, name)) is not None:
            header.append(name)
            columns.append(["" if count == -1 else str(count) for count in counts.tolist()])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *zip(*columns, strict=True)])
    write_text(path, text.getvalue())


def _cell(value: float) -> str:
    return "" if np.isnan(value) else format_number(value)
