"""Thin-plate splines: against an explicit solve, SciPy, and differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from landmark_lab.geometry import ThinPlateBasis, TpsWarp
from landmark_lab.geometry.affine import AffineWarp, similarity
from landmark_lab.geometry.points import isotropic_extent, pixel_grid
from tests.oracles.warps import kernel, smallest_area, thin_plate

COUNT = 3
FLOAT = torch.float64
Size = tuple[int, int]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def some_points(reach: float = 1.2) -> Tensor:
    return normal(COUNT, 17, 2, seed=3).clamp(-1, 1) * reach


@pytest.mark.parametrize(("side", "size"), [(2, (8, 8)), (4, (30, 20)), (5, (9, 16))])
def test_a_spline_is_the_explicit_solve(side: int, size: Size) -> None:
    basis = ThinPlateBasis.regular(side, size)
    images = basis.control + 0.1 * normal(COUNT, side**2, 2)
    warp = TpsWarp(basis, basis.interpolated(images))
    points = some_points()
    found = warp.to_source(points).numpy()
    extent = np.asarray(isotropic_extent(size))
    for k in range(COUNT):
        spline = thin_plate(basis.control.numpy() * extent, images[k].numpy())
        expected = [spline(p * extent) for p in points[k].numpy()]
        np.testing.assert_allclose(found[k], expected, atol=1e-9)


@pytest.mark.parametrize("side", [3, 10])
def test_a_spline_agrees_with_scipy(side: int) -> None:
    basis = ThinPlateBasis.regular(side, (64, 64))
    images = basis.control + 0.05 * normal(COUNT, side**2, 2)
    warp = TpsWarp(basis, basis.interpolated(images))
    points = some_points()
    for k in range(COUNT):
        spline = RBFInterpolator(basis.control, images[k], kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(warp.to_source(points)[k], spline(points[k]), atol=1e-9)


def test_kernel_weights_are_those_of_the_formula() -> None:
    basis = ThinPlateBasis.regular(3, (16, 16))
    weights = normal(1, 9, 2)
    found = TpsWarp(basis, basis.weighted(weights)).to_source(some_points()[:1])[0]
    for point, image in zip(some_points()[0].numpy(), found.numpy(), strict=True):
        terms = [kernel(float(np.hypot(*(point - c)))) for c in basis.control.numpy()]
        np.testing.assert_allclose(image, np.asarray(terms) @ weights[0].numpy(), atol=1e-12)


@pytest.mark.parametrize("size", [(16, 16), (10, 24), (24, 11)])
def test_an_affine_spline_is_the_affine_map(size: Size) -> None:
    basis = ThinPlateBasis.regular(4, size)
    matrix = normal(COUNT, 2, 3)
    warp = TpsWarp(basis, basis.affine(matrix))
    torch.testing.assert_close(
        warp.to_source(some_points()), AffineWarp(matrix).to_target(some_points())
    )


@pytest.mark.parametrize("side", [2, 3, 6, 7])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 4), (16, 16)])
def test_halves_of_the_pixel_grid_make_the_whole(side: int, size: Size) -> None:
    basis = ThinPlateBasis.regular(side, size)
    warp = TpsWarp(basis, normal(COUNT, len(basis), 2))
    pixels = pixel_grid(*size, dtype=FLOAT).expand(COUNT, -1, -1)
    expected = warp.to_source(pixels).reshape(COUNT, *size, 2)
    torch.testing.assert_close(warp.source_grid(size), expected)


def test_derivatives_are_those_of_the_spline() -> None:
    basis = ThinPlateBasis.regular(4, (20, 30))
    warp = TpsWarp(basis, normal(COUNT, len(basis), 2))
    points, step = some_points(), 1e-6
    value, by_x, by_y = basis.evaluate(points, warp.coefficients)
    torch.testing.assert_close(value, warp.to_source(points))
    for found, shift in ((by_x, (step, 0.0)), (by_y, (0.0, step))):
        h = torch.tensor(shift, dtype=FLOAT)
        expected = (warp.to_source(points + h) - warp.to_source(points - h)) / (2 * step)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_a_control_point_has_a_finite_gradient() -> None:
    basis = ThinPlateBasis.regular(3, (8, 8))
    points = basis.control[None].float().requires_grad_()
    warp = TpsWarp(basis, normal(1, len(basis), 2).float())
    warp.to_source(points).sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (20, 40)])
def test_a_bend_is_shrunk_until_the_map_is_one_to_one(mirrored: bool, size: Size) -> None:
    basis = ThinPlateBasis.regular(6, size)
    matrix = similarity(normal(COUNT), torch.exp(0.2 * normal(COUNT)), 0.1 * normal(COUNT, 2), size)
    if mirrored:
        matrix = matrix * torch.tensor([[-1.0], [1.0]])
    bend = basis.interpolated(0.3 * normal(COUNT, 36, 2, seed=5))
    bend[0] *= 0.01
    strength = basis.one_to_one(matrix, bend)
    assert strength[0] == 1
    assert (strength[1:] < 1).all()
    assert (strength > 0).all()

    def area(factor: Tensor) -> np.ndarray:
        warp = TpsWarp(basis, basis.affine(matrix) + factor[:, None, None] * bend)
        lowest = smallest_area(
            lambda p: (
                warp.to_source(torch.from_numpy(p).expand(COUNT, -1, -1)).numpy()
                * (np.asarray([-1.0, 1.0]) if mirrored else 1.0)
            )
        )
        return lowest / torch.linalg.det(matrix[..., :2]).abs().numpy()

    assert (area(strength) > 0).all()
    assert (area(torch.ones(COUNT, dtype=FLOAT))[1:] < 0).all()  # it was needed
    assert (area(strength)[1:] < 0.21).all()  # and not overdone: 0.2 is the margin


def test_points_without_a_counterpart_are_nan_and_invalid() -> None:
    # Everything is mapped to the left half of the source: nothing there comes from beyond a fold.
    basis = ThinPlateBasis.regular(5, (16, 16))
    offsets = torch.zeros(1, 25, 2, dtype=FLOAT)
    offsets[0, :, 0] = -basis.control[:, 0].abs()
    warp = TpsWarp(basis, basis.interpolated(basis.control + offsets))
    lost = torch.tensor([[[0.9, 0.0], [float("nan"), 0.0]]], dtype=FLOAT, requires_grad=True)
    found = warp.to_target(lost)
    assert found.isnan().all()
    found.nan_to_num().sum().backward()
    assert lost.grad is not None
    assert lost.grad[0, 0].isfinite().all()
    assert not warp.valid((16, 16), at="source")[0, :, 12:].any()


def test_the_tables_of_a_basis_are_bounded() -> None:
    basis = ThinPlateBasis(3)
    coefficients = basis.affine(torch.eye(2, 3)[None])
    for side in range(2, 30):
        basis.on_pixels(coefficients, (side, side))
    assert len(basis._tables) <= 16
