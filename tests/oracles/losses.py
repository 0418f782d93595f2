"""The losses as they are printed: one loop for every sum. Slow and obvious."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def point_alignment(first: Array, second: Array) -> float:
    """Equation 5 of factorized landmarks for points (B, K, 2), mean over images."""
    total = 0.0
    for b in range(first.shape[0]):
        for r in range(first.shape[1]):
            total += float(((first[b, r] - second[b, r]) ** 2).sum()) / first.shape[1]
    return total / first.shape[0]


def map_alignment(
    first: Array, second: Array, first_positions: Array, second_positions: Array
) -> float:
    """Equation 6 as the quadratic double sum; maps (B, K, N) and (B, K, M), positions (B, N, 2)."""
    images, landmarks, cells = first.shape
    total = 0.0
    for b in range(images):
        for r in range(landmarks):
            for u in range(cells):
                for v in range(second.shape[2]):
                    difference = first_positions[b, u] - second_positions[b, v]
                    squared = float((difference**2).sum())
                    total += squared * first[b, r, u] * second[b, r, v] / landmarks
    return total / images


def overlap_diversity(maps: Array) -> float:
    """Equation 7 as a triple sum without r' = r, for maps (B, K, H, W), mean over images."""
    images, landmarks = maps.shape[:2]
    total = 0.0
    for b in range(images):
        for r in range(landmarks):
            for other in range(landmarks):
                if other == r:
                    continue
                for y in range(maps.shape[2]):
                    for x in range(maps.shape[3]):
                        total += maps[b, r, y, x] * maps[b, other, y, x] / landmarks**2
    return total / images


def max_diversity(maps: Array) -> float:
    """Equation 8 in its first form, Σ_u (Σ_r p − max_r p), mean over images."""
    total = 0.0
    for b in range(maps.shape[0]):
        for y in range(maps.shape[2]):
            for x in range(maps.shape[3]):
                here = [float(maps[b, r, y, x]) for r in range(maps.shape[1])]
                total += sum(here) - max(here)
    return total / maps.shape[0]


def sum_pool(maps: Array, side: int) -> Array:
    """Sums over blocks; the last ones may be smaller."""
    images, landmarks, height, width = maps.shape
    pooled = np.zeros((images, landmarks, -(-height // side), -(-width // side)))
    for y in range(height):
        for x in range(width):
            pooled[:, :, y // side, x // side] += maps[:, :, y, x]
    return pooled
