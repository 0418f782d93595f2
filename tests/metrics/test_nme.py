"""Normalised mean error."""

import math
import pickle

import pytest
import torch

from landmark_lab.metrics.nme import (
    LandmarkErrors,
    NormalisedMeanError,
    box_side,
    image_errors,
    landmark_errors,
    normalised_mean_error,
    pair_distance,
    point_errors,
    points_box,
)
from tests.oracles import metrics as oracle


def draw(seed, images=7, points=5, missing=0.2):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(images, points, 2, generator=generator, dtype=torch.float64) * 2 - 1
    predicted = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    unknown = torch.rand(images, points, generator=generator) < missing
    truth[unknown] = torch.nan
    visible = torch.rand(images, points, generator=generator) < 0.8
    normaliser = torch.rand(images, generator=generator, dtype=torch.float64) + 0.5
    return predicted, truth, normaliser, visible


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_the_slow_loop_says(seed):
    predicted, truth, normaliser, visible = draw(seed)
    normaliser[0] = 0
    normaliser[1] = torch.nan
    predicted[2, 0] = torch.nan
    for seen in (None, visible):
        found = float(normalised_mean_error(predicted, truth, normaliser, seen))
        lists = [t.tolist() for t in (predicted, truth, normaliser)]
        slow = oracle.nme(*lists, None if seen is None else seen.tolist())
        assert found == pytest.approx(slow, rel=1e-12)


def test_a_hand_made_case():
    truth = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]])
    predicted = truth + torch.tensor([[[0.3, 0.4], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
    normaliser = pair_distance(truth, (0, 1))
    assert normaliser.tolist() == [1.0, 2.0]
    # (0.5 + 0) / 2 over 1, and (0 + 1) / 2 over 2: a mean of ratios, not a ratio of means.
    errors = image_errors(predicted, truth, normaliser)
    assert errors.tolist() == pytest.approx([0.25, 0.25])
    assert float(normalised_mean_error(predicted, truth, normaliser)) == pytest.approx(0.25)


def test_moving_turning_and_scaling_all_coordinates_changes_nothing():
    predicted, truth, _, visible = draw(1, missing=0)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)

    def error(change):
        a, b = change(predicted), change(truth)
        by_pair = normalised_mean_error(a, b, pair_distance(b, (0, 3)), visible)
        return torch.stack([by_pair, normalised_mean_error(a, b, pair_distance(b, (1, 2)))])

    changed = error(lambda p: 64 * (p @ turn) + 17)
    torch.testing.assert_close(changed, error(lambda p: p))


def test_boxes():
    points = torch.tensor([[[0.0, 1.0], [4.0, 10.0], [torch.nan, torch.nan]]])
    assert points_box(points).tolist() == [[0.0, 1.0, 4.0, 10.0]]
    assert box_side(points_box(points)).tolist() == [6.0]
    assert points_box(torch.full((1, 2, 2), torch.nan)).isnan().all()
    nowhere = torch.tensor([[0.0, 0, 0, 1], [2, 0, 1, 1], [torch.nan, 0, 1, 1]])
    assert box_side(nowhere).isnan().all()


def test_what_is_left_out():
    predicted, truth, normaliser, _ = draw(2, images=3, missing=0)
    truth[0] = torch.nan
    normaliser[1] = 0
    errors = point_errors(predicted, truth, normaliser)
    assert errors[:2].isnan().all()
    assert not errors[2].isnan().any()
    assert float(normalised_mean_error(predicted, truth, normaliser)) == pytest.approx(
        float(errors[2].mean())
    )
    assert math.isnan(normalised_mean_error(predicted[:2], truth[:2], normaliser[:2]))


def test_errors_of_single_landmarks():
    predicted, truth, normaliser, visible = draw(6)
    found = landmark_errors(predicted, truth, normaliser, visible)
    for p in range(5):
        only = [t[:, [p]].tolist() for t in (predicted, truth)]
        slow = oracle.nme(*only, normaliser.tolist(), visible[:, [p]].tolist())
        assert float(found[p]) == pytest.approx(slow, rel=1e-12)
    metric = LandmarkErrors()
    for batch in (range(4, 7), range(5)):  # images 4 is repeated
        i = torch.tensor(list(batch))
        metric.update(predicted[i], truth[i], normaliser[i], i, visible[i])
    torch.testing.assert_close(metric.compute(), found)


def test_gradients():
    predicted, truth, normaliser, visible = draw(3, images=2, missing=0)
    visible[:, 0] = True
    assert torch.autograd.gradcheck(
        lambda p: normalised_mean_error(p, truth, normaliser, visible),
        predicted.requires_grad_(),
    )


class TestShell:
    def test_batches_do_not_matter_and_repeated_images_count_once(self):
        predicted, truth, normaliser, visible = draw(4, images=9)
        whole = normalised_mean_error(predicted, truth, normaliser, visible)
        for rows in ([range(9)], [range(4), range(4, 9)], [range(5, 9), range(6), range(9)]):
            metric = NormalisedMeanError()
            for batch in rows:
                i = torch.tensor(list(batch))
                metric.update(predicted[i], truth[i], normaliser[i], i, visible[i])
            torch.testing.assert_close(metric.compute(), whole)

    def test_it_starts_again_and_can_be_pickled(self):
        predicted, truth, normaliser, _ = draw(5)
        metric = NormalisedMeanError()
        index = torch.arange(7)
        metric.update(predicted + 1, truth, normaliser, index)
        metric.reset()
        metric.update(predicted, truth, normaliser, index)
        copied = pickle.loads(pickle.dumps(metric))
        expected = normalised_mean_error(predicted, truth, normaliser)
        torch.testing.assert_close(copied.compute(), expected)
        torch.testing.assert_close(metric.compute(), expected)

    def test_without_images_it_says_so(self):
        with (
            pytest.warns(UserWarning, match="before the ``update``"),
            pytest.raises(ValueError, match="NormalisedMeanError has seen no images"),
        ):
            NormalisedMeanError().compute()
