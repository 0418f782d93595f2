"""The coordinate convention."""

import numpy as np
import pytest
import torch

from landmark_lab.geometry.points import (
    from_pixels,
    inside,
    isotropic_extent,
    pixel_grid,
    to_pixels,
)
from tests.oracles.warps import pixel_centre


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (5, 4)])
def test_the_grid_holds_the_pixel_centres_row_by_row(height: int, width: int) -> None:
    grid = pixel_grid(height, width, dtype=torch.float64)
    expected = [pixel_centre(i, j, height, width) for i in range(height) for j in range(width)]
    np.testing.assert_allclose(grid.numpy(), expected, atol=1e-15)


def test_edges_are_one_and_the_first_pixel_centre_is_zero() -> None:
    pixels = torch.tensor([[-0.5, -0.5], [0.0, 0.0], [7.5, 3.5]])
    points = from_pixels(pixels, height=4, width=8)
    expected = torch.tensor([[-1.0, -1.0], [-0.875, -0.75], [1.0, 1.0]])
    torch.testing.assert_close(points, expected)


def test_pixels_and_points_convert_both_ways() -> None:
    points = torch.rand(5, 7, 2, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    back = from_pixels(to_pixels(points, 33, 20), 33, 20)
    torch.testing.assert_close(back, points, atol=1e-6, rtol=0)
    grid = to_pixels(pixel_grid(3, 2), 3, 2)
    torch.testing.assert_close(
        grid, torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1], [0, 2], [1, 2]])
    )


def test_integer_pixels_become_points() -> None:
    points = from_pixels(torch.tensor([[0, 0], [1, 1]]), 2, 2)
    torch.testing.assert_close(points, torch.tensor([[-0.5, -0.5], [0.5, 0.5]]))


def test_inside_includes_the_edges_and_excludes_unknown_points() -> None:
    points = torch.tensor([[1.0, -1.0], [1.001, 0.0], [0.0, -1.001], [float("nan"), 0.0]])
    assert inside(points).tolist() == [True, False, False, False]


def test_the_longer_side_of_an_image_is_the_unit_of_isotropic_coordinates() -> None:
    assert isotropic_extent((64, 64)) == (1.0, 1.0)
    assert isotropic_extent((50, 100)) == (1.0, 0.5)
    assert isotropic_extent((100, 50)) == (0.5, 1.0)
