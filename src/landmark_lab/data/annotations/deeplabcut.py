"""DeepLabCut's hand-made labels: CSV with three header rows (scorer, bodyparts, coords).

The image stands in the first column (``labeled-data/video/img001.png``) or, in newer files, in the
first three (``labeled-data``, ``video``, ``img001.png``). Empty cells are points that nobody could
see. The image's folder is its clip, and the last number of its name the frame.

Convention: DeepLabCut counts pixels from 0 at the centre of the top-left pixel, which is ours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from landmark_lab.data.annotations.common import (
    Annotations,
    concatenate,
    csv_rows,
    format_number,
    frame_number,
    number,
    posix,
    read_text,
)
from landmark_lab.errors import DataError
from landmark_lab.files import write_text

_HEADER = ("scorer", "bodyparts", "coords")


def read_deeplabcut(path: str | Path) -> Annotations:
    """Read a label file, or every ``CollectedData*.csv`` below a folder, in order of their names.

    Raises:
        DataError: a file is not such a CSV: predictions, several animals, damaged rows, ...
    """
    if Path(path).is_dir():
        files = label_files(Path(path))
        if not files:
            raise DataError("holds no CollectedData*.csv", where=str(path))
        return concatenate([read_deeplabcut(file) for file in files], str(path))
    where = str(path)
    rows = csv_rows(read_text(path), where)
    heads = tuple(row[0].strip() for row in rows[:4])
    if heads[:1] == ("scorer",) and "individuals" in heads:
        raise DataError(
            "holds several animals (a header row 'individuals')",
            where=where,
            allowed="labels of one animal, with the header rows " + ", ".join(_HEADER),
        )
    if heads[:3] != _HEADER:
        raise DataError(
            "is not a DeepLabCut label file",
            where=where,
            allowed="a CSV whose first three rows begin with " + ", ".join(_HEADER),
        )
    scorers, parts, axes = ([cell.strip() for cell in row] for row in rows[:3])
    # pandas fills the two empty header cells of the three-column index when it writes a file again.
    index = 1
    while index < len(axes) and (not axes[index] or axes[index].startswith("Unnamed:")):
        index += 1
    scorers, parts, axes = scorers[index:], parts[index:], axes[index:]
    if "likelihood" in axes:
        raise DataError(
            "holds predictions of a network (a column 'likelihood'), not labels",
            where=where,
            hint="use the CollectedData file of the project's labeled-data folder",
        )
    if len(set(scorers)) > 1:
        raise DataError(f"holds the labels of several scorers: {sorted(set(scorers))}", where=where)
    if (
        not axes
        or not len(scorers) == len(parts) == len(axes)
        or axes != ["x", "y"] * (len(axes) // 2)
        or parts[::2] != parts[1::2]
    ):
        raise DataError("the header's columns are not x and y of each body part", where=where)

    images: list[str] = []
    points = np.full((len(rows) - 3, len(axes) // 2, 2), np.nan)
    for i, row in enumerate(rows[3:]):
        images.append(posix("/".join(cell.strip() for cell in row[:index] if cell.strip())))
        here = f"{where}: image '{images[-1]}'"
        if not images[-1] or len(row) != index + len(axes):
            raise DataError(f"has {len(row)} cells instead of {index + len(axes)}", where=here)
        for column, cell in enumerate(row[index:]):
            if cell.strip().lower() not in ("", "nan"):
                points[i, column // 2, column % 2] = number(cell, here)
    folders = [image.rpartition("/")[0].rpartition("/")[2] for image in images]
    return Annotations(
        images=tuple(images),
        points=points,
        visible=~np.isnan(points).any(axis=2),
        names=tuple(parts[::2]),
        clip=tuple("" if folder == "labeled-data" else folder for folder in folders),
        frame=np.array([frame_number(image) for image in images], dtype=np.int64),
        source=where,
    )


def write_deeplabcut(annotations: Annotations, path: str | Path, scorer: str = "human") -> None:
    """Write the one-column form, which every version of DeepLabCut reads.

    The format holds images and points only: no boxes, flip permutation or hidden points.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    doubled = [name for name in annotations.names for _ in "xy"]
    writer.writerow(["scorer"] + [scorer] * len(doubled))
    writer.writerow(["bodyparts", *doubled])
    writer.writerow(["coords"] + ["x", "y"] * len(annotations.names))
    for image, row in zip(annotations.images, annotations.points, strict=True):
        writer.writerow([image, *_cells(row.ravel().tolist())])
    write_text(path, text.getvalue())


def label_files(folder: Path) -> list[Path]:
    """The label files of a DeepLabCut project, one a video."""
    return sorted(folder.rglob("CollectedData*.csv"))


def _cells(values: Sequence[float]) -> list[str]:
    return ["" if np.isnan(value) else format_number(value) for value in values]
