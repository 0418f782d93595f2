"""What scores of annotated points share: errors over repeats, references, distribution, notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.evaluation.common import (
    Annotated,
    Floats,
    image_means,
    listing,
    nan_mean,
    percent_errors,
    reference_shapes,
)
from landmark_lab.metrics.cumulative import area_contributions, failures

Measure = Callable[[Floats], Floats]
"""From the errors of points (..., N, P), in per cent and NaN where a point does not count, to a
value of each image (..., N)."""


@dataclass(frozen=True, eq=False)
class Guesses:
    """One method's guesses of the annotated points.

    Attributes:
        train: the training images.
        test: the scored images.
        errors: (R, N, P) per cent, a repeat a choice of annotated images; NaN where a point does
            not count.
        settings: what was measured of the protocol's choices, e.g. a number of images for "all".
        chosen: the landmarks that ``train`` and ``test`` hold, of all those found; None for all.
    """

    train: Annotated
    test: Annotated
    errors: Floats
    settings: Mapping[str, Any]
    chosen: NDArray[np.int64] | None = None

    def per_image(self, measure: Measure = image_means) -> Floats:
        """The mean over repeats of the value of each image (N,)."""
        return image_means(measure(self.errors).T)

    def deviation(self, measure: Measure = image_means) -> float | None:
        """Standard deviation over repeats of the mean over images; None without repeats."""
        if len(self.errors) == 1:
            return None
        return float(np.std([nan_mean(one) for one in measure(self.errors)], ddof=1))

    def per_point(self, measure: Measure = image_means) -> list[float]:
        """The mean over images and repeats for each point by itself."""
        points = range(self.errors.shape[2])
        return [nan_mean(measure(self.errors[:, :, [p]])) for p in points]


def usable(train: Annotated) -> NDArray[np.int64]:
    """The training images in which a point counts."""
    return np.flatnonzero(~np.isnan(train.points).all((1, 2)))


def references(
    train: Annotated, test: Annotated, measure: Measure = image_means
) -> dict[str, float | None]:
    """What guesses that are no method's get; see ``metrics/references.py``.

    Args:
        train: gives the mean shape.
        test: the scored images.
        measure: the value of an image.

    Returns:
        The mean over images for each of ``reference_shapes``.
    """
    return {
        name: nan_mean(measure(percent_errors(shape, test.points, test.normaliser)))
        for name, shape in reference_shapes(train.points, test.points).items()
    }


def distribution(threshold: float) -> dict[str, Measure]:
    """What the errors' distribution over images is summarised by, in per cent.

    Args:
        threshold: the largest error, in per cent, of an image that is no failure.

    Returns:
        ``auc``, the area under the cumulative error curve up to the threshold, and
        ``failure_rate``, the share of images above it; as means over images.
    """

    def areas(errors: Floats) -> Floats:
        return 100 * area_contributions(torch.from_numpy(image_means(errors)), threshold).numpy()

    def failed(errors: Floats) -> Floats:
        return 100 * failures(torch.from_numpy(image_means(errors)), threshold).numpy()

    return {"auc": areas, "failure_rate": failed}


def notes(guesses: Guesses, names: Sequence[str]) -> tuple[str, ...]:
    """What a reader must know before quoting a number about these errors."""
    found = []
    lost = np.isnan(guesses.test.landmarks).any(-1).mean()
    if lost:
        found.append(f"{100 * lost:.1f} % of the landmarks were not found and set to their mean")
    left_out = np.isnan(guesses.test.normaliser).sum()
    if left_out:
        found.append(f"{left_out} images without a normaliser were left out")
    known = ~np.isnan(guesses.test.points).all((0, 2))
    unfitted = np.isnan(guesses.errors).all(1) & known & ~np.isnan(guesses.test.normaliser).all()
    if unfitted.any():
        points = [names[p] for p in np.flatnonzero(unfitted.any(0)).tolist()]
        found.append(
            f"not annotated in any image of some fits, and left out there: {listing(points)}"
        )
    return tuple(found)
