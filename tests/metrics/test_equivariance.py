"""The equivariance error and the label-free criterion."""

import math

import pytest
import torch

from landmark_lab.metrics.equivariance import (
    EquivarianceCriterion,
    equivariance_criterion,
    equivariance_errors,
    lostness,
    separation,
)
from landmark_lab.metrics.spread import r_squared, spread
from tests.oracles import metrics as oracle

IMAGES, COUNT = 200, 10


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def warps(seed):
    """Affine maps of the usual strength: turned, resized and moved."""
    angle = math.radians(5) * normal(IMAGES, seed=seed)
    scale = 1 + 0.1 * normal(IMAGES, seed=seed + 1)
    move = 0.1 * normal(IMAGES, 2, seed=seed + 2)
    c, s = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    return lambda points: points @ matrix.transpose(1, 2) + move[:, None]


def objects(seed=0):
    """Ten points of an object that lies elsewhere in each image, (N, K, 2)."""
    around = torch.arange(COUNT) * 2 * math.pi / COUNT
    shape = 0.4 * torch.stack([around.cos(), around.sin()], -1).double()
    return shape + 0.15 * normal(IMAGES, 1, 2, seed=seed + 20)


def criterion(detector, noise=0.0):
    """The criterion of a detector that is a function of the true points."""
    g = warps(1)
    points = objects()
    found = detector(points) + noise * normal(IMAGES, COUNT, 2, seed=5)
    warped = detector(g(points)) + noise * normal(IMAGES, COUNT, 2, seed=6)
    errors = equivariance_errors(warped, g(found))
    return float(equivariance_criterion(found, errors)), float(errors.nanmean())


def healthy(points):
    return points


def frozen(points):
    return objects()[:1].expand_as(points).clone()


def one_spot(points):
    return points.mean(1, keepdim=True).expand_as(points).clone()


def small_constellation(points):
    centre = points.mean(1, keepdim=True)
    return centre + 0.1 * (objects()[:1] - objects()[:1].mean(1, keepdim=True))


def in_pairs(points):
    return points[:, [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]]


def test_it_is_what_the_slow_loop_says():
    g = warps(3)
    found = 0.7 * normal(IMAGES, COUNT, 2, seed=1)
    warped = g(found) + 0.05 * normal(IMAGES, COUNT, 2, seed=2)
    found[normal(IMAGES, COUNT, seed=3) > 1.5] = torch.nan
    warped[normal(IMAGES, COUNT, seed=4) > 1.5] = torch.nan
    expected = g(found)
    errors = equivariance_errors(warped, expected)
    slow = oracle.criterion(found.tolist(), warped.tolist(), expected.tolist())
    assert float(equivariance_criterion(found, errors)) == pytest.approx(slow, rel=1e-4)


def test_a_perfect_detector_gets_nothing_and_a_healthy_one_little():
    assert criterion(healthy)[0] < 1e-4
    value, error = criterion(healthy, noise=0.02)
    assert 0.03 < error < 0.05
    assert 0.1 < value < 0.25


@pytest.mark.parametrize("collapsed", [frozen, one_spot, small_constellation, in_pairs])
def test_a_collapsed_detector_cannot_win(collapsed):
    """Even where its own noise, and so its error, is a tenth of a healthy one's."""
    healthy_value, healthy_error = criterion(healthy, noise=0.02)
    value, error = criterion(collapsed, noise=0.002)
    assert value > 1.3 * healthy_value
    if collapsed is not frozen:
        assert error < 0.6 * healthy_error  # what the error alone would have chosen


def test_duplicates_are_lost_however_exact():
    value, error = criterion(one_spot)
    assert error < 1e-9
    assert value == 1
    assert criterion(in_pairs)[0] == 1


def test_each_lost_landmark_costs_its_share():
    def partly(points):
        points = points.clone()
        points[:, :3] = 0.3  # three at the same fixed place
        return points

    assert criterion(partly)[0] == pytest.approx(0.3, abs=1e-3)


def test_it_has_no_unit():
    g = warps(1)
    found = objects()
    warped = g(found) + 0.02 * normal(IMAGES, COUNT, 2, seed=6)
    errors = torch.linalg.vector_norm(warped - g(found), dim=-1)
    small, large = (equivariance_criterion(unit * found, unit * errors) for unit in (1, 50))
    torch.testing.assert_close(small, large, rtol=1e-4, atol=0)


def test_landmarks_carried_out_of_the_image_do_not_count():
    expected = torch.tensor([[[0.5, 0.5], [1.2, 0.0]]])
    errors = equivariance_errors(expected + 0.1, expected)
    assert errors[0, 0] == pytest.approx(0.1 * math.sqrt(2))
    assert errors[0, 1].isnan()


def test_a_landmark_that_is_never_found_is_lost_and_leaves_the_others_alone():
    g = warps(1)
    found = objects()
    found[:, 4] = torch.nan
    warped = g(found)
    value = equivariance_criterion(found, equivariance_errors(warped, g(found)))
    assert float(value) == pytest.approx(0.1, abs=1e-4)


def test_separation_names_the_nearest():
    landmarks = torch.tensor([[[0.0, 0], [0.1, 0], [0.5, 0]], [[0.0, 0], [0.3, 0], [0.4, 0]]])
    distance, nearest = separation(landmarks)
    assert distance.tolist() == pytest.approx([0.2, 0.2, 0.25])
    assert nearest.tolist() == [1, 0, 1]
    alone, itself = separation(landmarks[:, :1])
    assert alone.isinf().all()
    assert itself.tolist() == [0]


def test_lostness_between_its_ends():
    error = torch.tensor([0.0, 0.1, 0.1, 0.0, torch.nan, 0.1])
    resolved = torch.tensor([0.1, 0.1, 0.0, 0.0, 0.1, torch.nan])
    assert lostness(error, resolved).tolist() == pytest.approx([0, 0.5, 1, 1, 1, 1], abs=1e-4)


def test_spread_and_r_squared():
    landmarks = normal(30, 4, 2, seed=7)
    predicted = landmarks + 0.5 * normal(30, 4, 2, seed=8)
    landmarks[normal(30, 4, seed=9) > 1] = torch.nan
    assert spread(landmarks).tolist() == pytest.approx(oracle.spread(landmarks.tolist()))
    slow = oracle.r_squared(predicted.tolist(), landmarks.tolist())
    assert r_squared(predicted, landmarks).tolist() == pytest.approx(slow)
    still = torch.full((30, 1, 2), 0.3)
    assert float(spread(still)) == pytest.approx(0, abs=1e-7)
    assert float(r_squared(still, still)) == 0
    assert spread(torch.full((3, 1, 2), torch.nan)).isnan().all()


def test_the_shell_counts_every_image_once():
    g = warps(1)
    found = objects()
    expected = g(found)
    warped = expected + 0.02 * normal(IMAGES, COUNT, 2, seed=6)
    whole = equivariance_criterion(found, equivariance_errors(warped, expected))
    metric = EquivarianceCriterion()
    for rows in (range(50, 200), range(70), range(150, 200)):
        i = torch.tensor(list(rows))
        metric.update(found[i], warped[i], expected[i], i)
    torch.testing.assert_close(metric.compute().double(), whole, rtol=1e-5, atol=0)
