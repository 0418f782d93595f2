"""Percentage of correct keypoints (PCK), here a share.

A predicted point is correct if it lies within α times the size of the object from the annotation;
the size is the longer side of the target's box, max(w, h), unless another normaliser is named.
Published numbers differ in two more ways, so both are named: α, and whether the share is taken
*per image* and then averaged over images, or *per point* over all points of all images, in which
images with many known points weigh more.

Convention: any isotropic coordinates, the same for points, predictions and size.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from landmark_lab.metrics.nme import point_errors
from landmark_lab.metrics.rows import RowMetric

Average = Literal["image", "point"]


def longer_side(box: Tensor) -> Tensor:
    """The longer side of each box, max(w, h).

    Args:
        box: (B, 4), x0, y0, x1, y1.

    Returns:
        (B,), NaN where the box is unknown or empty.
    """
    side = (box[:, 2:] - box[:, :2]).amax(-1)
    return torch.where(side > 0, side, torch.nan)


def correct_points(predicted: Tensor, points: Tensor, size: Tensor, alpha: float) -> Tensor:
    """Which points are correct.

    Args:
        predicted: (B, P, 2). A prediction that is NaN leaves its point out.
        points: (B, P, 2) annotation, NaN where unknown.
        size: (B,) of the object; an image without a positive one is left out.
        alpha: the threshold as a share of the size.

    Returns:
        (B, P): 1 for a distance of at most alpha·size, 0 for a larger one, NaN for what is left
        out.
    """
    return at_most(point_errors(predicted, points, size), alpha)


def at_most(errors: Tensor, threshold: float) -> Tensor:
    """1 for each error (...) up to a threshold, else 0, NaN kept."""
    return (errors <= threshold).to(errors.dtype).masked_fill(errors.isnan(), torch.nan)


def share_correct(correct: Tensor, average: Average = "image") -> Tensor:
    """The share of correct points.

    Args:
        correct: (B, P), see :func:`correct_points`.
        average: ``image``: the mean over images of each image's share; ``point``: the share of all
            points.

    Returns:
        A scalar in [0, 1], NaN if no point counts.
    """
    return correct.nanmean(-1).nanmean() if average == "image" else correct.nanmean()


class CorrectKeypoints(RowMetric):
    """:func:`share_correct` over batches and processes, each image counted once.

    Args:
        alpha: the threshold as a share of the object's size.
        average: over ``image`` or ``point``.
    """

    higher_is_better = True
    is_differentiable = False

    def __init__(self, alpha: float = 0.1, average: Average = "image", **settings: Any) -> None:
        super().__init__(("correct",), **settings)
        self.alpha, self.average = alpha, average

    def update(self, predicted: Tensor, points: Tensor, size: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            predicted, points, size: see :func:`correct_points`.
            index: (B,) position of each image in its split.
        """
        self.keep(index, correct=correct_points(predicted, points, size, self.alpha))

    def compute(self) -> Tensor:
        """The share over all images seen by all processes."""
        return share_correct(self.rows()["correct"], self.average)
