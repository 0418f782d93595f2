"""Cumulative error curve, area below it, failure rate."""

import math

import pytest
import torch

from landmark_lab.metrics.cumulative import (
    AreaUnderCurve,
    FailureRate,
    area_under_curve,
    best_means,
    cumulative_errors,
    failure_rate,
)
from tests.oracles import metrics as oracle


def draw(seed, images=40):
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(images, generator=generator, dtype=torch.float64).square() * 20
    errors[torch.rand(images, generator=generator) < 0.1] = torch.nan
    return errors


@pytest.mark.parametrize("seed", range(3))
def test_they_are_what_the_slow_loops_say(seed):
    errors = draw(seed)
    thresholds = torch.tensor([0.0, 1.0, float(errors[~errors.isnan()][3]), 7.0, 30.0])
    slow = [oracle.share_at_most(errors.tolist(), t) for t in thresholds.tolist()]
    assert cumulative_errors(errors, thresholds.double()).tolist() == pytest.approx(slow)
    assert float(failure_rate(errors, 7.0)) == pytest.approx(1 - slow[3])
    area = oracle.area_under_curve(errors.tolist(), 7.0)
    assert float(area_under_curve(errors, 7.0)) == pytest.approx(area, abs=1e-4)


def test_hand_made_cases():
    errors = torch.tensor([0.0, 5.0, 10.0, 20.0])
    # An error at the threshold is no failure.
    assert cumulative_errors(errors, torch.tensor([0.0, 5.0, 9.9, 10.0])).tolist() == [
        0.25,
        0.5,
        0.5,
        0.75,
    ]
    assert float(failure_rate(errors, 10.0)) == 0.25
    assert float(area_under_curve(errors, 10.0)) == pytest.approx((1 + 0.5) / 4)
    assert float(area_under_curve(torch.zeros(3), 10.0)) == 1


def test_only_the_ratio_of_error_and_threshold_matters():
    errors = draw(5)
    torch.testing.assert_close(area_under_curve(errors, 8.0), area_under_curve(3 * errors, 24.0))
    torch.testing.assert_close(failure_rate(errors, 8.0), failure_rate(3 * errors, 24.0))


def test_nothing_counts():
    errors = torch.full((3,), torch.nan)
    assert math.isnan(area_under_curve(errors, 1.0))
    assert math.isnan(failure_rate(errors, 1.0))
    assert cumulative_errors(errors, torch.ones(2)).isnan().all()


def test_gradients():
    errors = torch.tensor([0.5, 2.0, 9.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda e: area_under_curve(e, 10.0), errors)


@pytest.mark.parametrize(
    ("shell", "function"), [(AreaUnderCurve, area_under_curve), (FailureRate, failure_rate)]
)
def test_batches_do_not_matter_and_repeated_images_count_once(shell, function):
    errors = draw(7, images=9)
    for rows in ([range(9)], [range(5, 9), range(6), range(9)]):
        metric = shell(6.0)
        for batch in rows:
            i = torch.tensor(list(batch))
            metric.update(errors[i], i)
        torch.testing.assert_close(metric.compute(), function(errors, 6.0))
    with pytest.raises(ValueError, match="threshold must be positive, not 0"):
        shell(0.0)


def test_the_mean_error_of_the_best_points():
    errors = draw(8, images=15)
    means = best_means(errors)
    known = sorted(e for e in errors.tolist() if not math.isnan(e))
    assert means.tolist() == pytest.approx([sum(known[:n]) / n for n in range(1, len(known) + 1)])
    assert float(means[-1]) == pytest.approx(float(errors.nanmean()))
    assert len(best_means(errors[:0])) == 0
