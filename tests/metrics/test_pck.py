"""Percentage of correct keypoints."""

import pytest
import torch

from landmark_lab.metrics.pck import (
    CorrectKeypoints,
    correct_points,
    longer_side,
    share_correct,
)
from tests.oracles import metrics as oracle


def draw(seed, images=30, points=6):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(images, points, 2, generator=generator, dtype=torch.float64)
    predicted = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    truth[torch.rand(images, points, generator=generator) < 0.4] = torch.nan
    truth[0], predicted[1, 0] = torch.nan, torch.nan
    low = torch.rand(images, 2, generator=generator, dtype=torch.float64)
    extent = torch.rand(images, 2, generator=generator, dtype=torch.float64) + 0.2
    return predicted, truth, torch.cat([low, low + extent], 1)


@pytest.mark.parametrize("average", ["image", "point"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_the_slow_loop_says(seed, average):
    predicted, truth, boxes = draw(seed)
    correct = correct_points(predicted, truth, longer_side(boxes), 0.15)
    slow = oracle.pck(*(t.tolist() for t in (predicted, truth, boxes)), 0.15, average)
    assert float(share_correct(correct, average)) == pytest.approx(slow)


def test_the_two_averages_differ_where_points_are_missing():
    nan = torch.nan
    correct = torch.tensor([[1.0, 1.0, 1.0], [0.0, nan, nan], [nan, nan, nan]])
    assert float(share_correct(correct, "image")) == 0.5
    assert float(share_correct(correct, "point")) == 0.75


def test_the_longer_side_and_the_threshold_itself():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    assert longer_side(boxes)[:2].tolist() == [2.0, 4.0]
    assert longer_side(boxes)[2].isnan()
    truth = torch.zeros(3, 1, 2)
    predicted = torch.tensor([[[0.5, 0.0]], [[0.0, 1.5]], [[0.0, 0.0]]])
    found = correct_points(predicted, truth, longer_side(boxes), 0.25)
    assert found[:2, 0].tolist() == [1.0, 0.0]  # a distance of exactly α times the side counts
    assert found[2].isnan().all()


def test_moving_and_scaling_everything_changes_nothing():
    predicted, truth, boxes = draw(4)
    for scale, shift in ((64.0, 17.0), (0.25, -3.0)):
        moved = (t * scale + shift for t in (predicted, truth, boxes))
        a, b, c = moved
        assert torch.equal(
            correct_points(a, b, longer_side(c), 0.15).nan_to_num(-1),
            correct_points(predicted, truth, longer_side(boxes), 0.15).nan_to_num(-1),
        )


@pytest.mark.parametrize("average", ["image", "point"])
def test_batches_do_not_matter_and_repeated_images_count_once(average):
    predicted, truth, boxes = draw(5, images=9)
    size = longer_side(boxes)
    whole = share_correct(correct_points(predicted, truth, size, 0.1), average)
    for rows in ([range(9)], [range(5, 9), range(6), range(9)]):
        metric = CorrectKeypoints(0.1, average)
        for batch in rows:
            i = torch.tensor(list(batch))
            metric.update(predicted[i], truth[i], size[i], i)
        torch.testing.assert_close(metric.compute(), whole)
