"""Affine warps: both directions in closed form.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from landmark_lab.geometry.points import Size, isotropic_extent
from landmark_lab.geometry.warp import TO_SOURCE, TO_TARGET, Warp


class AffineWarp(Warp):
    """x' = A x + t for each image of a batch.

    Args:
        matrix: ``(B, 2, 3)``, the rows of [A | t], from source to target points. A singular A has
            no inverse: everything that needs ``to_source`` is then infinite or NaN.
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 3 or matrix.shape[1:] != (2, 3):
            raise ValueError(f"an affine warp needs a matrix (B, 2, 3), not {tuple(matrix.shape)}")
        self.matrix = matrix

    @property
    def exact(self) -> frozenset[str]:
        """Both directions."""
        return frozenset({TO_SOURCE, TO_TARGET})

    def to_target(self, points: Tensor) -> Tensor:
        """A x + t, for points ``(B, N, 2)``."""
        return _transform(self.matrix, points)

    def to_source(self, points: Tensor) -> Tensor:
        """A⁻¹ (x − t), for points ``(B, N, 2)``."""
        return _transform(_inverse(self.matrix), points)

    def inverse(self) -> AffineWarp:
        """The affine warp from target to source."""
        return AffineWarp(_inverse(self.matrix))

    def then(self, other: Warp) -> Warp:
        """Two affine warps make an affine warp; anything else a composition."""
        if not isinstance(other, AffineWarp) or len(other) != len(self):
            return super().then(other)
        # The columns of A and t move as points, t with the other's translation and A without.
        columns = self.matrix.transpose(1, 2)
        moved = _transform(other.matrix, columns)
        linear = moved[:, :2] - other.matrix[:, None, :, 2]
        return AffineWarp(torch.cat([linear, moved[:, 2:]], 1).transpose(1, 2))

    def _tensor(self) -> Tensor:
        return self.matrix

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.matrix))


def similarity(angle: Tensor, scale: Tensor, translation: Tensor, size: Size) -> Tensor:
    """Rotation and scaling about the image's centre, then a translation, as ``(B, 2, 3)``.

    Convention: they act in isotropic coordinates, in which one unit is half the longer side of the
    image; the matrix acts on points. For a square image the two are the same.

    Args:
        angle: ``(B,)`` in radians; positive turns the x axis towards the y axis (clockwise on
            the screen).
        scale: ``(B,)``, positive.
        translation: ``(B, 2)`` in isotropic units.
        size: height and width of the image.
    """
    half_width, half_height = isotropic_extent(size)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    across = half_height / half_width  # one unit of y, measured in units of x
    x = torch.stack([cosine, -sine * across, translation[:, 0] / half_width], -1)
    y = torch.stack([sine / across, cosine, translation[:, 1] / half_height], -1)
    return torch.stack([x, y], 1)


def _transform(matrix: Tensor, points: Tensor) -> Tensor:
    # Written out, because a matrix product would be rounded to half precision under autocast.
    x, y = points[..., :1], points[..., 1:]
    return x * matrix[:, None, :, 0] + y * matrix[:, None, :, 1] + matrix[:, None, :, 2]


def _inverse(matrix: Tensor) -> Tensor:
    (a, b, s), (c, d, t) = (row.unbind(-1) for row in matrix.unbind(1))
    x = torch.stack([d, -b, b * t - d * s], -1)
    y = torch.stack([-c, a, c * s - a * t], -1)
    return torch.stack([x, y], 1) / (a * d - b * c)[:, None, None]
