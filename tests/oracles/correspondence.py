"""Matching with a template and merging of clusters, by trying and counting. Slow and obvious."""

from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cheapest_matching(first: Array, second: Array, reach: float) -> float:
    """The least cost of any matching of points (K, 2) and (N, 2).

    A pair within the reach costs its distance, a point of the smaller set without a partner the
    reach.
    """
    if len(first) > len(second):
        first, second = second, first
    best = np.inf
    for count in range(len(first) + 1):
        for chosen in combinations(range(len(first)), count):
            for partners in permutations(range(len(second)), count):
                distances = [
                    float(np.hypot(*(first[i] - second[j])))
                    for i, j in zip(chosen, partners, strict=True)
                ]
                if all(distance <= reach for distance in distances):
                    best = min(best, sum(distances) + reach * (len(first) - count))
    return best


def overlap(points: Array, found: NDArray[np.bool_], one: int, other: int, radius: float) -> int:
    """In how many images (N, M, 2) two channels fire near each other."""
    total = 0
    for n in range(len(points)):
        near = np.hypot(*(points[n, one] - points[n, other])) <= radius
        total += bool(found[n, one] and found[n, other] and near)
    return total


def merged(
    points: Array, found: NDArray[np.bool_], share: float, radius: float
) -> tuple[list[int], list[tuple[int, int]]]:
    """The channel that each ended in, and (absorbed, into) in order, recomputed at every step."""
    points, found = points.copy(), found.copy()
    channels = points.shape[1]
    landmark, history = list(range(channels)), []
    while True:
        best, pair = -1.0, (0, 0)
        for one, other in combinations(range(channels), 2):
            fewer = min(found[:, one].sum(), found[:, other].sum())
            if fewer:
                value = overlap(points, found, one, other, radius) / fewer
                if value > best:
                    best, pair = value, (one, other)
        if best < share:
            return landmark, history
        one, other = pair
        into, absorbed = pair if found[:, one].sum() >= found[:, other].sum() else (other, one)
        for n in range(len(points)):
            if found[n, absorbed] and not found[n, into]:
                points[n, into], found[n, into] = points[n, absorbed], True
            found[n, absorbed] = False
        landmark = [into if own == absorbed else own for own in landmark]
        history.append((absorbed, into))
