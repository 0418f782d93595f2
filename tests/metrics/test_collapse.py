"""Collapse: the known failures are seen, a healthy set of landmarks is not blamed."""

import pytest
import torch
from torch import Tensor

from landmark_lab.metrics.collapse import at_centre, collapse, constant, duplicates


def healthy(images: int = 200, count: int = 6) -> Tensor:
    """Landmarks on a ring around a face that is moved about."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.arange(count) * 2 * torch.pi / count
    ring = 0.5 * torch.stack([angle.cos(), angle.sin()], -1)
    return ring + 0.15 * torch.randn(images, 1, 2, generator=generator)


def test_healthy_landmarks_are_not_blamed() -> None:
    found = collapse(healthy())
    assert not (found.constant | found.at_centre | found.lost).any()
    assert found.distinct == 6
    assert found.same_as.tolist() == list(range(6))
    assert found.spread.mean().item() == pytest.approx(0.15 * 2**0.5, rel=0.1)


def test_frozen_landmarks() -> None:
    points = healthy()
    points[:, 2:4] = torch.tensor([[0.9, 0.9], [-0.9, 0.9]]) + 0.005 * points[:, 2:4]
    assert constant(points).tolist() == [False, False, True, True, False, False]
    assert collapse(points).distinct == 6  # frozen, yet apart


def test_repeated_landmarks_even_in_a_chain() -> None:
    points = healthy()
    points[:, 4] = points[:, 1] + 0.04
    points[:, 5] = points[:, 4] + 0.04  # near 4, too far from 1
    assert duplicates(points).tolist() == [0, 1, 2, 3, 1, 1]
    assert collapse(points).distinct == 4


def test_landmarks_that_meet_only_now_and_then_are_different() -> None:
    points = healthy()
    points[:80, 1] = points[:80, 0]
    assert collapse(points).distinct == 6


def test_landmarks_in_the_middle_of_the_image() -> None:
    points = healthy()
    points[:, 3] = 0.01 * points[:, 3]
    assert at_centre(points).tolist() == [False, False, False, True, False, False]
    # A nose that passes through the middle moves.
    points[:, 3] = points[:, 0] - points[:, 0].mean(0)
    assert not at_centre(points).any()


def test_landmarks_that_are_sometimes_or_never_found() -> None:
    points = healthy()
    points[::2, 1] = torch.nan
    points[:, 2] = torch.nan
    found = collapse(points)
    assert found.lost.tolist() == [False, False, True, False, False, False]
    assert found.distinct == 5
    assert not found.constant.any()
    assert not found.at_centre.any()
