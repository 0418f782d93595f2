"""THE coordinate convention, and the only place where points become pixels or the reverse.

Convention: a point is (x, y) in [-1, 1]; -1 and 1 are the outer edges of the border pixels
(``align_corners=False``). In pixel coordinates the centre of the top-left pixel is (0, 0), so an
image W pixels wide reaches from -0.5 to W - 0.5.
"""

from __future__ import annotations

import torch
from torch import Tensor

Size = tuple[int, int]  # (height, width)


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The centres of all pixels as points, ``(height * width, 2)``, in row-major order."""
    x = (torch.arange(width, device=device, dtype=dtype) * 2 + 1) / width - 1
    y = (torch.arange(height, device=device, dtype=dtype) * 2 + 1) / height - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(
        -1, 2
    )


def from_pixels(points: Tensor, height: int, width: int) -> Tensor:
    """Pixel coordinates ``(..., 2)`` of an image of that size as points; differentiable."""
    return (points * 2 + 1) / _sides(points, height, width) - 1


def to_pixels(points: Tensor, height: int, width: int) -> Tensor:
    """Points ``(..., 2)`` as pixel coordinates of an image of that size; differentiable."""
    return (points + 1) * (_sides(points, height, width) / 2) - 0.5


def inside(points: Tensor) -> Tensor:
    """Which points ``(..., 2)`` lie inside the image, its outer edges included; NaN does not."""
    return (points.abs() <= 1).all(-1)


def isotropic_extent(size: Size) -> tuple[float, float]:
    """Half width and half height of an image in isotropic coordinates.

    A point times the extent is isotropic: one unit is half the longer side along both axes, so a
    rotation turns pixels without shearing them. The extent of a square image is (1, 1).
    """
    height, width = size
    longer = max(height, width)
    return width / longer, height / longer


def _sides(points: Tensor, height: int, width: int) -> Tensor:
    dtype = points.dtype if points.is_floating_point() else torch.float32
    return torch.tensor([width, height], dtype=dtype).to(points.device, non_blocking=True)
