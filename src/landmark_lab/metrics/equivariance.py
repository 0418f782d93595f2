"""Equivariance: do the landmarks follow the image when it is warped?

With an image x, its warped copy x' = g(x) and a detector Φ, the error of a landmark is
|Φ(x') − g(Φ(x))|. By itself it says little: landmarks that ignore the image, or all track the same
spot, may have a small one. The label-free criterion for the best checkpoint therefore compares a
landmark's error with what the landmark *resolves*: how far it moves over images, and how far it
stays away from every other landmark, whichever is less::

    r_k = min(spread_k, separation_k),    criterion = mean over k of e_k / (e_k + r_k)

It is e/r of a single landmark mapped to [0, 1): 0 is perfect, 1/2 an error as large as what is
resolved, 1 a lost landmark. A landmark that does not move or that repeats another one has r = 0 and
counts as lost however small its error, so a collapsed run cannot win: with D of K landmarks
distinct and moving, the criterion is at least (K − D)/K, and shrinking all landmarks onto one spot
shrinks r as fast as e. There is no threshold to tune and no unit.

Convention: points are (x, y) in [-1, 1]; distances in the same units, so the image's side is 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landmark_lab.geometry.points import inside
from landmark_lab.metrics.distances import mean_distances
from landmark_lab.metrics.rows import RowMetric
from landmark_lab.metrics.spread import spread

# Added to the error: what resolves only rounding is lost even where the error is zero.
_ROUNDING = 1e-6


def equivariance_errors(warped: Tensor, expected: Tensor) -> Tensor:
    """Distance between the landmarks found in warped images and the warped landmarks.

    Args:
        warped: (B, K, 2), Φ(x'), NaN where not found.
        expected: (B, K, 2), g(Φ(x)).

    Returns:
        (B, K), NaN where a landmark was not found in one of the two images, or where the warp
        carries it out of the image, so that nothing could find it.
    """
    errors: Tensor = torch.linalg.vector_norm(warped - expected, dim=-1)
    return errors.masked_fill(~inside(expected), torch.nan)


def separation(landmarks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean distance over images of each landmark to the one that is nearest on average.

    Args:
        landmarks: (N, K, 2), NaN where not found.

    Returns:
        (K,) distances, and (K,) int64 which landmark it is. Infinite and the landmark itself if no
        other was ever found in the same image.
    """
    count = landmarks.shape[1]
    distances = mean_distances(landmarks)
    alone = torch.eye(count, dtype=torch.bool, device=landmarks.device)
    distances = distances.masked_fill(alone | distances.isnan(), torch.inf)
    nearest = distances.min(1)
    itself = torch.arange(count, device=landmarks.device)
    return nearest.values, torch.where(nearest.values.isinf(), itself, nearest.indices)


def lostness(error: Tensor, resolved: Tensor) -> Tensor:
    """How lost a landmark is: e / (e + r), from 0 (perfect) to 1.

    Args:
        error: (...) mean equivariance error, NaN if it could never be measured.
        resolved: (...) what the landmark resolves, NaN if it was never found.

    Returns:
        (...) in [0, 1]; 1 where either is NaN.
    """
    error = error + _ROUNDING
    return (error / (error + resolved)).nan_to_num(nan=1.0)


def equivariance_criterion(landmarks: Tensor, errors: Tensor) -> Tensor:
    """The label-free criterion for the best checkpoint, lower is better; see the module's text.

    Args:
        landmarks: (N, K, 2), Φ(x), NaN where not found.
        errors: (N, K), see :func:`equivariance_errors`.

    Returns:
        A scalar in [0, 1].
    """
    resolved = torch.minimum(spread(landmarks), separation(landmarks)[0])
    return lostness(errors.nanmean(0), resolved).mean()


class EquivarianceCriterion(RowMetric):
    """:func:`equivariance_criterion` over batches and processes, each image counted once."""

    higher_is_better = False
    is_differentiable = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(("landmarks", "errors"), **settings)

    def update(self, landmarks: Tensor, warped: Tensor, expected: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            landmarks: (B, K, 2), Φ(x), NaN where not found.
            warped: (B, K, 2), Φ(x').
            expected: (B, K, 2), g(Φ(x)).
            index: (B,) position of each image in its split.
        """
        errors = equivariance_errors(warped, expected)
        self.keep(index, landmarks=landmarks.float(), errors=errors.float())

    def compute(self) -> Tensor:
        """The criterion of all images seen by all processes."""
        rows = self.rows()
        return equivariance_criterion(rows["landmarks"], rows["errors"])
