"""One-to-one assignment of landmarks to annotated points."""

import numpy as np
import pytest
import torch

from landmark_lab.metrics.assignment import assign_landmarks, assigned_landmarks
from tests.oracles import metrics as oracle


def draw(seed, landmarks, points=5, images=12, lost=0.2):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(images, points, 2, generator=generator, dtype=torch.float64)
    found = torch.randn(images, landmarks, 2, generator=generator, dtype=torch.float64)
    found[torch.rand(images, landmarks, generator=generator) < lost] = torch.nan
    truth[torch.rand(images, points, generator=generator) < lost] = torch.nan
    return found, truth


@pytest.mark.parametrize("landmarks", [3, 5, 7])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_assignments(seed, landmarks):
    found, truth = draw(seed, landmarks)
    slow = oracle.assignment(found.tolist(), truth.tolist())
    assert assign_landmarks(found, truth).tolist() == slow


def test_shuffled_points_are_found_again():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(20, 6, 2, generator=generator)
    order = torch.randperm(9, generator=generator)
    others = torch.rand(20, 3, 2, generator=generator) + 3
    found = torch.cat([truth + 0.01, others], 1)[:, order]
    assignment = assign_landmarks(found, truth)
    assert order[assignment].tolist() == list(range(6))
    torch.testing.assert_close(assigned_landmarks(found, assignment), truth + 0.01)


def test_a_landmark_that_is_seldom_found_is_no_better_than_a_constant():
    truth = torch.zeros(20, 1, 2)
    truth[:, 0, 0] = torch.linspace(-1, 1, 20)
    exact_but_rare, near = torch.full((20, 2), torch.nan), truth[:, 0] + 0.1
    exact_but_rare[0] = truth[0, 0]
    found = torch.stack([exact_but_rare, near], 1)
    assert assign_landmarks(found, truth).tolist() == [1]


def test_what_was_never_found_or_is_never_known_has_no_partner():
    found, truth = draw(4, 4, lost=0.0)
    found[:, 1], truth[:, 3] = torch.nan, torch.nan
    assignment = assign_landmarks(found, truth)
    assert 1 not in assignment.tolist()
    assert assignment[3] == -1
    assert (assignment >= 0).sum() == 3
    at = assigned_landmarks(found, assignment)
    assert at.shape == truth.shape
    assert at[:, assignment < 0].isnan().all()
    nothing = assign_landmarks(torch.full((3, 2, 2), torch.nan), truth[:3])
    assert (nothing == -1).all()
    none = assigned_landmarks(torch.empty(3, 0, 2), torch.full((5,), -1))
    assert none.shape == (3, 5, 2)
    assert np.isnan(none.numpy()).all()
