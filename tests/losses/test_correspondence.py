"""Matching by vectors: probabilities, the vector of a point, the best cell and between cells."""

import pytest
import torch

from landmark_lab.geometry.points import from_pixels, pixel_grid
from landmark_lab.losses import correspondence
from landmark_lab.losses.correspondence import best_matches, vectors_at
from landmark_lab.losses.similarity import Similarity
from tests.oracles import matching as oracle

INNER = Similarity()


def maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_vector_of_a_point_is_its_cells_or_between_cells() -> None:
    values = pixel_grid(4, 6).T.reshape(1, 2, 4, 6)  # each cell holds its own centre
    points = torch.tensor([[[0.21, -0.4], [-0.95, 0.6]]])
    between = vectors_at(values, points, interpolate=True)
    torch.testing.assert_close(between[0, 0], points[0, 0])
    nearest = from_pixels(torch.tensor([[3.0, 1.0], [0.0, 3.0]]), 4, 6)
    torch.testing.assert_close(vectors_at(values, points)[0], nearest)


@pytest.mark.parametrize("at_a_time", [1, 50, 2**24])
def test_a_vector_is_found_where_it_is(at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correspondence, "_AT_A_TIME", at_a_time)
    keys = torch.nn.functional.normalize(maps(2, 8, 5, 7), dim=1)
    queries = keys.flatten(2).mT
    points, score = best_matches(queries, keys, Similarity("cosine", 0.01))
    torch.testing.assert_close(points, pixel_grid(5, 7).expand(2, -1, -1))
    probability = oracle.probability(queries / 0.01, queries)  # the cosine's: of unit vectors
    torch.testing.assert_close(score, probability.amax(-1))


def test_refined_matches_lie_between_cells() -> None:
    # Scores that fall with the squared distance from (2.3, 1.6), in cells: a Gaussian p.
    column, row = torch.arange(6.0), torch.arange(4.0)[:, None]
    bump = -2 * ((column - 2.3) ** 2 + (row - 1.6) ** 2)
    found, _ = best_matches(torch.ones(1, 1, 1), bump[None, None], INNER, refine=True)
    torch.testing.assert_close(
        found[0, 0], from_pixels(torch.tensor([2.3, 1.6]), 4, 6), rtol=0, atol=0.03
    )
    coarse, _ = best_matches(torch.ones(1, 1, 1), bump[None, None], INNER)
    torch.testing.assert_close(coarse[0, 0], from_pixels(torch.tensor([2.0, 2.0]), 4, 6))


@pytest.mark.parametrize("corner", [(0, 0), (0, 5), (3, 0), (3, 5)])
def test_a_sharp_match_in_a_corner_stays_there(corner: tuple[int, int]) -> None:
    keys = torch.zeros(1, 1, 4, 6)
    keys[0, 0, corner[0], corner[1]] = 100.0
    found, score = best_matches(torch.ones(1, 1, 1), keys, INNER, refine=True)
    expected = from_pixels(torch.tensor([float(corner[1]), float(corner[0])]), 4, 6)
    torch.testing.assert_close(found[0, 0], expected)
    assert score.item() == pytest.approx(1)


def test_no_points_are_no_matches() -> None:
    points, score = best_matches(torch.zeros(2, 0, 3), maps(2, 3, 4, 4), INNER)
    assert points.shape == (2, 0, 2)
    assert score.shape == (2, 0)
