"""Predicted points as files: a table, COCO keypoints JSON, DeepLabCut CSV.

Every writer takes one frame after the other and keeps none, so that a long film does not fill the
memory; the file appears when all of it is written. Coordinates have three decimals.

Convention: pixels of the original images, (0, 0) being the centre of the top-left pixel, as in COCO
keypoints and DeepLabCut.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from landmark_lab import __version__
from landmark_lab.files import atomic
from landmark_lab.inference.inputs import Frame

Floats = NDArray[np.float64]

Add = Callable[[Frame, Floats, Floats], None]
"""Writes a frame's points (K, 2) in pixels, NaN where not found, and scores (K,)."""

HEADER = ("file", "frame", "point", "x", "y", "score")
SCORER = "landmark-lab"


@contextmanager
def tidy_table(
    folder: Path, names: Sequence[str], skeleton: Sequence[tuple[int, int]]
) -> Iterator[Add]:
    """``points.csv``: a row for each point of each frame, with the columns :data:`HEADER`.

    One row a point, and not one an image, because it holds the score as well and looks the same
    whatever the points are; pandas' ``pivot`` and spreadsheets' pivot tables make it wide.
    ``frame`` is empty for an image; ``x`` and ``y`` are empty where the point was not found.
    """
    with _text(folder / "points.csv") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)

        def add(frame: Frame, points: Floats, score: Floats) -> None:
            place = (frame.source.path.as_posix(), frame.number if frame.number >= 0 else "")
            for name, (x, y), certain in zip(names, points, score, strict=True):
                writer.writerow((*place, name, _cell(x), _cell(y), f"{certain:.4f}"))

        yield add


@contextmanager
def coco(folder: Path, names: Sequence[str], skeleton: Sequence[tuple[int, int]]) -> Iterator[Add]:
    """``coco.json``: COCO keypoints, with visibility 0 where a point was not found.

    Annotations carry the mean ``score`` and the ``keypoint_scores`` besides. Frames of a video are
    named as DeepLabCut would extract them; ``clip`` and ``frame`` say where they come from.
    """
    category = {
        "id": 1,
        "name": "object",
        "keypoints": list(names),
        "skeleton": [[i + 1, j + 1] for i, j in skeleton],
    }
    # The lists of images and of annotations follow one another in the file: one has to wait.
    with (
        _text(folder / "coco.json") as stream,
        tempfile.TemporaryFile("w+", encoding="utf-8") as waiting,
    ):
        info = json.dumps({"description": f"predicted by {SCORER} {__version__}"})
        stream.write(f'{{"info": {info},\n"categories": [{json.dumps(category)}],\n"images": [')
        written = 0

        def add(frame: Frame, points: Floats, score: Floats) -> None:
            nonlocal written
            comma = ",\n" if written else "\n"
            written += 1
            stream.write(comma + json.dumps(_coco_image(written, frame)))
            waiting.write(comma + json.dumps(_coco_annotation(written, points, score)))

        yield add
        stream.write('\n],\n"annotations": [')
        waiting.seek(0)
        shutil.copyfileobj(waiting, stream)
        stream.write("\n]}\n")


def _coco_image(number: int, frame: Frame) -> dict[str, Any]:
    height, width = frame.image.shape[:2]
    image = {"id": number, "file_name": frame.name, "width": width, "height": height}
    if frame.number >= 0:
        image |= {"clip": frame.source.path.as_posix(), "frame": frame.number}
    return image


def _coco_annotation(number: int, points: Floats, score: Floats) -> dict[str, Any]:
    found = np.asarray(~np.isnan(points).any(1))
    rounded = np.round(points, 3)
    keypoints = [
        value
        for (x, y), known in zip(rounded.tolist(), found, strict=True)
        for value in ((x, y, 2) if known else (0, 0, 0))
    ]
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "keypoints": keypoints,
        "num_keypoints": int(found.sum()),
        "iscrowd": 0,
        "score": round(float(score.mean()), 4),
        "keypoint_scores": np.round(score, 4).tolist(),
    }


@contextmanager
def deeplabcut(
    folder: Path, names: Sequence[str], skeleton: Sequence[tuple[int, int]]
) -> Iterator[Add]:
    """``deeplabcut.csv``, and ``deeplabcut/NAME.csv`` for each video.

    The first has the form of hand-made labels, without scores, for all images and frames: to be
    corrected by hand, and read by whatever reads labels. The others have the form in which
    DeepLabCut itself writes what it finds in a video: a row for each frame, its number in front,
    and x, y and likelihood (here: the score) of each point.
    """
    with ExitStack() as videos, _text(folder / "deeplabcut.csv") as stream:
        labels = _with_header(stream, names, ("x", "y"))
        tracks: dict[Path, Any] = {}

        def add(frame: Frame, points: Floats, score: Floats) -> None:
            labels.writerow([frame.name, *map(_cell, points.ravel())])
            if frame.number < 0:
                return
            path = frame.source.path
            if path not in tracks:
                videos.close()  # the film before is complete
                file = videos.enter_context(_text(folder / "deeplabcut" / f"{path.stem}.csv"))
                tracks[path] = _with_header(file, names, ("x", "y", "likelihood"))
            cells = [
                cell
                for (x, y), certain in zip(points, score, strict=True)
                for cell in (_cell(x), _cell(y), f"{certain:.4f}")
            ]
            tracks[path].writerow([frame.number, *cells])

        yield add


TABLES: Mapping[str, Callable[..., AbstractContextManager[Add]]] = {
    "csv": tidy_table,
    "coco": coco,
    "deeplabcut": deeplabcut,
}
"""Writers by the name of their format; each takes a folder, the names and the skeleton."""


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        yield stream


def _with_header(stream: TextIO, names: Sequence[str], coordinates: Sequence[str]) -> Any:
    """A writer below DeepLabCut's three header rows."""
    writer = csv.writer(stream, lineterminator="\n")
    columns = [(name, axis) for name in names for axis in coordinates]
    writer.writerow(["scorer", *[SCORER] * len(columns)])
    writer.writerow(["bodyparts", *(name for name, _ in columns)])
    writer.writerow(["coords", *(axis for _, axis in columns)])
    return writer


def _cell(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"
