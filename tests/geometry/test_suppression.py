"""Thinning of detected points."""

import math

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry import suppression
from landmark_lab.geometry.suppression import separated, spread, suppression_radii
from tests.oracles import suppression as oracle


def crowd(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points in clumps, with scores of which some are equal."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.rand(5, 2, generator=generator)
    clump = torch.randint(5, (count,), generator=generator)
    points = middles[clump] + 0.05 * torch.randn(count, 2, generator=generator)
    scores = (torch.rand(count, generator=generator) * 20).ceil() / 20
    return points.double(), scores.double()


def pairs(points: Tensor) -> list[oracle.Point]:
    return [(x, y) for x, y in points.tolist()]


@pytest.mark.parametrize("distance", [0.0, 0.01, 0.05, 10.0])
@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_what_is_kept_is_what_a_greedy_search_keeps(count: int, distance: float) -> None:
    points, scores = crowd(count)
    expected = oracle.kept(pairs(points), scores.tolist(), distance)
    assert separated(points, scores, distance).tolist() == expected


@pytest.mark.parametrize("robustness", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_radii_are_distances_to_clearly_better_points(
    count: int, robustness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression, "_ROWS", 64)  # several portions
    points, scores = crowd(count)
    expected = oracle.radii(pairs(points), scores.tolist(), robustness)
    assert suppression_radii(points, scores, robustness).tolist() == pytest.approx(expected)


def test_the_best_point_is_always_taken() -> None:
    points, scores = crowd(150)
    scores[17] = 3.0
    assert spread(points, scores, 1).tolist() == [17]
    assert math.isinf(suppression_radii(points, scores)[17])


def test_all_are_taken_where_there_are_few() -> None:
    points, scores = crowd(7)
    rows = spread(points, scores, 30)
    assert sorted(rows.tolist()) == list(range(7))
    assert (scores[rows].diff() <= 0).all()


def test_the_taken_points_are_the_radius_of_the_last_one_apart() -> None:
    """Without robustness, the guarantee of the paper."""
    points, _ = crowd(150)
    scores = torch.rand(150, generator=torch.Generator().manual_seed(1))
    rows = spread(points, scores, 30, robustness=1.0)
    apart = torch.pdist(points[rows]).min()
    assert apart >= suppression_radii(points, scores, 1.0)[rows].min()


def test_they_are_spread_wider_than_the_strongest_ones() -> None:
    points, _ = crowd(300)
    strong = points[:, 0] > points[:, 0].median()  # one side of the image attracts the detector
    scores = torch.randn(300, generator=torch.Generator().manual_seed(1)).exp() * (1 + 9 * strong)
    strongest = scores.topk(30).indices
    taken = spread(points, scores, 30)
    assert strong[strongest].sum() > 25
    assert 5 <= strong[taken].sum() <= 20
    assert torch.pdist(points[taken]).mean() > 2 * torch.pdist(points[strongest]).mean()
