"""Dense flows: one displacement for each pixel of the source.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; a flow is
in the same units (a shift by one pixel to the right is 2 / W).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.geometry.field import Field
from landmark_lab.geometry.points import inside
from landmark_lab.geometry.warp import TO_TARGET, Mapped, Warp

# A pixel whose neighbourhood grows more than this in area is torn: what lies between its
# neighbours was hidden in the source.
_LARGEST_AREA = 4.0
# What a pixel may contribute to a point without counting: rounding at the centre of another.
_NEGLIGIBLE = 1e-3


class FlowWarp(Warp):
    """The pixel of the source at p moves to p + flow(p); ``to_target`` is closed-form.

    Between pixel centres the flow is bilinear; over the outer half of a border pixel it is
    extrapolated linearly, and beyond that it is constant.

    A flow between views of a scene need not be one-to-one. These source pixels do not count as
    ``valid``, on either side: those outside ``visible``; those whose neighbourhood is folded (the
    determinant of the Jacobian matrix is not positive) or torn (it exceeds 4); and, where
    ``visible`` is not given, those that do not come back to within one pixel from their own target
    (another part of the source lies over them).

    Args:
        flow: ``(B, 2, H, W)``, finite, H and W at least 2.
        visible: ``(B, H, W)`` boolean, the source pixels whose flow is known and that are seen in
            the target; None if that is not known.
    """

    def __init__(self, flow: Tensor, visible: Tensor | None = None) -> None:
        if flow.ndim != 4 or flow.shape[1] != 2 or min(flow.shape[2:]) < 2:
            raise ValueError(f"a flow is (B, 2, H, W) with H, W >= 2, not {tuple(flow.shape)}")
        if visible is not None and visible.shape != (flow.shape[0], *flow.shape[2:]):
            raise ValueError(
                f"visible is {tuple(visible.shape)}, which does not fit a flow {tuple(flow.shape)}"
            )
        self.flow = flow
        self.visible = visible

    @property
    def exact(self) -> frozenset[str]:
        """``to_target``."""
        return frozenset({TO_TARGET})

    def to_target(self, points: Tensor) -> Tensor:
        """p + flow(p), for points ``(B, N, 2)``."""
        return self._field(self._precise(points))

    def to_source(self, points: Tensor) -> Tensor:
        """The q with q + flow(q) = p, for points ``(B, N, 2)``.

        Solved by iteration to a residual below 1e-3, below 1e-5 where the flow is smooth; where
        several parts of the source arrive at p, one of them; NaN where none was found.
        """
        q, found = self._field.solve(self._precise(points))
        return torch.where(found[..., None], q, torch.nan)

    @cached_property
    def _field(self) -> Field:
        height, width = self.flow.shape[-2:]
        padded = _extrapolated(_extrapolated(self.flow, 3), 2)
        return Field(padded, (1 + 1 / width, 1 + 1 / height))

    @cached_property
    def _usable(self) -> Tensor:
        """The source pixels that are neither hidden nor folded nor torn, (B, H, W)."""
        (a, c), (b, d) = (f[:, :, 1:-1, 1:-1].unbind(1) for f in self._field.jacobian)
        area = a * d - b * c
        usable = (area > 0) & (area < _LARGEST_AREA)
        return usable if self.visible is None else usable & self.visible

    def _dense_to_target(self, points: Tensor) -> Mapped:
        targets = self._field(points)
        known = inside(points) & self._at(points)
        if self.visible is None:
            back, found = self._field.solve(targets.detach())
            x, y = (back - points).detach().abs().unbind(-1)
            height, width = self.flow.shape[-2:]
            known = known & found & (x < 2 / width) & (y < 2 / height)
        return targets, known

    def _dense_to_source(self, points: Tensor) -> Mapped:
        q, found = self._field.solve(points)
        return q, found & inside(q) & self._at(q)

    def _at(self, points: Tensor) -> Tensor:
        """Whether all pixels are usable that the flow at points (B, N, 2) is made of, (B, N)."""
        table = self._usable[:, None].to(points.dtype)
        share = F.grid_sample(
            table,
            points.detach()[:, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return share[:, 0, 0] > 1 - _NEGLIGIBLE

    def _tensor(self) -> Tensor:
        return self.flow

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(change(self.flow), None if self.visible is None else change(self.visible))


def _extrapolated(values: Tensor, dim: int) -> Tensor:
    """One more entry at each end of a dimension, in line with the last two."""
    count = values.shape[dim]
    first, second = values.narrow(dim, 0, 1), values.narrow(dim, 1, 1)
    last, before = values.narrow(dim, count - 1, 1), values.narrow(dim, count - 2, 1)
    return torch.cat([2 * first - second, values, 2 * last - before], dim)
