"""Mean distances of landmarks."""

import torch

from landmark_lab.metrics.distances import mean_distances
from tests.oracles import metrics as oracle


def test_they_are_what_the_slow_loop_says():
    generator = torch.Generator().manual_seed(0)
    landmarks = torch.randn(9, 5, 2, generator=generator, dtype=torch.float64)
    landmarks[torch.rand(9, 5, generator=generator) < 0.3] = torch.nan
    landmarks[:, 4] = torch.nan
    slow = torch.from_numpy(oracle.mean_distances(landmarks.tolist()))
    torch.testing.assert_close(mean_distances(landmarks), slow, equal_nan=True)
