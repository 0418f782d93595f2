"""Channels that fire in the same places become one landmark."""

import numpy as np
import pytest
import torch
from torch import Tensor

from landmark_lab.clustering.merging import CELL, Merge, merge, overlaps
from tests.oracles import correspondence as oracle


def world(seed: int, images: int = 30, channels: int = 9) -> tuple[Tensor, Tensor]:
    """Channels that follow one of four landmarks with noise, each found in some of the images."""
    draw = np.random.default_rng(seed)
    landmarks = draw.uniform(-1, 1, (images, 4, 2))
    follows = draw.integers(0, 4, channels)
    noise = draw.normal(0, draw.uniform(0.2, 1, channels)[:, None] * CELL, (images, channels, 2))
    found = draw.uniform(size=(images, channels)) < draw.uniform(0.05, 1, channels)
    return torch.from_numpy(landmarks[:, follows] + noise), torch.from_numpy(found)


@pytest.mark.parametrize("seed", range(8))
def test_overlaps_are_counted(seed: int) -> None:
    points, found = world(seed)
    counted = overlaps(points, found)
    for one in range(9):
        for other in range(9):
            truth = oracle.overlap(points.numpy(), found.numpy(), one, other, CELL)
            assert counted[one, other] == truth
    assert torch.equal(counted.diagonal(), found.sum(0))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(8))
def test_merging_is_that_of_the_oracle(seed: int, share: float) -> None:
    points, found = world(seed)
    landmark, history = merge(points, found, share)
    truth, steps = oracle.merged(points.numpy(), found.numpy(), share, CELL)
    assert landmark.tolist() == truth
    assert [(step.absorbed, step.into) for step in history] == steps
    assert all(step.share >= share for step in history)


def test_something_merges_in_these_worlds() -> None:
    # Else the comparison with the oracle would say little.
    steps = [len(merge(*world(seed), share=0.5)[1]) for seed in range(8)]
    assert sum(steps) >= 12
    assert max(steps) >= 4


def test_the_smaller_channel_is_absorbed_and_its_points_go_along() -> None:
    # 1 stands where 0 does, in fewer images. 2 overlaps with 1 alone in images where 0 is blind:
    # only by the points that 0 got from 1 is it known for the same landmark.
    place = torch.zeros(10, 3, 2)
    found = torch.zeros(10, 3, dtype=torch.bool)
    found[:8, 0] = True
    found[4:, 1] = True
    found[8:, 2] = True
    found[4, 2] = True
    place[4, 2] = 0.5
    landmark, history = merge(place, found, share=0.6)
    assert landmark.tolist() == [0, 0, 0]
    assert history == [Merge(1, 0, pytest.approx(4 / 6), 6), Merge(2, 0, pytest.approx(2 / 3), 3)]


def test_a_share_is_of_the_smaller_channel() -> None:
    points = torch.zeros(10, 2, 2)
    points[7:, 1] = 1.0
    found = torch.ones(10, 2, dtype=torch.bool)
    assert merge(points, found, 0.7)[0].tolist() == [0, 0]
    assert merge(points, found, 0.71)[0].tolist() == [0, 1]
    found[7:, 1] = False
    assert merge(points, found, 1.0)[0].tolist() == [0, 0]


def test_the_radius_is_one_cell() -> None:
    points = torch.zeros(4, 2, 2, dtype=torch.float64)
    found = torch.ones(4, 2, dtype=torch.bool)
    points[:, 1] = torch.tensor([2 / 64, 0.0])
    assert merge(points, found)[0].tolist() == [0, 0]
    points[:, 1] = torch.tensor([2 / 64, 0.01])
    assert merge(points, found)[0].tolist() == [0, 1]


@pytest.mark.parametrize("cells", [24, 40, 48, 50, 60, 64])
def test_points_a_cell_apart_are_within_one_whatever_the_size_of_the_map(cells: int) -> None:
    cell, found = 2 / cells, torch.ones(cells - 1, 2, dtype=torch.bool)
    column = (torch.arange(cells - 1) + 0.75) * cell - 1  # at a quarter of a cell, in float32
    for apart, expected in ((1.0, [0, 0]), (1.25, [0, 1])):
        there = (torch.arange(cells - 1) + 0.75 + apart) * cell - 1
        points = torch.stack(
            [torch.stack([x, torch.zeros_like(x)], -1) for x in (column, there)], 1
        )
        assert merge(points, found, 1.0, cell)[0].tolist() == expected


def test_channels_that_never_fire_stay_alone_and_nothing_is_nan() -> None:
    points = torch.full((5, 3, 2), torch.nan)
    found = torch.zeros(5, 3, dtype=torch.bool)
    landmark, history = merge(points, found)
    assert landmark.tolist() == [0, 1, 2]
    assert not history
    found[:, 1], points[:, 1] = True, 0.0
    landmark, history = merge(points, found)
    assert landmark.tolist() == [0, 1, 2]
    assert not history


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0), (5, 1)])
def test_no_images_or_channels(shape: tuple[int, int]) -> None:
    landmark, history = merge(torch.zeros(*shape, 2), torch.ones(shape, dtype=torch.bool))
    assert landmark.tolist() == list(range(shape[1]))
    assert not history


def test_neither_input_is_changed() -> None:
    points, found = world(0)
    before = points.clone(), found.clone()
    merge(points, found, 0.3)
    assert torch.equal(points, before[0])
    assert torch.equal(found, before[1])


def test_an_order_of_images_does_not_matter() -> None:
    points, found = world(1)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(points)))
    assert torch.equal(merge(points, found, 0.5)[0], merge(points[order], found[order], 0.5)[0])


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.1}, {"radius": -1.0}])
def test_wrong_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        merge(torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool), **settings)
