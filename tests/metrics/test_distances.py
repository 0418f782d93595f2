"""Distances of points and landmarks."""

import torch

from landmark_lab.metrics.distances import distances, mean_distances, nearest_points
from tests.oracles import metrics as oracle


def test_they_are_what_the_slow_loop_says():
    generator = torch.Generator().manual_seed(0)
    landmarks = torch.randn(9, 5, 2, generator=generator, dtype=torch.float64)
    landmarks[torch.rand(9, 5, generator=generator) < 0.3] = torch.nan
    landmarks[:, 4] = torch.nan
    slow = torch.from_numpy(oracle.mean_distances(landmarks.tolist()))
    torch.testing.assert_close(mean_distances(landmarks), slow, equal_nan=True)


def test_between_landmarks_and_points_of_the_same_images():
    generator = torch.Generator().manual_seed(1)
    both = torch.randn(7, 6, 2, generator=generator, dtype=torch.float64)
    both[torch.rand(7, 6, generator=generator) < 0.2] = torch.nan
    apart = mean_distances(both[:, :4], both[:, 4:])
    torch.testing.assert_close(apart, mean_distances(both)[:4, 4:], equal_nan=True)
    each = distances(both[:, :4], both[:, 4:]).nanmean(0)
    torch.testing.assert_close(apart, each, equal_nan=True)


def test_the_nearest_point_of_each_keypoint():
    generator = torch.Generator().manual_seed(2)
    found, truth = torch.rand(2, 8, 5, 2, generator=generator, dtype=torch.float64)
    found[torch.rand(8, 5, generator=generator) < 0.3] = torch.nan
    truth[torch.rand(8, 5, generator=generator) < 0.3] = torch.nan
    truth[2] = torch.nan
    which, apart = nearest_points(found, truth)
    slow = torch.tensor(oracle.nearest(found.tolist(), truth.tolist()), dtype=torch.float64)
    assert which.tolist() == slow[..., 0].long().tolist()
    torch.testing.assert_close(apart, slow[..., 1])
    assert (which[2] == -1).all()
