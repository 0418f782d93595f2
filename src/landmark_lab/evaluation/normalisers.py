"""What an error is divided by.

Convention: the boxes and points of the square images that the method sees, in [-1, 1].
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.results import Predictions, SplitPredictions
from landmark_lab.errors import DataError
from landmark_lab.metrics.nme import box_side, pair_distance, points_box
from landmark_lab.metrics.pck import longer_side

Floats = NDArray[np.float64]

Normaliser = (
    Literal["data", "box", "points_box", "longer_side", "points_longer_side", "image"]
    | tuple[int, int]
    | tuple[str, str]
)
"""What an error is divided by:

- a pair of points, by number or by name: their distance (between the eyes, of the torso, of the
  shoulders);
- ``box``: √(w·h) of the object's box; ``longer_side``: its max(w, h);
- ``points_box`` and ``points_longer_side``: the same of the box around its known points;
- ``image``: the image's side;
- ``data``: the data set's own: its pair of points, else its box, else the box around the points.
"""


def normalisers(
    predictions: Predictions, split: SplitPredictions, choice: Normaliser
) -> tuple[Floats, str]:
    """The normaliser of each image.

    Args:
        predictions: of which ``split`` is one.
        split: annotated images.
        choice: which normaliser.

    Returns:
        (N,), NaN where unknown; and what it is, in words.

    Raises:
        DataError: the annotation has no box, or no such point.
    """
    assert split.points is not None
    if choice == "data":
        pair = predictions.provenance.normaliser
        if pair is not None:
            choice = (pair[0], pair[1])
        else:
            choice = "points_box" if split.box is None else "box"
    points = torch.from_numpy(split.points).double()
    match choice:
        case "image":
            return np.full(len(split), 2.0), "the image's side"
        case "points_box":
            return box_side(points_box(points)).numpy(), "√(w·h) of the box around the points"
        case "points_longer_side":
            sides = longer_side(points_box(points))
            return sides.numpy(), "the longer side of the box around the points"
        case "box":
            return box_side(_boxes(predictions, split)).numpy(), "√(w·h) of the box"
        case "longer_side":
            return longer_side(_boxes(predictions, split)).numpy(), "the longer side of the box"
    first, second = (_position(predictions, point) for point in choice)
    names = predictions.provenance.point_names
    distance = pair_distance(points, (first, second)).numpy()
    return distance, f"the distance from {names[first]} to {names[second]}"


def _boxes(predictions: Predictions, split: SplitPredictions) -> Tensor:
    if split.box is None:
        raise DataError(
            "has no boxes to normalise by",
            where=predictions.source,
            hint="'points_box' and 'points_longer_side' take the box around the known points",
        )
    return torch.from_numpy(split.box).double()


def _position(predictions: Predictions, point: int | str) -> int:
    """The position of a point that is given by its number or its name."""
    names = predictions.provenance.point_names
    if isinstance(point, str):
        if point not in names:
            raise DataError(
                f"the normaliser names a point '{point}', which is not annotated",
                where=predictions.source,
                got=point,
                allowed=names,
            )
        return names.index(point)
    if not 0 <= point < len(names):
        raise DataError(
            f"the normaliser names point {point}; there are {len(names)} points",
            where=predictions.source,
        )
    return point
