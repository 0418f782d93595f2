"""Score maps, probability maps, and the points that they stand for."""

import math

import pytest
import torch

from landmark_lab.geometry.heatmap import gaussian, peak, soft_argmax, spatial_softmax
from landmark_lab.geometry.points import pixel_grid


def _scores(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_probabilities_sum_to_one_and_follow_the_scores() -> None:
    scores = _scores(2, 3, 4, 5)
    probability = spatial_softmax(scores)
    assert probability.shape == scores.shape
    torch.testing.assert_close(probability.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))
    expected = scores[1, 2].exp() / scores[1, 2].exp().sum()
    torch.testing.assert_close(probability[1, 2], expected)


def test_large_scores_do_not_overflow() -> None:
    probability = spatial_softmax(torch.tensor([[[[1e4, 0.0], [0.0, -1e4]]]]))
    assert probability[0, 0, 0, 0] == 1


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 7), (1, 3)])
def test_soft_argmax_is_the_expectation_of_the_pixel_centres(height: int, width: int) -> None:
    probability = spatial_softmax(_scores(2, 3, height, width))
    grid = pixel_grid(height, width, dtype=torch.float64)
    expected = torch.einsum("bkn,nd->bkd", probability.flatten(2), grid)
    torch.testing.assert_close(soft_argmax(probability), expected)


def test_soft_argmax_of_one_cell_is_its_centre() -> None:
    probability = torch.zeros(1, 1, 4, 8)
    probability[0, 0, 3, 1] = 1
    torch.testing.assert_close(soft_argmax(probability)[0, 0], torch.tensor([-0.625, 0.75]))


def test_soft_argmax_keeps_its_precision_under_autocast_and_for_half_maps() -> None:
    probability = spatial_softmax(_scores(2, 3, 16, 16)).float()
    expected = soft_argmax(probability)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(soft_argmax(probability), expected)
    assert soft_argmax(probability.bfloat16()).dtype == torch.float32


def test_gradients_of_softmax_and_soft_argmax() -> None:
    scores = _scores(1, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_argmax(spatial_softmax(s)), (scores,))


def test_peak_is_the_largest_probability() -> None:
    probability = spatial_softmax(_scores(2, 3, 4, 5))
    assert peak(probability)[1, 2] == probability[1, 2].max()
    assert peak(probability).shape == (2, 3)


def test_gaussian_maps_are_what_the_formula_says() -> None:
    points = torch.tensor([[[0.3, -0.2], [-1.1, 0.9]]], dtype=torch.float64)
    maps = gaussian(points, (5, 8), deviation=0.25)
    assert maps.shape == (1, 2, 5, 8)
    x, y = pixel_grid(5, 8, dtype=torch.float64)[3 * 8 + 2].tolist()
    square = (x - 0.3) ** 2 + (y + 0.2) ** 2
    assert maps[0, 0, 3, 2].item() == pytest.approx(math.exp(-square / (2 * 0.25**2)))


def test_gaussian_maps_find_their_points_again_and_have_gradients() -> None:
    points = torch.tensor([[[0.3, -0.2], [-0.4, 0.1]]], dtype=torch.float64, requires_grad=True)
    maps = gaussian(points, (32, 32), 0.1)
    found = soft_argmax(maps / maps.sum((2, 3), keepdim=True))
    torch.testing.assert_close(found, points, atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(lambda p: gaussian(p, (4, 5), 0.4), (points,))


def test_an_unknown_point_has_an_empty_map_and_a_harmless_gradient() -> None:
    points = torch.tensor([[[0.3, float("nan")], [0.0, 0.0]]], requires_grad=True)
    maps = gaussian(points, (4, 4), 0.2)
    assert maps[0, 0].abs().sum() == 0
    maps.sum().backward()
    assert points.grad is not None
    assert points.grad.isfinite().all()
