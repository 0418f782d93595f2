"""What protocols share: which points count, normalisers, coordinates, references, intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, SplitPredictions, Value
from landmark_lab.errors import DataError
from landmark_lab.geometry.points import from_pixels, to_pixels
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.nme import box_side, pair_distance, point_errors, points_box
from landmark_lab.metrics.references import at_centroid, at_centroid_and_scale, mean_shape, sizes
from landmark_lab.metrics.regression import Regressor, fit_linear

Floats = NDArray[np.float64]

Coordinates = Literal["centred", "unit", "pixels"]
"""Units of a regressor: [-1, 1] about the image's centre; [0, 1] or pixels from its top-left."""

Counted = Literal["visible", "annotated"]
"""Which points are fitted and scored: those seen in the image, or all whose place is known."""

Normaliser = Literal["data", "box", "points_box", "image"] | tuple[int, int]
"""What an error is divided by: a pair of points (their distance); ``box``, √(w·h) of the object's
box; ``points_box``, the same of the box around its known points; ``image``, the image's side;
``data``, the data set's own: its pair of points, else its box, else the box around the points."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """The images of a split, in float64.

    Attributes:
        index: (N,) position in the split.
        landmarks: (N, K, 2), NaN where not found.
        points: (N, P, 2), NaN where a point does not count.
        normaliser: (N,), NaN where unknown.
        divisor: what the normaliser is, in words.
    """

    index: NDArray[np.int64]
    landmarks: Floats
    points: Floats
    normaliser: Floats
    divisor: str


def annotated(
    predictions: Predictions, name: str, normaliser: Normaliser, counted: Counted
) -> Annotated:
    """The landmarks and the points that count of a split.

    Raises:
        DataError: the split was not exported, has no annotation, or no such normaliser.
    """
    split = predictions.split(name)
    if split.points is None:
        raise DataError(
            f"the split '{name}' has no annotated points, which this protocol needs",
            where=predictions.source,
        )
    points = split.points.astype(np.float64)
    sides, divisor = _normalisers(predictions, split, normaliser)
    if counted == "visible" and split.visible is not None:
        points = np.where(split.visible[..., None], points, np.nan)
    if np.isnan(points).all():
        raise DataError(f"no point of the split '{name}' is {counted}", where=predictions.source)
    landmarks = split.landmarks.astype(np.float64)
    return Annotated(split.index, landmarks, points, sides, divisor)


@dataclass(frozen=True)
class PointRegression:
    """How points are regressed from points; see ``metrics/regression.py``.

    Attributes:
        regressor: ``ridge`` or ``least_squares``.
        bias: whether there is an intercept.
        alpha: parameter of ``ridge``, in the squared units of ``coordinates``.
        relative: whether alpha is multiplied by the largest entry of XᵀX.
        coordinates: the regressor's units.
        size: side of the images in pixels.
    """

    regressor: Regressor
    bias: bool
    alpha: float
    relative: bool
    coordinates: Coordinates
    size: int

    def fit(self, sources: Floats, targets: Floats) -> Callable[[Floats], Floats]:
        """Fit targets (N, B, 2) from sources (N, A, 2), both in [-1, 1] with NaN where unknown.

        Returns:
            The map from sources (M, A, 2) to targets (M, B, 2), again in [-1, 1].
        """
        linear = fit_linear(
            self._flat(sources),
            self._flat(targets),
            self.regressor,
            self.bias,
            self.alpha,
            self.relative,
        )

        def regress(points: Floats) -> Floats:
            found = linear(self._flat(points)).reshape(len(points), *targets.shape[1:])
            if self.coordinates == "unit":
                return found * 2 - 1
            if self.coordinates == "pixels":
                return from_pixels(torch.from_numpy(found), self.size, self.size).numpy()
            return found

        return regress

    def _flat(self, points: Floats) -> Floats:
        if self.coordinates == "unit":
            points = (points + 1) / 2
        elif self.coordinates == "pixels":
            points = to_pixels(torch.from_numpy(points), self.size, self.size).numpy()
        return points.reshape(len(points), -1)


def percent_errors(predicted: Floats, truth: Floats, normaliser: Floats) -> Floats:
    """Normalised error of every point in per cent.

    Args:
        predicted, truth: (N, P, 2).
        normaliser: (N,).

    Returns:
        (N, P), NaN where the point or the normaliser is unknown.
    """
    tensors = (torch.from_numpy(np.array(a)) for a in (predicted, truth, normaliser))
    return 100 * point_errors(*tensors).numpy()


def image_means(errors: Floats) -> Floats:
    """Means (..., N) of (..., N, P) without NaN; NaN where nothing is left."""
    return torch.from_numpy(errors).nanmean(-1).numpy()


def reference_shapes(train: Floats, test: Floats) -> dict[str, Floats]:
    """What predictors without a method say about the test images; see ``metrics/references.py``.

    Args:
        train: (N, P, 2) all annotated training images: their mean shape is the best one, so that
            a comparison never flatters a method.
        test: (M, P, 2), NaN where a point does not count.

    Returns:
        (M, P, 2) for ``mean_shape``, ``centroid`` and ``centroid_scale``.
    """
    shape = mean_shape(train)
    size = float(np.nanmean(sizes(shape, train)))
    return {
        "mean_shape": np.broadcast_to(shape, test.shape),
        "centroid": at_centroid(shape, test),
        "centroid_scale": at_centroid_and_scale(shape, test, size),
    }


def mean_value(per_image: Floats, resamples: int, seed: int) -> Value:
    """The mean of (N,) over images with its bootstrap interval; NaN is left out."""
    low, high = bootstrap_interval(per_image, resamples=resamples, seed=seed)
    return Value(nan_mean(per_image), low, high)


def nan_mean(values: Floats) -> float:
    """The mean without NaN; NaN, and no warning, if nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def listing(names: Sequence[object], limit: int = 5) -> str:
    """Names for a note: all of a few, the first of many."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def _normalisers(
    predictions: Predictions, split: SplitPredictions, choice: Normaliser
) -> tuple[Floats, str]:
    """The normaliser of each image (N,), and what it is in words."""
    assert split.points is not None
    if choice == "data":
        pair = predictions.provenance.normaliser
        if pair is not None:
            choice = (pair[0], pair[1])
        else:
            choice = "points_box" if split.box is None else "box"
    if choice == "image":
        return np.full(len(split), 2.0), "the image's side"
    points = torch.from_numpy(split.points).double()
    if choice == "points_box":
        return box_side(points_box(points)).numpy(), "√(w·h) of the box around the points"
    if choice == "box":
        if split.box is None:
            raise DataError("has no boxes to normalise by", where=predictions.source)
        return box_side(torch.from_numpy(split.box).double()).numpy(), "√(w·h) of the box"
    assert isinstance(choice, tuple)
    names = predictions.provenance.point_names
    for point in choice:
        if not 0 <= point < len(names):
            raise DataError(
                f"the normaliser names point {point}; there are {len(names)} points",
                where=predictions.source,
            )
    first, second = (names[point] for point in choice)
    return pair_distance(points, choice).numpy(), f"the distance from {first} to {second}"
