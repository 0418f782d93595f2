"""Exact distances to the nearest neighbours, by faiss or torch."""

from __future__ import annotations

import torch
from torch import Tensor

from landmark_lab.clustering import faiss_engine
from landmark_lab.clustering.faiss_engine import Engine

# Numbers of a block of distances, 64 MB in float32.
_BLOCK = 1 << 24


def neighbour_distances(points: Tensor, count: int, engine: Engine | None = None) -> Tensor:
    """Euclidean distances of each point to its nearest other points.

    Exact, N² D operations; nothing of size N × N is kept.

    Args:
        points: (N, D) float32.
        count: neighbours of each, from 1 to N - 1.
        engine: None takes faiss if it is installed, else torch.

    Returns:
        (N, count) float32, ascending.
    """
    # Distances are what remains of |p|² - 2 p·q + |q|²: less cancels near the origin.
    points = points - points.mean(0)
    # The point itself comes first, or another one at the same distance of zero.
    if faiss_engine.choose(engine, points) == "faiss":
        squares = faiss_engine.neighbour_squares(points, count + 1)[:, 1:]
    else:
        norms = points.square().sum(1)
        blocks = [
            torch.addmm(norms, part, points.T, alpha=-2).topk(count + 1, largest=False).values
            for part in torch.split(points, max(1, _BLOCK // len(points)))
        ]
        squares = torch.cat(blocks)[:, 1:] + norms[:, None]
    return squares.clamp(min=0).sqrt()
