"""Flows that are not one-to-one, and fields."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry import AffineWarp, FlowWarp
from landmark_lab.geometry.field import Field, newton_step
from landmark_lab.geometry.points import pixel_grid

SIDE = 32


def square_moves_right(pixels: int) -> Tensor:
    """A square of 12 × 12 pixels, rows and columns 8 to 19, moves over a background at rest."""
    flow = torch.zeros(1, 2, SIDE, SIDE)
    flow[0, 0, 8:20, 8:20] = pixels * 2 / SIDE
    return flow


def test_a_flow_moves_pixels_by_what_it_says() -> None:
    flow = torch.randn(2, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    grid = pixel_grid(6, 8).expand(2, -1, -1)
    moved = FlowWarp(flow).to_target(grid)
    torch.testing.assert_close(moved, grid + flow.flatten(2).transpose(1, 2))


def test_an_affine_flow_is_the_affine_warp_up_to_the_edges() -> None:
    matrix = torch.tensor([[[0.9, -0.2, 0.05], [0.15, 1.1, -0.1]]], dtype=torch.float64)
    affine = AffineWarp(matrix)
    grid = pixel_grid(9, 12, dtype=torch.float64)[None]
    flow = FlowWarp((affine.to_target(grid) - grid).transpose(1, 2).reshape(1, 2, 9, 12))
    corners = torch.tensor([[[-1.0, -1.0], [1.0, 1.0], [0.99, -0.3], [0.1, 0.2]]]).double()
    torch.testing.assert_close(flow.to_target(corners), affine.to_target(corners))
    there = affine.to_target(corners)
    torch.testing.assert_close(flow.to_source(there), corners)
    for at in ("source", "target"):
        assert torch.equal(flow.valid((9, 12), at), affine.valid((9, 12), at))  # type: ignore[arg-type]


def test_covered_and_uncovered_background_is_invalid() -> None:
    valid = FlowWarp(square_moves_right(6)).valid((SIDE, SIDE), at="source")[0]
    # The square covers columns 14 to 25; of the background there and of the square on top of it
    # at most one is taken to be seen, and nothing more than a border of both is lost besides.
    both_seen = valid[10:18, 20:26] & valid[10:18, 14:20]
    assert not both_seen.any()
    assert valid[:7].all()
    assert valid[21:].all()
    assert valid[:, 28:].all()
    at_target = FlowWarp(square_moves_right(6)).valid((SIDE, SIDE), at="target")[0]
    # Columns 9 to 13 of the target were hidden behind the square.
    assert not at_target[10:18, 9:13].any()
    assert at_target[:7].all()
    assert at_target[:, 28:].all()


def test_a_mask_says_what_is_seen() -> None:
    visible = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    visible[0, 8:20, 20:26] = False  # what the square covers
    warp = FlowWarp(square_moves_right(6), visible)
    valid = warp.valid((SIDE, SIDE), at="source")[0]
    assert valid[9:19, 9:19].all()  # all of the square but its border
    assert not valid[8:20, 20:26].any()
    assert valid[:7].all()
    rows = warp[0:1]
    assert torch.equal(rows.valid((SIDE, SIDE), at="source")[0], valid)


def test_a_folded_flow_is_invalid_where_it_folds() -> None:
    x, _ = pixel_grid(SIDE, SIDE).reshape(SIDE, SIDE, 2).unbind(-1)
    # x + d runs backwards where cos(4 x) < -0.5.
    flow = torch.stack([torch.sin(4 * x) / 2, torch.zeros_like(x)])[None]
    valid = FlowWarp(flow).valid((SIDE, SIDE), at="source")[0]
    folded = torch.cos(4 * x) < -0.55
    assert folded.any()
    assert not valid[folded].any()
    assert valid[:, SIDE // 2 - 3 : SIDE // 2 + 3].all()


def test_what_leaves_the_image_is_invalid() -> None:
    flow = torch.zeros(1, 2, 8, 8)
    flow[:, 1] = 0.5  # two pixels down
    warp = FlowWarp(flow)
    assert warp.valid((8, 8), at="source")[0].all(1).tolist() == [True] * 6 + [False] * 2
    assert warp.valid((8, 8), at="target")[0].all(1).tolist() == [False] * 2 + [True] * 6
    lost = warp.to_source(torch.tensor([[[0.0, 0.0], [0.0, math.nan]]]))
    assert lost[0, 0].tolist() == pytest.approx([0.0, -0.5])
    assert lost[0, 1].isnan().all()


def test_large_rotations_are_inverted() -> None:
    for degrees in (60.0, 120.0, 175.0):
        angle = math.radians(degrees)
        turn = torch.tensor(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        grid = pixel_grid(SIDE, SIDE)[None]
        flow = FlowWarp((grid @ turn.T - grid).transpose(1, 2).reshape(1, 2, SIDE, SIDE))
        points = torch.tensor([[[0.3, 0.2], [-0.5, 0.4]]])
        torch.testing.assert_close(flow.to_source(points), points @ turn, atol=1e-5, rtol=0)


def test_a_field_is_constant_beyond_its_lattice() -> None:
    field = Field(torch.arange(4.0).reshape(1, 1, 2, 2).expand(1, 2, 2, 2), extent=(0.5, 0.5))
    points = torch.tensor([[[-0.5, -0.5], [-3.0, -3.0], [0.0, 0.0], [9.0, 9.0]]])
    expected = points + torch.tensor([0.0, 0.0, 1.5, 3.0])[None, :, None]
    torch.testing.assert_close(field(points), expected)


def test_newton_steps_solve_and_fall_back_where_they_cannot() -> None:
    matrix = torch.tensor([[2.0, 1.0], [0.5, 3.0]])
    residual = torch.tensor([1.0, -2.0])
    step = newton_step(residual, matrix[:, 0], matrix[:, 1])
    torch.testing.assert_close(matrix @ step, residual)
    singular = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert torch.equal(newton_step(residual, singular[:, 0], singular[:, 1]), residual)
