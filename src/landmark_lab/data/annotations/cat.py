"""The CAT data set's format: ``NAME.jpg.cat`` beside ``NAME.jpg``, holding ``9 x1 y1 x2 y2 ...``.

The nine points are the eyes, the mouth, and three points of each ear; "left" is the left of the
picture.

Convention: the data set does not state where it counts from; as its whole numbers come from mouse
clicks, they are taken to count pixels from 0 at the centre of the top-left pixel, which is ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from landmark_lab.data.annotations.common import (
    Annotations,
    concatenate,
    format_number,
    number,
    read_text,
)
from landmark_lab.errors import DataError
from landmark_lab.files import write_text

CAT_NAMES = (
    *("left_eye", "right_eye", "mouth"),
    *("left_ear_outer", "left_ear_tip", "left_ear_inner"),
    *("right_ear_inner", "right_ear_tip", "right_ear_outer"),
)
CAT_FLIP = (1, 0, 2, 8, 7, 6, 5, 4, 3)
_CAT_SKELETON = ((0, 2), (1, 2), (0, 1), (3, 4), (4, 5), (6, 7), (7, 8))


def read_cat(path: str | Path) -> Annotations:
    """Read one ``.cat`` file, or all of them below a folder, in order of their names.

    Image names are relative to the folder. Errors are normalised by the distance of the eyes.

    Raises:
        DataError: a file is not in this format.
    """
    if Path(path).is_dir():
        files = sorted(Path(path).rglob("*.cat"))
        if not files:
            raise DataError("holds no .cat files", where=str(path))
        return concatenate([_read(file, Path(path)) for file in files], str(path))
    return _read(Path(path), Path(path).parent)


def _read(path: Path, root: Path) -> Annotations:
    where = str(path)
    words = read_text(path).split()
    values = [number(word, where) for word in words[1:]]
    if words[:1] != [str(len(CAT_NAMES))] or len(values) != 2 * len(CAT_NAMES):
        raise DataError(
            "is not a .cat file", where=where, allowed="the number 9, then x and y of nine points"
        )
    return Annotations(
        images=(path.with_suffix("").relative_to(root).as_posix(),),
        points=np.array(values).reshape(1, -1, 2),
        visible=np.ones((1, len(CAT_NAMES)), dtype=bool),
        names=CAT_NAMES,
        flip=CAT_FLIP,
        normalise_by=(0, 1),
        skeleton=_CAT_SKELETON,
        source=where,
    )


def write_cat(annotations: Annotations, folder: str | Path) -> None:
    """Write one file an image, beside where the image would be below ``folder``.

    Raises:
        DataError: there are not nine points, one is missing, or an image has two objects.
    """
    nine = len(annotations.names) == len(CAT_NAMES)
    if not nine or len(set(annotations.images)) < len(annotations) or not annotations.known.all():
        raise DataError("cannot be written as .cat: each image needs exactly nine known points")
    for image, points in zip(annotations.images, annotations.points, strict=True):
        words = [str(len(CAT_NAMES)), *map(format_number, points.ravel().tolist())]
        write_text(Path(folder) / f"{image}.cat", " ".join(words) + "\n")
