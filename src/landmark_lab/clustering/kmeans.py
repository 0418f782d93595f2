"""K-means, by faiss on the GPU or the CPU, or by torch where faiss is not installed.

All engines start from the same k-means++ centroids (D. Arthur, S. Vassilvitskii, 2007; greedy:
the best of several candidates), use every point, and refuse what cannot be clustered.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from landmark_lab.clustering import faiss_engine
from landmark_lab.clustering.distances import by_rows, checked, nearest, squares_to_own
from landmark_lab.clustering.faiss_engine import Engine
from landmark_lab.seeding import seed_of

# Centroids of a start that are chosen from the same draw, and points drawn for each of them.
_AT_ONCE, _CANDIDATES = 8, 3


@dataclass(frozen=True)
class Clusters:
    """The result of K-means.

    Attributes:
        centroids: (k, D) float32, on the device of the points.
        labels: (N,) int64, the centroid nearest to each point.
        inertia: the sum of the squared distances of the points to their centroids.
        engine: what did the work.
        device: where it was done, e.g. ``"cpu"``.
    """

    centroids: Tensor
    labels: Tensor
    inertia: float
    engine: Engine
    device: str


def kmeans(
    points: Tensor,
    k: int,
    *,
    seed: int,
    iterations: int = 100,
    restarts: int = 1,
    initial: Tensor | None = None,
    engine: Engine | None = None,
) -> Clusters:
    """Cluster points so that the sum of squared distances to their centroids is small.

    The same arguments give the same result bit by bit on the CPU. The torch engine works on the
    device of the points; faiss on the GPU if it is built for one and finds one, else on the CPU.

    Args:
        points: (N, D) floating point; computed with in float32.
        k: number of clusters.
        seed: of the random starts.
        iterations: at most so many for each start.
        restarts: random starts; the one with the smallest inertia is returned.
        initial: centroids (n, D) to start from, e.g. those of the round before. Then there is one
            start; if n is less than k, k-means++ draws the others.
        engine: None takes faiss if it is installed, else torch; torch, too, for points on a GPU
            that the installed faiss cannot use.

    Raises:
        ValueError: fewer points than clusters, values that are not finite, wrong shapes.
        MissingDependencyError: ``engine="faiss"`` and it is not installed.
    """
    points = checked(points, "points")
    if k < 1 or iterations < 1 or restarts < 1:
        raise ValueError(
            f"k {k}, iterations {iterations}, restarts {restarts}; allowed: at least 1"
        )
    if len(points) < k:
        raise ValueError(f"{len(points)} points cannot make {k} clusters")
    if initial is not None:
        initial = checked(initial, "initial centroids").to(points.device)
        if initial.shape[1:] != points.shape[1:] or len(initial) > k:
            raise ValueError(
                f"initial centroids {tuple(initial.shape)}; "
                f"allowed: at most {k} rows, of {points.shape[1]} numbers"
            )

    used = faiss_engine.choose(engine, points)
    move = faiss_engine.lloyd if used == "faiss" else _lloyd
    device = faiss_engine.device(points) if used == "faiss" else points.device
    # Distances are what remains of |p|² - 2 p·c + |c|²: less cancels near the origin.
    origin = points.mean(0)
    points = points - origin
    given = points[:0] if initial is None else initial - origin
    best: Clusters | None = None
    for restart in range(restarts if initial is None else 1):
        generator = torch.Generator().manual_seed(seed_of(seed, "k-means++", restart))
        centroids, labels = move(points, _plus_plus(points, k, given, generator), iterations)
        squares = squares_to_own(points, centroids, labels)
        inertia = float(squares.sum(dtype=torch.float64))
        if best is None or inertia < best.inertia:
            best = Clusters(centroids + origin, labels, inertia, used, str(device))
    assert best is not None
    return best


# --- start ---------------------------------------------------------------------------------------


def _plus_plus(points: Tensor, k: int, given: Tensor, generator: torch.Generator) -> Tensor:
    """Centroids (k, D) to start from: those given, and points that lie far from all before them.

    k-means++ draws a centroid by the squared distance to those before it, which reads all points
    for each. Here candidates for up to eight are drawn at once, and those are taken, one after
    another, that lower the inertia most.
    """
    if len(given) == k:
        return given
    if len(given) == 0:
        given = points[torch.randint(len(points), (1,), generator=generator)]
    norms = points.square().sum(1)
    closest = squares_to_own(points, given, nearest(points, given))
    centroids = list(given)
    while len(centroids) < k:
        # The first ones change the distances most: not more than there are already.
        count = min(_AT_ONCE, len(centroids), k - len(centroids))
        total = closest.double().cumsum(0)
        drawn = torch.rand(count * _CANDIDATES, generator=generator, dtype=torch.float64)
        # If every point coincides with a centroid, the last one is as good as any.
        picked = torch.searchsorted(total, drawn.to(total) * total[-1], right=True)
        picked.clamp_(max=len(points) - 1)
        squares = torch.addmm(norms, points[picked], points.T, alpha=-2)
        squares.add_(norms[picked][:, None]).clamp_(min=0)
        for _ in range(count):
            torch.minimum(squares, closest, out=squares)
            best = squares.sum(1).argmin()
            centroids.append(points[picked[best]])
            closest = squares[best].clone()
    return torch.stack(centroids)


# --- iterations ----------------------------------------------------------------------------------


def _lloyd(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    labels = nearest(points, centroids)
    for _ in range(iterations):
        centroids = _means(points, labels, centroids)
        previous, labels = labels, nearest(points, centroids)
        if torch.equal(labels, previous):
            break
    return centroids, labels


def _means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of each cluster; an empty one takes the point farthest from its centroid."""
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    for part, where in by_rows(points, labels):
        sums.index_add_(0, where, part.double())
    counts = labels.bincount(minlength=len(centroids))
    means = (sums / counts.clamp(min=1)[:, None]).to(points.dtype)
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        farthest = squares_to_own(points, centroids, labels).topk(len(empty)).indices
        means[empty] = points[farthest]
    return means
