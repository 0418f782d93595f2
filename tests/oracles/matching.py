"""The matching loss as it is written down: everything for all pairs of pixels at once.

Slow and obvious; also what ``benchmarks/matching.py`` compares with.
"""

import torch
from torch import Tensor


def probability(queries: Tensor, keys: Tensor) -> Tensor:
    """p(v|u), (B, N, M), of queries (B, N, C) and keys (B, M, C)."""
    return torch.softmax(torch.einsum("bnc,bmc->bnm", queries, keys), -1)


def expected_distance(
    queries: Tensor, keys: Tensor, targets: Tensor, positions: Tensor, weight: Tensor, power: float
) -> Tensor:
    """Σ_u w_u Σ_v ‖v − gu‖^γ p(v|u), (B,); targets (B, N, 2) and positions (M, 2) in one unit."""
    difference = positions[None, None] - targets[:, :, None]
    distance = difference.square().sum(-1) ** (power / 2)
    return ((probability(queries, keys) * distance).sum(-1) * weight).sum(-1)


def negative_log_likelihood(
    queries: Tensor, keys: Tensor, shares: Tensor, weight: Tensor
) -> Tensor:
    """−Σ_u w_u Σ_v t_uv log p(v|u), (B,), with the share t (B, N, M) of each cell in the target."""
    logarithm = probability(queries, keys).log()
    return -((logarithm * shares).sum(-1) * weight).sum(-1)


def bilinear_shares(target: tuple[float, float], height: int, width: int) -> Tensor:
    """The share (height, width) of each cell in a target (x, y) in cells, one loop at a time."""
    shares = torch.zeros(height, width, dtype=torch.float64)
    x = min(max(target[0], 0.0), width - 1.0)
    y = min(max(target[1], 0.0), height - 1.0)
    for row in range(height):
        for column in range(width):
            shares[row, column] = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
    return shares


def exchange(queries: Tensor, auxiliary: Tensor) -> Tensor:
    """Σ_v k_v p(v|u), (B, N, C), of auxiliary vectors (B, A, C, h, w): one image after another."""
    vectors = torch.cat([image.flatten(2).mT for image in auxiliary.unbind(1)], 1)
    return torch.einsum("bnm,bmc->bnc", probability(queries, vectors), vectors)
