"""Non-maximum suppression, one cell after the other. Slow and obvious."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Cell = tuple[int, int]


def window_maxima(values: Array, radius: int, threshold: float) -> list[Cell]:
    """The cells that nothing around them exceeds, nor equals and precedes; largest first."""
    kept = []
    for y, x in np.ndindex(values.shape):
        around = [
            (values[v, u], -v, -u)
            for v in range(max(0, y - radius), min(values.shape[0], y + radius + 1))
            for u in range(max(0, x - radius), min(values.shape[1], x + radius + 1))
        ]
        if values[y, x] > threshold and (values[y, x], -y, -x) == max(around):
            kept.append((y, x))
    return sorted(kept, key=lambda cell: -values[cell])


def greedy(values: Array, radius: int, threshold: float) -> list[Cell]:
    """From the largest cell to the smallest: keep it, and strike out what is around it."""
    left = {cell for cell in np.ndindex(values.shape) if values[cell] > threshold}
    kept = []
    for y, x in sorted(left, key=lambda cell: (-values[cell], cell)):
        if (y, x) in left:
            kept.append((y, x))
            left -= {(v, u) for v, u in left if abs(v - y) <= radius and abs(u - x) <= radius}
    return kept


def refined(values: Array, cell: Cell) -> tuple[float, float]:
    """The point (x, y) in [-1, 1], a quarter of a cell towards the larger neighbours."""
    (y, x), (height, width) = cell, values.shape
    column, row = float(x), float(y)
    if 0 < x < width - 1:
        column += 0.25 * np.sign(values[y, x + 1] - values[y, x - 1])
    if 0 < y < height - 1:
        row += 0.25 * np.sign(values[y + 1, x] - values[y - 1, x])
    return (2 * column + 1) / width - 1, (2 * row + 1) / height - 1
