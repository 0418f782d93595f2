"""Score maps, probability maps and the points that they stand for.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; the cells
of a map are pixels of a small image, so the centre of cell (i, j) lies at ((2j + 1) / w − 1,
(2i + 1) / h − 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size, pixel_grid


def spatial_softmax(scores: Tensor) -> Tensor:
    """A probability map for each score map, ``(B, K, H, W)``; each sums to 1 over its cells."""
    return scores.flatten(2).softmax(-1).reshape(scores.shape)


def soft_argmax(probability: Tensor) -> Tensor:
    """The expected point of each probability map, ``(B, K, H, W)`` -> ``(B, K, 2)``.

    Always computed in float32 or better: in half precision a coordinate near 1 is off by up to
    0.004, a quarter of a pixel at 128 pixels.
    """
    p = probability.to(torch.promote_types(probability.dtype, torch.float32))
    height, width = p.shape[-2:]
    x, y = (_centres(count, p) for count in (width, height))
    # Sums over the marginals; written out, because autocast would round a matrix product.
    return torch.stack([(p.sum(-2) * x).sum(-1), (p.sum(-1) * y).sum(-1)], -1)


def peak(probability: Tensor) -> Tensor:
    """The largest probability of each map, ``(B, K, H, W)`` -> ``(B, K)``: how sure it is."""
    return probability.flatten(2).amax(-1)


def gaussian(points: Tensor, size: Size, deviation: float) -> Tensor:
    """Gaussian maps exp(−|u − p|² / (2 deviation²)) of height 1 at the points.

    Args:
        points: ``(B, K, 2)``; a NaN point gives a map of zeros.
        size: height and width of the maps.
        deviation: standard deviation in points, i.e. as a fraction of the half-width. (A paper
            that writes exp(−d² / s²) means ``deviation = s / √2``.)

    Returns:
        ``(B, K, H, W)``, differentiable with respect to the points.
    """
    height, width = size
    known = ~points.isnan().any(-1, keepdim=True)
    x, y = torch.where(known, points, 0).unbind(-1)
    # The exponential of a sum is a product, so a row and a column make the map.
    row = torch.exp(-((x[..., None] - _centres(width, points)) ** 2) / (2 * deviation**2))
    column = torch.exp(-((y[..., None] - _centres(height, points)) ** 2) / (2 * deviation**2))
    return (column[..., :, None] * row[..., None, :]) * known[..., None]


def _centres(count: int, like: Tensor) -> Tensor:
    return pixel_grid(1, count, device=like.device, dtype=like.dtype)[:, 0]
