"""Finite groups on vectors: what is accepted, what they fix, and how a warp is oriented."""

import math

import pytest
import torch

from landmark_lab.errors import ConfigError
from landmark_lab.geometry import AffineWarp, FlowWarp, IdentityWarp
from landmark_lab.geometry.symmetry import (
    check_group,
    distance_from_fixed,
    normalises,
    reflection,
    reverses_orientation,
    rotations,
)
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.tps_pair import TpsPair

IDENTITY = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
MIRROR = [[-1.0, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(("count", "dimension"), [(1, 2), (3, 3), (5, 3), (4, 20)])
def test_rotations_are_a_cyclic_group(count: int, dimension: int) -> None:
    group = rotations(count, dimension)
    checked = check_group(group.tolist(), dimension)
    torch.testing.assert_close(checked, group, rtol=0, atol=1e-6)
    first = group[1 % count]
    torch.testing.assert_close(torch.linalg.matrix_power(first, count), group[0])
    torch.testing.assert_close(group.det(), torch.ones(count, dtype=torch.float64))


def test_the_mirror_image_and_rotations_go_together() -> None:
    assert normalises(reflection(3), rotations(5, 3))
    swap = torch.tensor([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    assert not normalises(swap, rotations(5, 3))
    both = torch.cat([rotations(3, 3), reflection(3) @ rotations(3, 3)])
    assert len(check_group(both.tolist(), 3)) == 6


def test_rounded_entries_are_accepted() -> None:
    s, c = 0.8660, -0.5
    turns = [IDENTITY, [[c, -s, 0], [s, c, 0], [0, 0, 1]], [[c, s, 0], [-s, c, 0], [0, 0, 1]]]
    assert check_group(turns, 3).shape == (3, 3, 3)


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ([], "at least the identity"),
        ([MIRROR], "lacks the identity"),
        ([IDENTITY, IDENTITY], "matrix 1 is twice"),
        ([IDENTITY, [[2.0, 0, 0], [0, 1, 0], [0, 0, 1]]], "matrix 1 .* not orthogonal"),
        ([IDENTITY, rotations(3, 3)[1].tolist()], "not closed: matrix 1 times matrix 1"),
        ([[[1.0, 0], [0, 1]]], "matrix 0 .* 2 rows of 2 numbers; allowed: 3×3"),
        ([[[1.0, 0, 0], [0, 1], [0, 0, 1]]], "3 rows of 2 or 3 numbers"),
    ],
)
def test_what_is_no_group_is_refused(matrices: list[list[list[float]]], message: str) -> None:
    with pytest.raises(ConfigError, match=f"here: .*{message}"):
        check_group(matrices, 3, where="here")


def test_rotations_need_a_plane() -> None:
    for count, dimension in ((0, 3), (3, 1)):
        with pytest.raises(ConfigError, match="at least 1 rotation, at least 2 dimensions"):
            rotations(count, dimension)


def test_a_reflection_fixes_its_plane_and_rotations_their_axis() -> None:
    mirror = torch.stack([torch.eye(3), reflection(3).float()])
    vectors = torch.tensor([[0.0, 3, 4], [2, 0, 0], [1, 1, 0], [0, 0, 0]])
    expected = torch.tensor([0, 1, math.sqrt(0.5), 1])
    torch.testing.assert_close(distance_from_fixed(vectors, mirror), expected)
    turns = rotations(3, 3).float()
    vectors = torch.tensor([[0.0, 0, -2], [1, 1, 0], [1, 0, 1]])
    expected = torch.tensor([0, 1, math.sqrt(0.5)])
    torch.testing.assert_close(distance_from_fixed(vectors, turns), expected, rtol=0, atol=1e-6)


def test_distance_does_not_change_under_the_group() -> None:
    group = rotations(5, 3).float()
    vectors = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    distance = distance_from_fixed(vectors, group)
    for member in group:
        torch.testing.assert_close(distance_from_fixed(vectors @ member.T, group), distance)


def test_orientation_of_warps_in_either_exact_direction() -> None:
    turn = [[0.0, -1, 0.3], [1, 0, 0]]
    mirror = [[-1.0, 0, 0], [0, 1, 0]]
    both = AffineWarp(torch.tensor([turn, mirror]))
    assert reverses_orientation(both).tolist() == [False, True]
    assert reverses_orientation(IdentityWarp(2)).tolist() == [False, False]
    splines = TpsPair().draw(BatchDraw.single(0, 8), (64, 64))[1]
    assert not reverses_orientation(splines).any()
    some = AffineWarp(torch.tensor([turn, mirror] * 4))
    expected = [False, True] * 4
    assert reverses_orientation(some.then(splines)).tolist() == expected
    assert reverses_orientation(splines.then(some)).tolist() == expected
    flow = 0.05 * torch.randn(8, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    assert reverses_orientation(some.then(FlowWarp(flow))).tolist() == expected
