"""Thin-plate splines: f(p) = Σ_k w_k U(|p − c_k|) + a + b x + c y with U(r) = r² log r².

F. L. Bookstein, "Principal Warps: Thin-Plate Splines and the Decomposition of Deformations",
PAMI 1989. A spline here is a sampling map, ``to_source`` = f; the other direction is solved by
Newton's method.

All warps of a batch share a regular grid of control points, so everything that depends on it alone
(the features of the pixel grid, the system that turns values at the control points into
coefficients) is computed once and kept, and a whole batch of pixel grids is one matrix product.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; distances
are measured in isotropic coordinates (one unit is half the longer side of the image).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from landmark_lab.geometry.field import (
    ITERATIONS,
    LONGEST_STEP,
    TOLERANCE,
    Field,
    newton_step,
)
from landmark_lab.geometry.points import Size, isotropic_extent, pixel_grid
from landmark_lab.geometry.warp import TO_SOURCE, Mapped, Warp

# Where images go through a spline that is only tabulated: nodes a side, and how far it reaches.
_NODES, _REACH = 129, 1.25
# The test for folds: at least so many samples from one control point to the next and along a side,
# and the smallest area, as a fraction of the affine part's, that a sample may shrink to. The margin
# is for what lies between the samples: three samples with a margin of 0.15 missed three folds in
# 8,000 draws of five strong families, with 0.2 none.
_BETWEEN, _ALONG, _SMALLEST_AREA = 3, 24, 0.2
_KEPT = 16  # tables, of one size, type and device each


class ThinPlateBasis:
    """The functions that thin-plate splines with the same control points are made of.

    They are, in this order, U(|p − c_k|) for the P control points, 1, x and y, the last two in
    isotropic coordinates. Instances are shared: get one from :meth:`regular`.

    Args:
        side: control points a side, at least 2. The P = side² points reach from edge to edge of
            the image, row by row.
        extent: half width and half height of the images in isotropic coordinates.
    """

    def __init__(self, side: int, extent: tuple[float, float] = (1.0, 1.0)) -> None:
        if side < 2:
            raise ValueError(f"a spline needs at least 2 × 2 control points, not {side} × {side}")
        self.side = side
        self.extent = extent
        self.control = _lattice(side, 1.0)
        self._tables: OrderedDict[object, Tensor] = OrderedDict()

    @staticmethod
    @lru_cache(maxsize=8)
    def regular(side: int, size: Size) -> ThinPlateBasis:
        """The basis with ``side`` × ``side`` control points for images of that size."""
        return ThinPlateBasis(side, isotropic_extent(size))

    def __len__(self) -> int:
        """The number of functions, P + 3."""
        return self.side**2 + 3

    def features(self, points: Tensor) -> Tensor:
        """All functions at points ``(..., N, 2)`` -> ``(..., N, P + 3)``; differentiable."""
        isotropic, (u, _, _) = self._kernel(points)
        return torch.cat([u, torch.ones_like(isotropic[..., :1]), isotropic], -1)

    def evaluate(self, points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The splines f and their derivatives ∂f/∂x, ∂f/∂y, ``(B, N, 2)`` each; differentiable.

        Args:
            points: ``(B, N, 2)``.
            coefficients: ``(B, P + 3, 2)``, of the points' type.
        """
        isotropic, (u, ux, uy) = self._kernel(points)
        weights, constant, fx, fy = coefficients.split_with_sizes([len(self) - 3, 1, 1, 1], 1)
        value = constant + isotropic[..., :1] * fx + isotropic[..., 1:] * fy + u @ weights
        width, height = self.extent
        return value, (fx + ux @ weights) * width, (fy + uy @ weights) * height

    def interpolated(self, values: Tensor) -> Tensor:
        """The coefficients ``(B, P + 3, 2)`` of the splines with these values at the controls.

        Of all smooth functions through these values they bend least.

        Args:
            values: ``(B, P, 2)``.
        """
        system = self._table("interpolation", values.device, torch.float64, self._interpolation)
        with torch.autocast(values.device.type, enabled=False):
            return (system @ values.double()).to(values.dtype)

    def weighted(self, weights: Tensor) -> Tensor:
        """The coefficients ``(B, P + 3, 2)`` of Σ_k w_k U(|p − c_k|) alone.

        Args:
            weights: ``(B, P, 2)``. They need not sum to zero, nor their moments; if they do not,
                the spline is not the least bent one through its values.
        """
        return torch.cat([weights, weights.new_zeros(weights.shape[0], 3, 2)], 1)

    def affine(self, matrix: Tensor) -> Tensor:
        """The coefficients ``(B, P + 3, 2)`` of affine maps ``(B, 2, 3)`` of points."""
        x, y, shift = matrix.unbind(-1)
        width, height = self.extent
        linear = torch.stack([shift, x / width, y / height], 1)
        return torch.cat([matrix.new_zeros(matrix.shape[0], len(self) - 3, 2), linear], 1)

    @torch.no_grad()
    def one_to_one(self, matrix: Tensor, bend: Tensor) -> Tensor:
        """How much of a bend an affine map can take without folding, ``(B,)`` in [0, 1].

        The largest s ≤ 1 for which affine + s·bend keeps the orientation on [-1, 1]², tested at
        samples between the control points. At each sample the area's growth relative to the affine
        map's is det(I + s·M) = 1 + s·tr M + s²·det M, where M is the bend's Jacobian matrix
        followed by the inverse of the affine one; so s is a smallest root and needs no search.

        Args:
            matrix: invertible affine maps ``(B, 2, 3)``.
            bend: coefficients ``(B, P + 3, 2)`` of what is added to them.
        """
        (a, b), (c, d) = (row[:, :2, None].unbind(1) for row in matrix.unbind(1))
        area = a * d - b * c
        u, v = bend.unbind(-1)
        straightened = torch.stack([d * u - b * v, a * v - c * u], -1) / area[..., None]
        slopes = self._table("slopes", bend.device, bend.dtype, self._slopes)
        with torch.autocast(bend.device.type, enabled=False):
            parts = self._sorted(straightened) @ slopes
        # As in on_pixels; but the derivative by a coordinate of an even function is odd in it.
        by_x, by_y = parts.view(2, 2, 2 * len(bend), 2, -1).unbind(3)
        derivatives = torch.stack([by_x.flip(1), by_y.flip(0)], 2)
        quarters = [
            quarter
            for half in _sum_and_difference(derivatives)
            for quarter in _sum_and_difference(half)
        ]
        # The entries of M, (image, sample) each: by the coordinate, of the component.
        (xx, xy), (yx, yy) = torch.cat(quarters, -1).view(2, 2, len(bend), -1)
        trace = xx + yy
        determinant = torch.addcmul(xx * yy, xy, yx, value=-1)
        # The smallest positive root of free + s·trace + s²·determinant is 2·free / divisor, and
        # there is none below 1 where the divisor is below 2·free. (Where no root is real the
        # divisor is -trace: at worst s is then smaller than it need be.)
        free = 1 - _SMALLEST_AREA
        discriminant = trace.square().sub_(determinant, alpha=4 * free)
        divisor = discriminant.clamp_min_(0).sqrt_().sub_(trace)
        strength: Tensor = 2 * free / divisor.amax(1).clamp_min(2 * free)
        return strength

    def on_pixels(self, coefficients: Tensor, size: Size) -> Tensor:
        """The splines at all pixel centres, ``(B, H * W, 2)``; differentiable.

        The control points and the pixels are symmetric about both axes, so a spline is the sum of
        four parts, each even or odd in x and in y, made of a quarter of the basis, and needed in
        the upper left quarter of the image only: a quarter of the work.

        In memory all x come first and then all y, which ``grid_sample`` reads as fast as pairs.
        """
        height, width = size
        device, dtype = coefficients.device, coefficients.dtype
        features = self._table(("pixels", size), device, dtype, lambda: self._pixels(size))
        with torch.autocast(device.type, enabled=False):
            parts = self._sorted(coefficients) @ features
        # (even or odd in y and in x, coordinate and image, row and column of the quarter)
        parts = parts.view(2, 2, -1, (height + 1) // 2, (width + 1) // 2)
        upper, lower = _sum_and_difference(parts)
        (upper_left, upper_right), (lower_left, lower_right) = (
            _sum_and_difference(half) for half in (upper, lower)
        )
        rows, columns = height // 2, width // 2  # without the middle lines
        values = parts.new_empty(parts.shape[2], height, width)
        values[:, : height - rows, : width - columns] = upper_left
        values[:, : height - rows, width - columns :] = upper_right[..., :columns].flip(2)
        values[:, height - rows :, : width - columns] = lower_left[:, :rows].flip(1)
        values[:, height - rows :, width - columns :] = lower_right[:, :rows, :columns].flip(1, 2)
        return values.view(2, -1, height * width).permute(1, 2, 0)

    def on_lattice(self, coefficients: Tensor) -> Tensor:
        """The displacements of the splines on a lattice beyond the image, ``(B, 2, n, n)``."""
        width, height = self.extent
        device, dtype = coefficients.device, coefficients.dtype
        features = self._table(
            "lattice", device, dtype, lambda: self.features(_lattice(_NODES, _REACH))
        )
        nodes = torch.stack([features[:, -2] / width, features[:, -1] / height])
        with torch.autocast(device.type, enabled=False):
            values = (_stacked(coefficients) @ features.T).view(2, -1, _NODES * _NODES)
        displacement = values - nodes[:, None]
        return displacement.transpose(0, 1).reshape(-1, 2, _NODES, _NODES)

    def affine_fit(self, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best affine maps on the image: value at the centre, ∂f/∂x, ∂f/∂y, ``(B, 2)`` each."""
        fit = self._table("fit", coefficients.device, coefficients.dtype, self._fit)
        with torch.autocast(coefficients.device.type, enabled=False):
            value, fx, fy = (fit @ coefficients).unbind(1)
        return value, fx, fy

    def _kernel(self, points: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The points in isotropic coordinates; U and its derivatives there, (..., N, P) each."""
        width, height = self.extent
        centres = self._table("control", points.device, points.dtype, lambda: self.control)
        isotropic = torch.stack([points[..., 0] * width, points[..., 1] * height], -1)
        dx = isotropic[..., :1] - centres[:, 0] * width
        dy = isotropic[..., 1:] - centres[:, 1] * height
        # At a control point U and its slope are 0; the bound keeps log and its derivative finite.
        square = (dx.square() + dy.square()).clamp_min(torch.finfo(points.dtype).tiny)
        log = square.log()
        slope = 2 * log + 2
        return isotropic, (square * log, slope * dx, slope * dy)

    def _interpolation(self) -> Tensor:
        """From values at the control points to coefficients, (P + 3, P)."""
        count = self.side**2
        features = self.features(self.control)
        system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
        system[:count] = features
        system[count:, :count] = features[:, count:].T
        inverse: Tensor = torch.linalg.inv(system)
        return inverse[:, :count]

    def _slopes(self) -> Tensor:
        """The derivatives of the sorted basis at a quarter of the fold test's samples, (4, K, 2 S).

        First all derivatives by x and then all by y.
        """
        gaps = self.side - 1
        nodes = gaps * max(_BETWEEN, -(-_ALONG // gaps)) + 1
        _, (_, ux, uy) = self._kernel(_quarter(_lattice(nodes, 1.0), (nodes, nodes)))
        zero, one = torch.zeros_like(ux[:, :1]), torch.ones_like(ux[:, :1])
        width, height = self.extent
        by_x = torch.cat([ux, zero, one, zero], 1) * width
        by_y = torch.cat([uy, zero, zero, one], 1) * height
        return self._parities() @ torch.cat([by_x, by_y]).T

    def _sorted(self, coefficients: Tensor) -> Tensor:
        """The coefficients of the basis sorted by symmetry, ``(4, 2 B, K)``: see _parities."""
        parities = self._table("parities", coefficients.device, coefficients.dtype, self._parities)
        turned = _stacked(coefficients) @ parities.flatten(0, 1).T
        return turned.view(len(turned), *parities.shape[:2]).transpose(0, 1)

    def _parities(self) -> Tensor:
        """The basis sorted by symmetry, ``(4, K, P + 3)``: orthonormal rows, or zeros at the end.

        First what is even in y and in x, then even in y and odd in x, odd and even, odd and odd.
        """
        side, count = self.side, self.side**2
        unit = torch.eye(count + 3, dtype=torch.float64)
        grid = torch.arange(count).view(side, side)
        half = (side + 1) // 2
        k, across, down, both = (
            unit[grid.flip(dims)[:half, :half].flatten()] for dims in ((), (1,), (0,), (0, 1))
        )
        one, x, y = unit[count:, None]
        parts = [
            torch.cat([k + across + down + both, one]),
            torch.cat([k - across + down - both, x]),
            torch.cat([k + across - down - both, y]),
            k - across - down + both,
        ]
        # On a middle line the odd combinations vanish.
        parts = [part[part.abs().sum(1) > 0] for part in parts]
        rows = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return torch.nn.functional.normalize(rows, dim=-1)

    def _pixels(self, size: Size) -> Tensor:
        """The sorted basis at a quarter of the pixels, (4, K, pixels)."""
        quarter = _quarter(pixel_grid(*size, dtype=torch.float64), size)
        return self._parities() @ self.features(quarter).T

    def _fit(self) -> Tensor:
        """From coefficients to the best affine map, (3, P + 3)."""
        points = _lattice(33, 1.0)
        design = torch.cat([torch.ones_like(points[:, :1]), points], 1)
        inverse: Tensor = torch.linalg.pinv(design)
        return inverse @ self.features(points)

    def _table(
        self, name: object, device: torch.device, dtype: torch.dtype, make: Callable[[], Tensor]
    ) -> Tensor:
        key = (name, device, dtype)
        if key not in self._tables:
            # A table made in inference mode could not be used in training later.
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = make().to(device, dtype)
            if len(self._tables) > _KEPT:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]


class TpsWarp(Warp):
    """A thin-plate spline for each image of a batch; ``to_source`` is the spline.

    Args:
        basis: what the splines of the batch share.
        coefficients: ``(B, P + 3, 2)``; the spline at p is ``basis.features(p) @ coefficients``.
    """

    def __init__(self, basis: ThinPlateBasis, coefficients: Tensor) -> None:
        if coefficients.ndim != 3 or coefficients.shape[1:] != (len(basis), 2):
            raise ValueError(
                f"splines with {len(basis) - 3} control points need coefficients "
                f"(B, {len(basis)}, 2), not {tuple(coefficients.shape)}"
            )
        self.basis = basis
        self.coefficients = coefficients

    @property
    def exact(self) -> frozenset[str]:
        """``to_source``."""
        return frozenset({TO_SOURCE})

    def to_source(self, points: Tensor) -> Tensor:
        """The splines at points ``(B, N, 2)``."""
        points = self._precise(points)
        with torch.autocast(points.device.type, enabled=False):
            return self.basis.features(points) @ self.coefficients.to(points.dtype)

    def to_target(self, points: Tensor) -> Tensor:
        """Where the splines take the value ``points`` ``(B, N, 2)``.

        Newton's method from the inverse of the best affine map, with bounded steps. The error is
        below 1e-5 for warps that do not fold; points that are not found are NaN. Differentiable
        by the implicit function theorem.
        """
        points = self._precise(points)
        coefficients = self.coefficients.to(points.dtype)
        with torch.autocast(points.device.type, enabled=False):
            with torch.no_grad():
                value, fx, fy = (t[:, None] for t in self.basis.affine_fit(coefficients))
                q = newton_step(points - value, fx, fy)
                for _ in range(ITERATIONS):
                    value, fx, fy = self.basis.evaluate(q, coefficients)
                    step = newton_step(points - value, fx, fy)
                    q = q + step.clamp(-LONGEST_STEP, LONGEST_STEP)
            # The last step carries the gradient. That of the Jacobian matrix is left out: it would
            # be multiplied by a residual of zero.
            value, fx, fy = self.basis.evaluate(q, coefficients)
        residual = points - value
        found = residual.detach().square().sum(-1) < TOLERANCE**2
        q = q + newton_step(residual, fx.detach(), fy.detach())
        return torch.where(found[..., None], q, torch.nan)

    def _field(self) -> Field:
        """The splines tabulated a little beyond the image, for whole images to go through."""
        return Field(self.basis.on_lattice(self.coefficients), (_REACH, _REACH))

    def _pixels_to_source(self, size: Size) -> Mapped:
        points = self.basis.on_pixels(self.coefficients, size)
        return points, torch.ones(points.shape[:-1], dtype=torch.bool, device=points.device)

    def _dense_to_source(self, points: Tensor) -> Mapped:
        image = self._field()(points)
        return image, torch.ones(image.shape[:-1], dtype=torch.bool, device=image.device)

    def _dense_to_target(self, points: Tensor) -> Mapped:
        return self._field().solve(points)

    def _tensor(self) -> Tensor:
        return self.coefficients

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(self.basis, change(self.coefficients))


def _stacked(coefficients: Tensor) -> Tensor:
    """(B, P + 3, 2) -> (2 B, P + 3), first all of x: the left factor of one product for a batch."""
    return coefficients.permute(2, 0, 1).flatten(0, 1)


def _sum_and_difference(parts: Tensor) -> tuple[Tensor, Tensor]:
    """Of an even and an odd part ``(2, ...)``: the function here and mirrored. Overwrites parts."""
    even, odd = parts[0], parts[1]
    difference = even - odd
    return even.add_(odd), difference


def _quarter(points: Tensor, size: Size) -> Tensor:
    """The upper left quarter of a grid of points, row by row, middle lines included."""
    height, width = size
    grid = points.view(height, width, 2)
    return grid[: (height + 1) // 2, : (width + 1) // 2].reshape(-1, 2)


def _lattice(nodes: int, reach: float) -> Tensor:
    """nodes × nodes points from -reach to reach, row by row, in float64."""
    line = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)
