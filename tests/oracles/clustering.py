"""Clustering with a constraint as loops over lists, and matchings by trying all of them."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence

Vector = Sequence[float]


def drop_duplicates(labels: list[int], distances: list[float], image: list[int]) -> list[int]:
    """-1 for every keypoint with a closer one (or an equal one before it) in image and cluster."""
    found = []
    for i, label in enumerate(labels):
        rivals = [
            (distances[j], j)
            for j in range(len(labels))
            if image[j] == image[i] and labels[j] == label
        ]
        found.append(label if min(rivals)[1] == i else -1)
    return found


def smallest_sum(keypoints: Sequence[Vector], centroids: Sequence[Vector]) -> float:
    """The smallest sum of squared distances of different keypoints to different centroids."""
    few, many = sorted([keypoints, centroids], key=len)
    return min(
        sum(math.dist(a, b) ** 2 for a, b in zip(few, chosen, strict=True))
        for chosen in itertools.permutations(many, len(few))
    )


def isolation(points: Sequence[Vector], neighbours: int) -> list[float]:
    """The median distance of each point to its nearest other points."""
    found = []
    for i, point in enumerate(points):
        others = sorted(math.dist(point, other) for j, other in enumerate(points) if j != i)
        found.append(statistics.median(others[:neighbours]))
    return found


def far(labels: list[int], distances: list[float], factor: float) -> list[bool]:
    """Which distances exceed a multiple of the mean of their cluster."""
    found = []
    for label, distance in zip(labels, distances, strict=True):
        own = [d for d, other in zip(distances, labels, strict=True) if other == label]
        found.append(label >= 0 and distance > factor * statistics.fmean(own))
    return found


def involutions(k: int) -> Iterator[list[int]]:
    """All permutations of k that undo themselves."""
    for permutation in itertools.permutations(range(k)):
        if all(permutation[permutation[i]] == i for i in range(k)):
            yield list(permutation)


def explained(partner: Sequence[int], labels: list[int], mirrored: list[int]) -> int:
    """Keypoints whose cluster in the mirrored image is the partner of their cluster."""
    pairs = zip(labels, mirrored, strict=True)
    return sum(a >= 0 and b >= 0 and partner[a] == b for a, b in pairs)
