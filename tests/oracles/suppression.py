"""Thinning of points, one pair at a time."""

from math import dist, inf

Point = tuple[float, float]


def kept(points: list[Point], scores: list[float], distance: float) -> list[bool]:
    """Greedy non-maximum suppression."""
    order = sorted(range(len(points)), key=lambda row: (-scores[row], row))
    taken: list[int] = []
    for row in order:
        if all(dist(points[row], points[other]) >= distance for other in taken):
            taken.append(row)
    return [row in taken for row in range(len(points))]


def radii(points: list[Point], scores: list[float], robustness: float) -> list[float]:
    """Distance to the nearest point that is better by the factor 1 / robustness."""
    return [
        min(
            (
                dist(point, other)
                for other, better in zip(points, scores, strict=True)
                if score < robustness * better
            ),
            default=inf,
        )
        for point, score in zip(points, scores, strict=True)
    ]
