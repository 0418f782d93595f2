"""K-means, by faiss on the GPU or the CPU, or by torch where faiss is not installed.

All engines start from the same k-means++ centroids (D. Arthur, S. Vassilvitskii, 2007; greedy:
the best of several candidates each time), use every point (faiss on its own would draw 256 for
each centroid and say nothing), and refuse what cannot be clustered. This is the only file that
imports faiss.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from landmark_lab.errors import MissingDependencyError, require
from landmark_lab.seeding import seed_of

Engine = Literal["faiss", "torch"]

# Numbers computed at a time, 4 MB in float32: larger chunks leave the cache and are slower.
_CHUNK = 1 << 20


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


# Moves centroids (k, D) for some iterations; gives them with each point's label.
_Run = Callable[[Tensor], tuple[Tensor, Tensor]]


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
        initial: centroids (k, D) to start from instead, e.g. those of the round before. Then
            there is one start and nothing is random.
        engine: None takes faiss if it is installed, else torch.

    Raises:
        ValueError: fewer points than clusters, values that are not finite, wrong shapes.
        MissingDependencyError: ``engine="faiss"`` and it is not installed.
    """
    if points.ndim != 2 or not points.is_floating_point():
        raise ValueError(
            f"points of shape {tuple(points.shape)}, {points.dtype}; allowed: (N, D), real"
        )
    if k < 1 or iterations < 1 or restarts < 1:
        raise ValueError(
            f"k {k}, iterations {iterations}, restarts {restarts}; allowed: at least 1"
        )
    if len(points) < k:
        raise ValueError(f"{len(points)} points cannot make {k} clusters")
    points = points.detach().to(torch.float32).contiguous()
    _check_finite(points, "points")
    if initial is not None:
        if initial.shape != (k, points.shape[1]):
            raise ValueError(
                f"initial centroids {tuple(initial.shape)}; needed: {(k, points.shape[1])}"
            )
        initial = initial.detach().to(points)
        _check_finite(initial, "initial centroids")

    faiss = _faiss(engine)
    device = str(points.device)
    if faiss is None:
        run: _Run = lambda start: _lloyd(points, start, iterations)  # noqa: E731
    else:
        on_gpu = faiss.get_num_gpus() > 0
        device = "cuda" if on_gpu else "cpu"
        run = _faiss_run(faiss, points, k, iterations, on_gpu)

    best: Clusters | None = None
    for start in _starts(points, k, seed, restarts) if initial is None else iter([initial]):
        centroids, labels = run(start)
        inertia = _inertia(points, centroids, labels)
        if best is None or inertia < best.inertia:
            used: Engine = "torch" if faiss is None else "faiss"
            best = Clusters(centroids, labels, inertia, used, device)
    assert best is not None
    return best


def _faiss(engine: Engine | None) -> ModuleType | None:
    if engine == "torch":
        return None
    try:
        return require("faiss", purpose="K-means with engine='faiss'", install="faiss-cpu")
    except MissingDependencyError:
        if engine == "faiss":
            raise
        return None


def _check_finite(values: Tensor, what: str) -> None:
    bad = int((~values.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{bad} of {len(values)} {what} contain NaN or infinity")


# --- start ---------------------------------------------------------------------------------------


def _starts(points: Tensor, k: int, seed: int, restarts: int) -> Iterator[Tensor]:
    for restart in range(restarts):
        generator = torch.Generator().manual_seed(seed_of(seed, "k-means++", restart))
        yield _plus_plus(points, k, generator)


def _plus_plus(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k-means++: each centroid is a point drawn by its squared distance to those before it."""
    candidates = 2 + int(math.log(k))
    norms = points.square().sum(1)
    chosen = torch.empty(k, dtype=torch.long, device=points.device)
    chosen[0] = torch.randint(len(points), (), generator=generator)
    nearest = _to_candidates(points, norms, chosen[:1])[0]
    for i in range(1, k):
        total = nearest.double().cumsum(0)
        drawn = torch.rand(candidates, generator=generator, dtype=torch.float64)
        # If every point coincides with a centroid, the last one is as good as any.
        picked = torch.searchsorted(total, drawn.to(total) * total[-1], right=True)
        picked.clamp_(max=len(points) - 1)
        after = torch.minimum(_to_candidates(points, norms, picked), nearest)
        best = after.sum(1, dtype=torch.float64).argmin()
        chosen[i], nearest = picked[best], after[best]
    return points[chosen]


def _to_candidates(points: Tensor, norms: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances (n, N) of the chosen points to all points."""
    distances = torch.addmm(norms, points[chosen], points.T, alpha=-2)
    return distances.add_(norms[chosen][:, None]).clamp_(min=0)


# --- iterations ----------------------------------------------------------------------------------


def _faiss_run(faiss: ModuleType, points: Tensor, k: int, iterations: int, on_gpu: bool) -> _Run:
    data = points.cpu().numpy()

    def run(start: Tensor) -> tuple[Tensor, Tensor]:
        search = faiss.Kmeans(
            points.shape[1],
            k,
            niter=iterations,
            gpu=on_gpu,
            min_points_per_centroid=1,
            max_points_per_centroid=len(data),
        )
        search.train(data, init_centroids=start.cpu().numpy())
        _, labels = search.assign(data)
        return torch.from_numpy(search.centroids).to(points), torch.from_numpy(labels).to(
            points.device
        )

    return run


def _lloyd(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    labels = _nearest(points, centroids)
    for _ in range(iterations):
        centroids = _means(points, labels, centroids)
        previous, labels = labels, _nearest(points, centroids)
        if torch.equal(labels, previous):
            break
    return centroids, labels


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of each point, by chunks of points."""
    norms = centroids.square().sum(1)
    rows = max(1, _CHUNK // len(centroids))
    parts = torch.split(points, rows)
    return torch.cat([torch.addmm(norms, p, centroids.T, alpha=-2).argmin(1) for p in parts])


def _means(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of each cluster; an empty one takes the point farthest from its centroid."""
    sums = torch.zeros_like(centroids, dtype=torch.float64)
    for part, where in _by_rows(points, labels):
        sums.index_add_(0, where, part.double())
    counts = labels.bincount(minlength=len(centroids))
    means = (sums / counts.clamp(min=1)[:, None]).to(points.dtype)
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        farthest = _squares(points, centroids, labels).topk(len(empty)).indices
        means[empty] = points[farthest]
    return means


def _squares(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of each point to its centroid, from differences: exact near zero."""
    parts = _by_rows(points, labels)
    return torch.cat([(part - centroids[where]).square().sum(1) for part, where in parts])


def _by_rows(points: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, _CHUNK // points.shape[1])
    return zip(torch.split(points, rows), torch.split(labels, rows), strict=True)


def _inertia(points: Tensor, centroids: Tensor, labels: Tensor) -> float:
    return float(_squares(points, centroids, labels).sum(dtype=torch.float64))
