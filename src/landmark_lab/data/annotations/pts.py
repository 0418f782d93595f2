"""``.pts`` files as the iBUG group publishes them (300-W and others): one file an image.

::

    version: 1
    n_points: 68
    {
    336.8 240.2
    ...
    }

The image lies beside the file under the same name (``face_01.pts``, ``face_01.jpg``).

Convention: coordinates count pixels from 1 at the centre of the top-left pixel (as Matlab does), so
1 is subtracted from both. The format has no missing points.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from landmark_lab.data.annotations.common import (
    Annotations,
    concatenate,
    format_number,
    image_beside,
    number,
    read_text,
)
from landmark_lab.errors import DataError
from landmark_lab.files import write_text

IBUG_FLIP = (
    *range(16, -1, -1),  # jaw
    *range(26, 16, -1),  # brows
    *(27, 28, 29, 30, 35, 34, 33, 32, 31),  # nose
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),  # eyes
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),  # outer lips
    *(64, 63, 62, 61, 60, 67, 66, 65),  # inner lips
)
"""Left-right permutation of the 68 points of iBUG."""

IBUG_EYE_CORNERS = (36, 45)

_LAYOUT = re.compile(r"\s*version\s*:\s*\d+\s*n_points\s*:\s*(\d+)\s*\{([^{}]*)\}\s*", re.ASCII)


def read_pts(path: str | Path) -> Annotations:
    """Read one ``.pts`` file, or all of them below a folder, in order of their names.

    Image names are relative to the folder. 68 points are taken for iBUG's: they get its flip
    permutation and are normalised by the outer corners of the eyes.

    Raises:
        DataError: a file is not in this format, or has no image beside it.
    """
    if Path(path).is_dir():
        files = sorted(Path(path).rglob("*.pts"))
        if not files:
            raise DataError("holds no .pts files", where=str(path))
        return concatenate([_read(file, Path(path)) for file in files], str(path))
    return _read(Path(path), Path(path).parent)


def _read(path: Path, root: Path) -> Annotations:
    where = str(path)
    match = _LAYOUT.fullmatch(read_text(path))
    if match is None:
        raise DataError(
            "is not a .pts file",
            where=where,
            allowed="'version: 1', 'n_points: N', then N lines 'x y' between braces",
        )
    values = [number(word, where) for word in match.group(2).split()]
    count = int(match.group(1)) if len(match.group(1)) < 9 else -1
    if len(values) != 2 * count:
        raise DataError(
            f"announces {match.group(1)[:12]} points and holds {len(values)} numbers", where=where
        )
    ibug = count == len(IBUG_FLIP)
    return Annotations(
        images=(image_beside(path).relative_to(root).as_posix(),),
        points=np.array(values).reshape(1, -1, 2) - 1,
        visible=np.ones((1, count), dtype=bool),
        names=tuple(f"{'ibug' if ibug else 'point'}_{i:02d}" for i in range(count)),
        flip=IBUG_FLIP if ibug else None,
        normalise_by=IBUG_EYE_CORNERS if ibug else None,
        source=where,
    )


def write_pts(annotations: Annotations, folder: str | Path) -> None:
    """Write one file an image, where the image would be below ``folder``.

    Raises:
        DataError: a point is missing, or an image has two objects: the format has neither.
    """
    if len(set(annotations.images)) < len(annotations) or not annotations.known.all():
        raise DataError("cannot be written as .pts: points are missing, or images occur twice")
    for image, points in zip(annotations.images, annotations.points, strict=True):
        lines = [f"{format_number(x)} {format_number(y)}" for x, y in (points + 1).tolist()]
        text = "\n".join(["version: 1", f"n_points: {len(lines)}", "{", *lines, "}"])
        write_text((Path(folder) / image).with_suffix(".pts"), text + "\n")
