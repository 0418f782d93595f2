"""Predictions without a method: what an error has to be compared with.

- the *mean shape*: the same points for every image, whatever it shows;
- the *centroid with the mean shape*: the mean shape moved to the true centroid, what a method that
  only tracks the object's middle would get;
- the *centroid and scale*: resized to the true size as well.

Convention: any coordinates, the same for both arguments.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_shape(points: Floats) -> Floats:
    """Mean position of each point over images.

    Args:
        points: (N, P, 2), NaN where unknown.

    Returns:
        (P, 2), NaN for a point that is never known.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty slice
        mean: Floats = np.nanmean(points, axis=0)
        return mean


def at_centroid(shape: Floats, points: Floats) -> Floats:
    """The shape, moved in each image so that its centroid is the true one.

    Args:
        shape: (P, 2).
        points: (N, P, 2), NaN where unknown; the centroids are those of the known points.

    Returns:
        (N, P, 2).
    """
    centred, centre = _centred(shape, points)
    return centred + centre


def at_centroid_and_scale(shape: Floats, points: Floats, size: float) -> Floats:
    """The shape, moved to the true centroid and resized by the true size in each image.

    Args:
        shape: (P, 2).
        points: (N, P, 2), NaN where unknown.
        size: the shape is resized by ``sizes(shape, points) / size``: the mean of ``sizes`` over
            the images that the shape is the mean of.

    Returns:
        (N, P, 2).
    """
    centred, centre = _centred(shape, points)
    return centred * (sizes(shape, points) / size)[:, None, None] + centre


def sizes(shape: Floats, points: Floats) -> Floats:
    """Size of each image's known points relative to the size of the same points of a shape.

    A size is the root of the mean squared distance from the centroid.

    Args:
        shape: (P, 2).
        points: (N, P, 2), NaN where unknown.

    Returns:
        (N,); 1 where fewer than two points are known, NaN where none is.
    """
    known = _known(shape, points)
    centred, centre = _centred(shape, points)
    squares = [
        np.where(known, relative**2, 0.0).sum((1, 2)) for relative in (points - centre, centred)
    ]
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.sqrt(squares[0] / squares[1])
    return np.where(np.isfinite(ratio), ratio, np.where(known.any((1, 2)), 1.0, np.nan))


def _centred(shape: Floats, points: Floats) -> tuple[Floats, Floats]:
    """The shape about the centroid of each image's known points, and these centroids (N, 1, 2)."""
    known = _known(shape, points)
    with np.errstate(invalid="ignore"):
        count = known.sum(1, keepdims=True)
        centre = np.where(known, points, 0.0).sum(1, keepdims=True) / count
        own = np.where(known, shape, 0.0).sum(1, keepdims=True) / count
    return shape - own, centre


def _known(shape: Floats, points: Floats) -> NDArray[np.bool_]:
    """(N, P, 1) where both the shape and the image have the point."""
    return np.asarray(~np.isnan(points + shape).any(-1, keepdims=True))
