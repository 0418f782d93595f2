"""Bootstrap intervals."""

import numpy as np
import pytest

from landmark_lab.metrics import bootstrap
from landmark_lab.metrics.bootstrap import (
    bootstrap_interval,
    percentile_interval,
    resampled_images,
    resampled_means,
)
from landmark_lab.seeding import rng
from tests.oracles import metrics as oracle


def test_means_are_those_of_the_drawn_images():
    values = np.random.default_rng(0).normal(size=(23, 2))
    values[3, 0] = np.nan
    found = resampled_means(values, 40, seed=5)
    draws = rng(5, "bootstrap", 23, 40).integers(23, size=(40, 23))
    for column in (0, 1):
        slow = oracle.resampled_means(values[:, column].tolist(), draws.tolist())
        np.testing.assert_allclose(found[:, column], slow)


def test_images_are_the_same_ones_that_means_are_over(monkeypatch):
    values = np.random.default_rng(6).normal(size=(31, 1))
    draws = list(resampled_images(31, 50, seed=2))
    assert [draw.shape for draw in draws] == [(31,)] * 50
    means = [values[draw].mean() for draw in draws]
    np.testing.assert_allclose(resampled_means(values, 50, seed=2)[:, 0], means)
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)
    np.testing.assert_array_equal(list(resampled_images(31, 50, seed=2)), draws)


def test_the_block_size_does_not_matter(monkeypatch):
    values = np.random.default_rng(1).normal(size=(51, 3))
    whole = resampled_means(values, 100, seed=1)
    monkeypatch.setattr(bootstrap, "_BLOCK", 170)
    np.testing.assert_allclose(resampled_means(values, 100, seed=1), whole)


def test_it_is_a_function_of_the_seed():
    values = np.random.default_rng(2).normal(size=60)
    first = bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) == first
    assert bootstrap_interval(values, seed=4) != first


def test_it_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_interval(generator.exponential(1.0, 80), resamples=400, seed=trial)
        covered += low <= 1.0 <= high
    # 95 % nominally; percentile intervals of a skewed quantity fall a little short.
    assert 0.89 <= covered / 300 <= 0.98


def test_it_is_as_wide_as_the_normal_theory_says():
    values = np.random.default_rng(4).normal(0, 2, 1000)
    low, high = bootstrap_interval(values, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(1000), rel=0.06)


def test_unknown_values_are_left_out():
    values = np.random.default_rng(5).normal(5, 1, 200)
    values[::4] = np.nan
    low, high = bootstrap_interval(values)
    assert low < np.nanmean(values) < high
    assert np.isnan(bootstrap_interval(np.full(4, np.nan))).all()
    assert np.isnan(bootstrap_interval(np.empty(0))).all()
    assert np.isnan(percentile_interval(np.empty(0))).all()


def test_one_image_gives_an_interval_without_width():
    assert bootstrap_interval(np.array([3.0])) == (3.0, 3.0)


def test_a_statistic_of_several_means():
    generator = np.random.default_rng(6)
    below = generator.uniform(1, 2, 300)
    columns = np.stack([3 * below + 0.01 * generator.normal(size=300), below], 1)
    low, high = bootstrap_interval(columns, lambda means: means[:, 0] / means[:, 1])
    assert 2.99 < low < high < 3.01
