"""Bootstrap percentile intervals over images.

The images of a test set are a sample; the interval says how much a result would change with
another sample of the same size. Images are drawn with replacement, the statistic is computed for
every draw, and the interval holds its central share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from landmark_lab.seeding import rng

Floats = NDArray[np.float64]

# Entries of the count matrix held at a time (32 MB).
_BLOCK = 2**22


def resampled_images(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Images drawn with replacement, for a statistic that is no function of means.

    Args:
        images: N, how many there are.
        resamples: number of draws.
        seed: the draws are those of :func:`resampled_means`.

    Yields:
        (N,) int64 positions of the images of a draw.
    """
    for drawn in _draws(images, resamples, seed):
        yield from drawn


def _draws(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The images (rows, N) of some draws at a time."""
    generator = rng(seed, "bootstrap", images, resamples)
    block = max(1, _BLOCK // max(1, images))
    for first in range(0, resamples, block):
        yield generator.integers(images, size=(min(block, resamples - first), images))


def resampled_means(values: Floats, resamples: int, seed: int) -> Floats:
    """Means of the columns over resampled images.

    Args:
        values: (N, C), a row an image; NaN is left out of its column's mean.
        resamples: number of draws R.
        seed: the draws are a function of it, of N and of R: columns that are resampled in two
            calls see the same images.

    Returns:
        (R, C); NaN where a draw holds no value.
    """
    images = len(values)
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    complete = bool(known.all())
    means = [np.empty((0, values.shape[1]))]
    for drawn in _draws(images, resamples, seed):
        rows = len(drawn)
        drawn += images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        weights = counts.astype(np.float64)
        totals = float(images) if complete else weights @ known
        with np.errstate(invalid="ignore"):
            means.append((weights @ filled) / totals)
    return np.concatenate(means)


def percentile_interval(draws: Floats, level: float = 0.95) -> tuple[float, float]:
    """The central share of the draws of a statistic, NaN left out.

    Args:
        draws: (R,).
        level: the share, between 0 and 1.

    Returns:
        The lower and the upper end; NaN if there is no draw.
    """
    kept = draws[~np.isnan(draws)]
    if len(kept) == 0:
        return np.nan, np.nan
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    values: Floats,
    statistic: Callable[[Floats], Floats] | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval, over images, of a function of means over images.

    Args:
        values: (N,) or (N, C), a row an image; NaN is left out.
        statistic: maps means (R, C) to (R,); the mean itself by default, for one column.
        level: the share of the draws inside the interval.
        resamples: number of draws R.
        seed: see :func:`resampled_means`.

    Returns:
        The lower and the upper end; NaN if there is no value.
    """
    columns = values[:, None] if values.ndim == 1 else values
    if len(columns) == 0:
        return np.nan, np.nan
    means = resampled_means(columns, resamples, seed)
    return percentile_interval(means[:, 0] if statistic is None else statistic(means), level)
