"""A smooth map given on a lattice of points, and its inverse.

Splines and flows share it: a flow *is* such a field, and a spline is tabulated on one where whole
images have to go through it.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels.
"""

from __future__ import annotations

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 6
# No step is longer along an axis: Newton's method overshoots where a warp is nearly folded.
LONGEST_STEP = 0.25
# A point is found if its image is this close to where it should be, in half-widths.
TOLERANCE = 1e-3
# Below this determinant the Jacobian matrix is not inverted.
_SINGULAR = 1e-3


class Field:
    """The map f(p) = p + d(p), where d is bilinear between the nodes of a regular lattice.

    Beyond the outermost nodes d stays what it is at the nearest point of the lattice.

    Args:
        displacement: d at the nodes, ``(B, 2, h, w)``, in points.
        extent: x and y of the last node; the first is at minus that.
    """

    def __init__(self, displacement: Tensor, extent: tuple[float, float]) -> None:
        self.displacement = displacement
        self.extent = extent

    def __call__(self, points: Tensor) -> Tensor:
        """f of points ``(B, N, 2)``; differentiable."""
        return points + self._sample(self.displacement, points).transpose(1, 2)

    @cached_property
    def jacobian(self) -> tuple[Tensor, Tensor]:
        """∂f/∂x and ∂f/∂y at the nodes by central differences, ``(B, 2, h, w)`` each.

        At the lattice's rim the differences are one-sided. No gradient flows back.
        """
        d = self.displacement.detach()
        height, width = d.shape[-2:]
        step_x = 2 * self.extent[0] / (width - 1)
        step_y = 2 * self.extent[1] / (height - 1)
        dx, dy = (torch.gradient(d, spacing=s, dim=k)[0] for s, k in ((step_x, 3), (step_y, 2)))
        return torch.cat([dx[:, :1] + 1, dx[:, 1:]], 1), torch.cat([dy[:, :1], dy[:, 1:] + 1], 1)

    def solve(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The positions q ``(B, N, 2)`` with f(q) = points, and which were found ``(B, N)``.

        A fixed-point iteration on the sampled displacement, each residual multiplied by the
        sampled inverse of the Jacobian matrix, started from the inverse of the field's affine
        part. Where the field is smooth and one-to-one the residual falls below 1e-5. What is not
        found holds the last guess. Differentiable by the implicit function theorem.
        """
        with torch.no_grad():
            q = self._affine_guess(points).transpose(1, 2)
            goal = points.transpose(1, 2)
            table = torch.cat([self.displacement, self._inverse_jacobian()], 1)
            for _ in range(ITERATIONS):
                row = self._sample(table, q.transpose(1, 2))
                residual = goal - q - row[:, :2]
                step = residual[:, :1] * row[:, 2:4] + residual[:, 1:] * row[:, 4:]
                q = q + step.clamp_(-LONGEST_STEP, LONGEST_STEP)
            q = q.transpose(1, 2).contiguous()
            found = (points - self(q)).square().sum(-1) < TOLERANCE**2
        if torch.is_grad_enabled() and (points.requires_grad or self.displacement.requires_grad):
            fx, fy = self._exact_jacobian(q)
            q = q + torch.where(found[..., None], newton_step(points - self(q), fx, fy), 0)
        return q, found

    def _inverse_jacobian(self) -> Tensor:
        """What one unit of residual in x, and one in y, takes as a step, (B, 2 + 2, h, w)."""
        fx, fy = (f.movedim(1, -1) for f in self.jacobian)
        zero, one = torch.zeros_like(fx[..., 0]), torch.ones_like(fx[..., 0])
        across, down = (
            newton_step(torch.stack(unit, -1), fx, fy) for unit in ((one, zero), (zero, one))
        )
        return torch.cat([across, down], -1).movedim(-1, 1)

    def _affine_guess(self, points: Tensor) -> Tensor:
        # On a symmetric lattice 1, x and y are orthogonal, so the least-squares fit is three means.
        d = self.displacement
        x = torch.linspace(-1, 1, d.shape[3], device=d.device, dtype=d.dtype) * self.extent[0]
        y = torch.linspace(-1, 1, d.shape[2], device=d.device, dtype=d.dtype) * self.extent[1]
        (a, c), (b, e) = (
            ((d * z).mean((2, 3)) / z.square().mean()).unbind(1) for z in (x, y[:, None])
        )
        fx, fy = torch.stack([a + 1, c], -1), torch.stack([b, e + 1], -1)
        return newton_step(points - d.mean((2, 3))[:, None], fx[:, None], fy[:, None])

    def _exact_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of the bilinear interpolation itself, (B, N, 2) each."""
        with torch.enable_grad():
            q = points.detach().requires_grad_()
            image = q + self._sample(self.displacement.detach(), q).transpose(1, 2)
            first, second = (
                torch.autograd.grad(image[..., k].sum(), q, retain_graph=True)[0] for k in (0, 1)
            )
        rows = torch.stack([first, second], -2)
        return rows[..., 0], rows[..., 1]

    def _sample(self, table: Tensor, points: Tensor) -> Tensor:
        """A table at the nodes, (B, C, h, w), at points (B, N, 2) -> (B, C, N)."""
        x, y = points.unbind(-1)
        grid = torch.stack([x / self.extent[0], y / self.extent[1]], -1)
        values = F.grid_sample(
            table.to(points.dtype),
            grid[:, None],
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        return values[:, :, 0]


def newton_step(residual: Tensor, fx: Tensor, fy: Tensor) -> Tensor:
    """Solve J step = residual for the 2×2 matrices J with columns fx and fy, all ``(..., 2)``.

    Where J is singular, the step is the residual itself (that of a plain fixed-point iteration).
    """
    (r1, r2), (a, c), (b, d) = residual.unbind(-1), fx.unbind(-1), fy.unbind(-1)
    determinant = a * d - b * c
    regular = determinant.abs() > _SINGULAR
    solved = torch.stack([r1 * d - r2 * b, r2 * a - r1 * c], -1)
    return torch.where(
        regular[..., None], solved / torch.where(regular, determinant, 1)[..., None], residual
    )
