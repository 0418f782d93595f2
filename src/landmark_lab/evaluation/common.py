"""What protocols share: which points count, coordinates, references, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.results import Predictions, Value
from landmark_lab.errors import DataError
from landmark_lab.evaluation.normalisers import Normaliser, normalisers
from landmark_lab.geometry.points import from_pixels, to_pixels
from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.nme import point_errors
from landmark_lab.metrics.references import at_centroid, at_centroid_and_scale, mean_shape, sizes
from landmark_lab.metrics.regression import LinearMap, Regressor, fit_linear

Floats = NDArray[np.float64]

Coordinates = Literal["centred", "unit", "pixels"]
"""Units of a regressor: [-1, 1] about the image's centre; [0, 1] or pixels from its top-left."""

Counted = Literal["visible", "annotated"]
"""Which points are fitted and scored: those seen in the image, or all whose place is known."""


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
    if split.landmarks.shape[1] == 0:
        raise DataError(
            "holds no landmarks, which this protocol needs",
            where=predictions.source,
            hint="'matching' scores correspondences",
        )
    if split.points is None:
        raise DataError(
            f"the split '{name}' has no annotated points, which this protocol needs",
            where=predictions.source,
        )
    points = split.points.astype(np.float64)
    sides, divisor = normalisers(predictions, split, normaliser)
    if counted == "visible" and split.visible is not None:
        points = np.where(split.visible[..., None], points, np.nan)
    if np.isnan(points).all():
        raise DataError(
            f"no point of the split '{name}' is {counted} in any of its {len(split)} images",
            where=predictions.source,
            hint=None if np.isnan(split.points).all() else "'points: annotated' counts hidden ones",
        )
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

    def fit(self, sources: Floats, targets: Floats) -> PointMap:
        """Fit targets (N, B, 2) from sources (N, A, 2), both in [-1, 1] with NaN where unknown."""
        linear = fit_linear(
            self.flat(sources),
            self.flat(targets),
            self.regressor,
            self.bias,
            self.alpha,
            self.relative,
        )
        return PointMap(self, linear)

    def flat(self, points: Floats) -> Floats:
        """Points (N, A, 2) in [-1, 1] as rows (N, 2·A) in the regressor's units."""
        if self.coordinates == "unit":
            points = (points + 1) / 2
        elif self.coordinates == "pixels":
            points = to_pixels(torch.from_numpy(points), self.size, self.size).numpy()
        return points.reshape(len(points), -1)

    def points(self, rows: Floats) -> Floats:
        """The inverse of :meth:`flat`."""
        found = rows.reshape(len(rows), -1, 2)
        if self.coordinates == "unit":
            return found * 2 - 1
        if self.coordinates == "pixels":
            return from_pixels(torch.from_numpy(found), self.size, self.size).numpy()
        return found


@dataclass(frozen=True, eq=False)
class PointMap:
    """A fitted :class:`PointRegression`: a map from points (M, A, 2) to points (M, B, 2).

    Attributes:
        regression: its settings.
        linear: the weights (2·A, 2·B) and more, in the regressor's units; x and y alternate.
        chosen: which of the points it is handed are these A; all by default.
    """

    regression: PointRegression
    linear: LinearMap
    chosen: NDArray[np.int64] | None = None

    def __call__(self, points: Floats) -> Floats:
        """Points (M, B, 2) regressed from points (M, A, 2), NaN where missing; in [-1, 1]."""
        points = points if self.chosen is None else points[:, self.chosen]
        return self.regression.points(self.linear(self.regression.flat(points)))


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
