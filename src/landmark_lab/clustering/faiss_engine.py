"""What faiss does for clustering; the only file that imports it.

faiss works on the GPU if it is built for one and finds one, else on the CPU. It would rather not
say which: ``faiss.Kmeans(gpu=True)`` without a GPU trains on the CPU without a word.
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from landmark_lab.errors import MissingDependencyError, require

Engine = Literal["faiss", "torch"]


def choose(engine: Engine | None, points: Tensor) -> Engine:
    """The engine to use for some points.

    Args:
        engine: as asked for; None takes faiss if it is installed, but torch for points on a GPU
            that the installed faiss cannot use.
        points: what is clustered.

    Raises:
        MissingDependencyError: ``engine="faiss"`` and it is not installed.
    """
    if engine is not None:
        if engine == "faiss":
            _faiss()
        return engine
    try:
        _faiss()
    except MissingDependencyError:
        return "torch"
    return "torch" if points.is_cuda and device(points).type == "cpu" else "faiss"


def device(points: Tensor) -> torch.device:
    """Where faiss works on some points: on their GPU, or the first one for points on the CPU.

    One GPU: under DDP the others hold the training of other processes.
    """
    if not _faiss().get_num_gpus():
        return torch.device("cpu")
    return torch.device("cuda", points.device.index or 0 if points.is_cuda else 0)


def lloyd(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Move centroids by Lloyd's iterations.

    Args:
        points: (N, D) float32. All are used: on its own faiss would draw 256 for each centroid.
        centroids: (k, D) float32 to start from.
        iterations: as many are done.

    Returns:
        Centroids (k, D) float32 and the nearest one of each point (N,) int64, on the points'
        device.
    """
    faiss, data, where = _faiss(), points.cpu().numpy(), device(points)
    search = faiss.Kmeans(
        points.shape[1],
        len(centroids),
        niter=iterations,
        min_points_per_centroid=1,
        max_points_per_centroid=len(data),
    )
    if where.type == "cuda":
        # `gpu=1` of the constructor would be all GPUs: it is compared with True.
        resources = faiss.StandardGpuResources()
        search.index = faiss.index_cpu_to_gpu(resources, where.index, search.index)
    search.train(data, init_centroids=centroids.cpu().numpy())
    _, labels = search.assign(data)
    found = torch.from_numpy(search.centroids).to(points)
    return found, torch.from_numpy(labels).to(points.device)


def neighbour_squares(points: Tensor, count: int) -> Tensor:
    """Squared distances of each point to its nearest points, itself among them; exact.

    Args:
        points: (N, D) float32.
        count: neighbours, at most N; on a GPU at most 2048.

    Returns:
        (N, count) float32, ascending, on the points' device.
    """
    faiss, data = _faiss(), points.cpu().numpy()
    where = device(points)
    if where.type == "cuda":
        resources = faiss.StandardGpuResources()
        squares, _ = faiss.knn_gpu(resources, data, data, count, device=where.index)
    else:
        squares, _ = faiss.knn(data, data, count)
    return torch.from_numpy(squares).to(points.device)


def _faiss() -> ModuleType:
    return require("faiss", purpose="clustering with engine='faiss'", install="faiss-cpu")
