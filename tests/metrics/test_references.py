"""Predictions without a method."""

import numpy as np
import pytest

from landmark_lab.metrics.references import (
    at_centroid,
    at_centroid_and_scale,
    mean_shape,
    sizes,
)
from tests.oracles import metrics as oracle


def draw(seed=0, images=12, points=6, missing=0.25):
    generator = np.random.default_rng(seed)
    shape = generator.normal(size=(points, 2))
    scale = generator.uniform(0.5, 2, images)
    place = generator.normal(size=(images, 1, 2))
    found = shape * scale[:, None, None] + place
    found[generator.random((images, points)) < missing] = np.nan
    return shape, scale, found


def test_the_mean_shape_ignores_unknown_points():
    points = np.array([[[0.0, 0], [1, 1], [np.nan] * 2], [[2.0, 0], [np.nan] * 2, [np.nan] * 2]])
    shape = mean_shape(points)
    assert shape[:2].tolist() == [[1, 0], [1, 1]]
    assert np.isnan(shape[2]).all()


@pytest.mark.parametrize("missing", [0, 0.25])
def test_the_centroid_is_that_of_the_known_points(missing):
    shape, _, points = draw(1, missing=missing)
    np.testing.assert_allclose(at_centroid(shape, points), oracle.at_centroid(shape, points))


@pytest.mark.parametrize("missing", [0, 0.25])
def test_an_object_that_only_moves_and_grows_is_predicted_exactly(missing):
    shape, scale, points = draw(2, missing=missing)
    np.testing.assert_allclose(sizes(shape, points), scale)
    placed = at_centroid_and_scale(shape, points, size=1.0)
    known = ~np.isnan(points)
    np.testing.assert_allclose(placed[known], points[known])
    halved = at_centroid_and_scale(shape, points, size=2.0)
    np.testing.assert_allclose(halved, oracle.at_centroid(shape, points, scale / 2))


def test_few_known_points():
    shape, _, points = draw(3, images=3, missing=0)
    points[0, 1:] = np.nan
    points[1] = np.nan
    found = sizes(shape, points)
    assert found[0] == 1
    assert np.isnan(found[1])
    assert np.isnan(at_centroid(shape, points)[1]).all()
    np.testing.assert_allclose(at_centroid(shape, points)[0, 0], points[0, 0])
