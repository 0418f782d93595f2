"""Label-free errors of embeddings: perfect, guessing, position only, constant; the criterion."""

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry import AffineWarp
from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.losses.pair_matching import MatchingLoss
from landmark_lab.losses.similarity import Similarity
from landmark_lab.metrics.embedding import (
    CONSTANT,
    EmbeddingCriterion,
    deviation,
    error_across,
    guessing_error,
    matching_error,
)

SIZE, IMAGE = (8, 8), (32, 32)
COSINE = Similarity("cosine", 0.01)


def shift(cells: int, count: int = 3) -> AffineWarp:
    """To the right by whole cells."""
    return AffineWarp(torch.tensor([[[1.0, 0, cells / 4], [0, 1, 0]]]).repeat(count, 1, 1))


def codes(seed: int, count: int = 3) -> Tensor:
    """Another vector for each cell, the same in each image, (B, 16, 8, 8)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, *SIZE, generator=generator).expand(count, -1, -1, -1)


def errors(source: Tensor, target: Tensor, others: Tensor, cells: int) -> list[float]:
    """Mean direct error, error across and error of guessing for a shift."""
    queries = MatchingLoss().queries(shift(cells), SIZE, IMAGE)
    assert queries.in_target
    truth = (queries.targets, queries.weight > 0)
    vectors = queries.vectors(target)
    found = (
        matching_error(vectors, source, *truth, COSINE, IMAGE),
        error_across(vectors, others, source, *truth, COSINE, IMAGE),
        guessing_error(*truth, SIZE, IMAGE),
    )
    return [value.mean().item() for value in found]


def test_vectors_that_move_with_the_object_have_no_error() -> None:
    source = codes(0)
    target = source.roll(2, -1)
    direct, across, guessing = errors(source, target, source.flip(-1), 2)
    assert direct == pytest.approx(0, abs=1e-4)
    assert across == pytest.approx(0, abs=1e-4)
    assert guessing > 10


def test_vectors_of_another_object_show_across_only() -> None:
    # Unrelated vectors are each other's best matches now and then, and come back by accident.
    source = codes(0)
    direct, across, guessing = errors(source, source.roll(2, -1), codes(1), 2)
    assert direct == pytest.approx(0, abs=1e-4)
    assert across > 0.4 * guessing


def test_vectors_that_know_only_the_position_are_off_by_the_warp() -> None:
    source = codes(0)
    direct, across, _ = errors(source, source, source, 2)
    assert direct == pytest.approx(8, abs=1e-4)  # 2 cells of 4 pixels
    assert across == pytest.approx(8, abs=1e-4)


def test_the_error_of_guessing_is_the_mean_distance_to_all_cells() -> None:
    targets = torch.tensor([[[0.3, -0.2], [0.9, 0.9]]])
    cells = to_pixels(pixel_grid(*SIZE), *IMAGE)
    expected = (to_pixels(targets[0, 0], *IMAGE) - cells).norm(dim=-1).mean()
    counted = torch.tensor([[True, False]])
    found = guessing_error(targets, counted, SIZE, IMAGE)
    torch.testing.assert_close(found, expected[None], rtol=1e-5, atol=0)
    assert guessing_error(targets, ~counted & counted, SIZE, IMAGE).isnan().all()


def test_constant_vectors_do_not_deviate_and_centred_ones_fully() -> None:
    constant = torch.ones(1, 4, 5, 5)
    assert deviation(constant).item() == pytest.approx(0, abs=1e-4)
    assert deviation(torch.zeros(1, 4, 5, 5)).item() == 0
    either = torch.cat([constant, -constant], -1)
    assert deviation(either).item() == pytest.approx(1)
    assert deviation(constant + 0.001 * torch.randn(1, 4, 5, 5)).item() < CONSTANT


def test_the_criterion_is_a_ratio_of_means_and_counts_each_image_once() -> None:
    metric = EmbeddingCriterion()
    direct, one = torch.zeros(2), torch.ones(2)
    metric.update(direct, torch.tensor([1.0, 3.0]), 8 * one, one, torch.tensor([0, 1]))
    metric.update(direct, torch.tensor([9.0, torch.nan]), 8 * one, one, torch.tensor([1, 2]))
    assert metric.compute().item() == pytest.approx(2 / 8)
    empty = EmbeddingCriterion()
    empty.update(direct, torch.nan * one, one, one, torch.tensor([0, 1]))
    assert empty.compute().item() == 1
