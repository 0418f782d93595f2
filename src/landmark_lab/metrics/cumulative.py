"""The distribution of errors over images: cumulative error curve, area below it, failure rate.

A mean hides whether a method fails a little everywhere or completely on a few images. The
cumulative error distribution F(t) is the share of images whose error is at most t. Two numbers are
read off it: the failure rate 1 − F(t) above a threshold t, and the area under the curve up to the
threshold, divided by it, so that a perfect method has 1::

    AUC(t) = 1/t ∫₀ᵗ F(e) de = mean over images of max(0, 1 − e/t)

The second form is the first one, integrated by parts: no grid of thresholds is needed, and it is a
mean over images like any other, so it has a bootstrap interval.

A curve of another kind goes by the same name: the mean error of the n best points, for every n. It
shows whether a few points spoil the mean (D. Mallis, PhD thesis, Nottingham 2023, sections 2.6 and
4.5: of the annotated points regressed forward, and of the landmarks regressed backward).

Errors are in any unit, the thresholds in the same one; NaN is left out.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from landmark_lab.metrics.rows import RowMetric


def cumulative_errors(errors: Tensor, thresholds: Tensor) -> Tensor:
    """The cumulative error distribution F.

    Args:
        errors: (N,) error of each image, NaN where it does not count.
        thresholds: (T,).

    Returns:
        (T,) share of the images whose error is at most the threshold; NaN if no image counts.
    """
    known, _ = errors[~errors.isnan()].sort()
    below = torch.searchsorted(known, thresholds.to(known), right=True)
    return below.to(known.dtype) / len(known)


def area_contributions(errors: Tensor, threshold: float) -> Tensor:
    """What each error contributes to the area under the curve: max(0, 1 − e/t), NaN kept."""
    return (1 - errors / threshold).clamp(min=0)


def failures(errors: Tensor, threshold: float) -> Tensor:
    """1 for each error above the threshold, else 0, NaN kept."""
    return (errors > threshold).to(errors.dtype).masked_fill(errors.isnan(), torch.nan)


def area_under_curve(errors: Tensor, threshold: float) -> Tensor:
    """Area under the cumulative error curve up to a threshold, divided by the threshold.

    Args:
        errors: (N,) error of each image, NaN where it does not count.
        threshold: where the area ends, positive.

    Returns:
        A scalar in [0, 1], 1 for errors of zero.
    """
    return area_contributions(errors, threshold).nanmean()


def failure_rate(errors: Tensor, threshold: float) -> Tensor:
    """Share of the images whose error is above a threshold.

    Args:
        errors: (N,) error of each image, NaN where it does not count.
        threshold: the largest error that is no failure.

    Returns:
        A scalar in [0, 1].
    """
    return failures(errors, threshold).nanmean()


def best_means(errors: Tensor) -> Tensor:
    """The mean error of the n best points, for n = 1 to all.

    Args:
        errors: (P,) mean error of each point, NaN for one that counts nowhere.

    Returns:
        (P',) rising, of the P' points that count; the last one is the mean of all.
    """
    known, _ = errors[~errors.isnan()].sort()
    numbers = torch.arange(1, len(known) + 1, device=known.device)
    means: Tensor = known.cumsum(0) / numbers
    return means


class _OfErrors(RowMetric):
    """A number about the errors of all images, each image counted once.

    Args:
        threshold: positive, in the unit of the errors.
    """

    is_differentiable = False

    def __init__(self, threshold: float, **settings: Any) -> None:
        if not threshold > 0:
            raise ValueError(f"the threshold must be positive, not {threshold}")
        super().__init__(("error",), **settings)
        self.threshold = threshold

    def update(self, errors: Tensor, index: Tensor) -> None:
        """Add a batch.

        Args:
            errors: (B,) error of each image, NaN where it does not count.
            index: (B,) position of each image in its split.
        """
        self.keep(index, error=errors)

    @abstractmethod
    def compute(self) -> Tensor:
        """The number for all images seen by all processes."""


class AreaUnderCurve(_OfErrors):
    """:func:`area_under_curve` over batches and processes, each image counted once."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area of all images seen by all processes."""
        return area_under_curve(self.rows()["error"], self.threshold)


class FailureRate(_OfErrors):
    """:func:`failure_rate` over batches and processes, each image counted once."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """The rate of all images seen by all processes."""
        return failure_rate(self.rows()["error"], self.threshold)
