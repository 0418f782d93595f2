"""Gaussian targets and the masked squared error, against loops over cells."""

import numpy as np
import pytest
import torch
from torch import Tensor

from landmark_lab.geometry.heatmap import gaussian
from landmark_lab.geometry.peaks import channel_peaks, peaks
from landmark_lab.geometry.points import to_pixels
from landmark_lab.losses.heatmap import (
    Gaussian,
    channel_target,
    gaussian_target,
    heatmap_regression,
)
from tests.oracles import keypoints as oracle

MARKS = [Gaussian(), Gaussian(0.75, 3), Gaussian(2.5), Gaussian(1.0, 1)]


def random_points(*shape: int, reach: float = 1.2) -> Tensor:
    """Points of which some lie outside and some are unknown."""
    generator = torch.Generator().manual_seed(2)
    points = (torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    points[0, 0] = torch.nan
    points[-1, -1, 1] = torch.nan
    return points


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("size", [(9, 9), (6, 13)])
def test_targets_are_the_largest_gaussian_of_a_loop_over_cells(
    mark: Gaussian, size: tuple[int, int]
) -> None:
    points = random_points(3, 6)
    side = 2 * mark.reach + 1
    together, each = gaussian_target(points, size, mark), channel_target(points, size, mark)
    assert together.shape == (3, 1, *size)
    assert each.shape == (3, 6, *size)
    torch.testing.assert_close(together, each.amax(1, keepdim=True))
    for b in range(3):
        expected = oracle.gaussian_map(points[b].numpy(), size, mark.sigma, side)
        torch.testing.assert_close(together[b, 0], torch.from_numpy(expected))
        for k in range(6):
            expected = oracle.gaussian_map(points[b, k : k + 1].numpy(), size, mark.sigma, side)
            torch.testing.assert_close(each[b, k], torch.from_numpy(expected))


def test_up_to_the_cut_off_it_is_the_gaussian_of_the_geometry() -> None:
    points = random_points(2, 4, reach=0.9)
    drawn = channel_target(points, (32, 32), Gaussian(1.5))
    whole = gaussian(points, (32, 32), deviation=1.5 * 2 / 32)
    assert (drawn - whole).abs().max() < np.exp(-(3**2) / 2)
    torch.testing.assert_close(drawn[drawn > 0], whole[drawn > 0])


def test_the_mark_of_the_second_stage_is_three_by_three() -> None:
    drawn = gaussian_target(torch.tensor([[[1 / 9, -1 / 3]]]), (9, 9), Gaussian(0.75, 3))[0, 0]
    centre = to_pixels(torch.tensor([1 / 9, -1 / 3]), 9, 9)
    assert (drawn > 0).sum() == 9
    assert drawn.amax() < 1  # the point lies half a cell beside the cell's centre
    middle = gaussian_target(torch.zeros(1, 1, 2), (9, 9), Gaussian(0.75, 3))[0, 0, 3:6, 3:6]
    expected = torch.tensor([[0.169, 0.411, 0.169], [0.411, 1, 0.411], [0.169, 0.411, 0.169]])
    torch.testing.assert_close(middle, expected, atol=5e-4, rtol=0)
    assert centre.isfinite().all()


def test_peaks_of_a_target_are_its_points_to_a_quarter_of_a_cell() -> None:
    generator = torch.Generator().manual_seed(4)
    cells = torch.rand(2, 9, 2, generator=generator) * 0.9
    cells += 5 * torch.stack(torch.meshgrid(*[torch.arange(3)] * 2, indexing="xy"), -1).view(9, 2)
    points = (cells + 2) * 2 / 20 - 1
    found, score = peaks(gaussian_target(points, (20, 20)), 2, 0.3, most=12)
    assert ((score > 0).sum(-1) == 9).all()
    apart = (found[:, 0, :9, None] - points[:, None]).abs().amax(-1).amin(-1)
    assert apart.max() <= 0.26 * 2 / 20
    own = channel_peaks(channel_target(points, (20, 20)))[0]
    assert (own - points).abs().max() <= 0.26 * 2 / 20


def test_no_points_make_an_empty_map() -> None:
    assert gaussian_target(torch.zeros(2, 0, 2), (4, 5)).shape == (2, 1, 4, 5)
    assert gaussian_target(torch.full((2, 3, 2), torch.nan), (4, 5)).sum() == 0


def test_the_order_of_the_points_does_not_matter() -> None:
    points = random_points(2, 7)
    drawn = gaussian_target(points, (8, 8))
    torch.testing.assert_close(gaussian_target(points.flip(1), (8, 8)), drawn, rtol=0, atol=0)


def test_half_precision_points_make_float32_targets() -> None:
    assert gaussian_target(random_points(2, 3).half(), (8, 8)).dtype == torch.float32


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"sigma": float("inf")}, {"side": 2}])
def test_bad_marks_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        Gaussian(**wrong)  # type: ignore[arg-type]


def maps(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 5, 6, generator=generator, dtype=torch.float64)


MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)


@pytest.mark.parametrize("mask", [MASK, torch.zeros(3, 4, dtype=torch.bool), None])
def test_the_loss_is_the_mean_over_cells_and_maps_that_count(mask: Tensor | None) -> None:
    predicted, target = maps(0), maps(1)
    counted = np.ones((3, 4), dtype=bool) if mask is None else mask.numpy()
    expected = oracle.masked_squares(predicted.numpy(), target.numpy(), counted)
    loss = heatmap_regression(predicted, target, mask)
    assert loss.item() == pytest.approx(expected)


def test_gradients_of_the_loss() -> None:
    predicted = maps(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: heatmap_regression(p, maps(1), MASK), (predicted,))


def test_maps_that_do_not_count_neither_spoil_the_loss_nor_learn() -> None:
    values = maps(0)
    values[1], values[0, 1] = torch.nan, torch.inf
    predicted = values.requires_grad_()
    loss = heatmap_regression(predicted, maps(1), MASK)
    loss.backward()
    assert loss.isfinite()
    assert predicted.grad is not None
    assert (predicted.grad[~MASK] == 0).all()
    assert (predicted.grad[MASK] != 0).all()


def test_without_a_single_pseudo_label_the_loss_is_zero() -> None:
    predicted = maps(0).requires_grad_()
    loss = heatmap_regression(predicted, maps(1), torch.zeros(3, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


def test_half_precision_maps_are_summed_in_float32() -> None:
    predicted, target = maps(0).half(), maps(1)
    loss = heatmap_regression(predicted, target.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, heatmap_regression(predicted.float(), target.float()))
