"""The part of an image in which keypoints are looked for or placed.

Convention: points and boxes are in [-1, 1], see ``geometry/points.py``.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def region(box: Floats | None) -> tuple[Floats, Floats]:
    """The top-left and the bottom-right corner (2,) of a box within the image.

    It is the whole image where the box is unknown (None or NaN) or outside the image.
    """
    whole = (np.full(2, -1, np.float32), np.full(2, 1, np.float32))
    if box is None or np.isnan(box).any():
        return whole
    low, high = np.clip(box.reshape(2, 2), -1, 1)
    return (low, high) if (high > low).all() else whole


def inside(points: Floats, box: Floats | None) -> NDArray[np.bool_]:
    """Which points (N, 2) lie in the :func:`region` of a box, its edges included."""
    low, high = region(box)
    within: NDArray[np.bool_] = np.all((points >= low) & (points <= high), axis=1)
    return within


def uniform(generator: np.random.Generator, count: int, box: Floats | None) -> Floats:
    """Points (count, 2) anywhere in the :func:`region` of a box."""
    low, high = region(box)
    return (low + (high - low) * generator.random((count, 2))).astype(np.float32)
