"""Paired bootstrap: is one of two methods better on the same test images?

Two intervals that overlap say little, because both methods find the same images hard. The
difference of the errors of the same image does not have that common part: images are drawn with
replacement, both methods are averaged over the same draw, and the differences of these means are
looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from landmark_lab.metrics.bootstrap import percentile_interval, resampled_means

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """How a value changes from one method to another on the same images.

    Attributes:
        difference: mean over images of the first method's value minus the second's.
        low, high: bootstrap interval of the difference.
        first_lower: share of the draws in which the first method's mean is lower; a tie counts
            half.
        images: number of images in which both have a value.
    """

    difference: float
    low: float
    high: float
    first_lower: float
    images: int


def paired_difference(
    first: Floats, second: Floats, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Compare two methods on the same images.

    Args:
        first, second: (N,) value of each image, NaN where it does not count; only images in which
            both count are compared.
        resamples: number of draws.
        seed: of the draws.
        level: share of the draws inside the interval.

    Raises:
        ValueError: there are different numbers of images, or none that counts for both.
    """
    if first.shape != second.shape:
        raise ValueError(f"{len(first)} and {len(second)} images cannot be paired")
    differences = first - second
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        raise ValueError("no image counts for both")
    draws = resampled_means(differences[:, None], resamples, seed)[:, 0]
    low, high = percentile_interval(draws, level)
    lower = float(np.mean(draws < 0) + np.mean(draws == 0) / 2)
    return PairedDifference(float(differences.mean()), low, high, lower, len(differences))
