"""Paired bootstrap."""

import numpy as np
import pytest
from scipy import stats

from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.paired import paired_difference


def draw(seed, images=200, better=0.3):
    generator = np.random.default_rng(seed)
    hard = generator.gamma(2, 5, images)  # common to both methods
    noise = generator.normal(0, 0.5, (2, images))
    return hard - better + noise[0], hard + noise[1]


def test_it_is_scipys_paired_bootstrap():
    first, second = draw(0)
    found = paired_difference(first, second, resamples=20_000)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    reference = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    )
    expected = reference.confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.005)
    share = (reference.bootstrap_distribution < 0).mean()
    assert found.first_lower == pytest.approx(share, abs=0.01)
    assert found.images == 200


def test_pairs_see_what_single_intervals_hide():
    first, second = draw(2)
    alone = [bootstrap_interval(values) for values in (first, second)]
    assert alone[0][1] > alone[1][0]  # they overlap by far
    found = paired_difference(first, second)
    assert found.high < 0
    assert found.first_lower == 1


def test_exchanging_the_methods_turns_the_sign():
    first, second = draw(3, better=0.02)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.first_lower == pytest.approx(1 - other.first_lower)


def test_a_method_against_itself():
    first, _ = draw(4)
    found = paired_difference(first, first)
    assert (found.difference, found.low, found.high, found.first_lower) == (0, 0, 0, 0.5)


def test_images_that_count_for_one_only():
    first, second = draw(5)
    first[:10], second[5:20] = np.nan, np.nan
    found = paired_difference(first, second)
    assert found.images == 180
    assert found == paired_difference(first[20:], second[20:])
    with pytest.raises(ValueError, match="no image counts for both"):
        paired_difference(np.full(3, np.nan), np.ones(3))
    with pytest.raises(ValueError, match="2 and 3 images cannot be paired"):
        paired_difference(np.ones(2), np.ones(3))
