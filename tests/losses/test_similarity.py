"""The similarity: its two kinds, and that its vectors' inner products are it."""

import pytest
import torch
import torch.nn.functional as F

from landmark_lab.geometry.symmetry import rotations
from landmark_lab.losses.similarity import Similarity

KINDS = [
    Similarity(),
    Similarity("inner", 2.0),
    Similarity("cosine", 0.0025),
    Similarity("cosine", 1.0),
]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    return first, second


def test_the_kinds_are_what_they_say() -> None:
    first, second = pair()
    inner = torch.einsum("bnc,bmc->bnm", first, second)
    torch.testing.assert_close(Similarity()(first, second), inner)
    torch.testing.assert_close(Similarity("inner", 4.0)(first, second), inner / 4)
    cosine = F.cosine_similarity(first[:, :, None], second[:, None], dim=-1)
    torch.testing.assert_close(Similarity("cosine", 0.0025)(first, second), 400 * cosine)


@pytest.mark.parametrize("similarity", KINDS, ids=str)
def test_inner_products_of_its_vectors_are_the_similarity(similarity: Similarity) -> None:
    first, second = pair()
    vectors = similarity.vectors(first), similarity.vectors(second.mT, dim=1)
    torch.testing.assert_close(vectors[0] @ vectors[1], similarity(first, second))


@pytest.mark.parametrize("similarity", KINDS, ids=str)
def test_an_orthogonal_map_can_come_before_or_after(similarity: Similarity) -> None:
    first, _ = pair()
    turn = rotations(5, 4)[1]
    torch.testing.assert_close(similarity.vectors(first @ turn), similarity.vectors(first) @ turn)


def test_it_is_precise_whatever_the_precision_of_the_vectors() -> None:
    first, second = (vectors.bfloat16() for vectors in pair())
    expected = Similarity()(first.float(), second.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Similarity()(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    assert Similarity("cosine", 0.1).vectors(first).dtype == torch.bfloat16


def test_a_zero_vector_is_similar_to_nothing() -> None:
    zero = torch.zeros(1, 1, 3)
    assert Similarity("cosine", 0.1)(zero, torch.ones(1, 1, 3)).item() == 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Similarity("cosine", temperature)
