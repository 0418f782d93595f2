"""Diversity against the loops of the printed equations, bounds, gradients, half precision."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry.heatmap import spatial_softmax
from landmark_lab.losses.diversity import max_diversity, overlap_diversity, sum_pool
from tests.oracles import losses as oracle

LOSSES = {"overlap": overlap_diversity, "max": max_diversity}
EITHER = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
Loss = Callable[[Tensor], Tensor]


def maps(*shape: int) -> Tensor:
    """Random probability maps."""
    generator = torch.Generator().manual_seed(0)
    return spatial_softmax(2 * torch.randn(*shape, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 3, 5), (3, 5, 1, 2)])
@pytest.mark.parametrize("side", [1, 2, 3, 10])
def test_equals_the_printed_sums(name: str, shape: tuple[int, ...], side: int) -> None:
    p = maps(*shape)
    pooled = sum_pool(p, side)
    torch.testing.assert_close(pooled, torch.from_numpy(oracle.sum_pool(p.numpy(), side)))
    expected = getattr(oracle, f"{name}_diversity")(pooled.numpy())
    assert LOSSES[name](pooled).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_pooling_keeps_all_probability_where_it_does_not_divide_the_map() -> None:
    pooled = sum_pool(maps(2, 3, 32, 31), 5)
    assert pooled.shape == (2, 3, 7, 7)
    torch.testing.assert_close(pooled.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


@EITHER
def test_zero_for_disjoint_maps_only(loss: Loss) -> None:
    disjoint = torch.zeros(1, 4, 4, 4)
    for r in range(4):
        disjoint[0, r, r, :2] = 0.5
    assert loss(disjoint).item() == 0
    shared = disjoint.clone()
    shared[0, 1] = shared[0, 0]
    assert loss(shared).item() > 0


def test_identical_maps_cost_the_most() -> None:
    same = torch.zeros(1, 4, 4, 4)
    same[:, :, 1, 2] = 1
    assert max_diversity(same).item() == 3
    assert overlap_diversity(same).item() == 0.75


def test_more_landmarks_than_cells_cannot_become_diverse() -> None:
    apart = torch.eye(4).reshape(1, 4, 2, 2)[:, [0, 1, 2, 3, 0, 1]]
    assert max_diversity(apart).item() == 2  # 6 landmarks, 4 cells


@EITHER
def test_gradients(loss: Loss) -> None:
    scores = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: loss(sum_pool(spatial_softmax(s), 2)), (scores,))


@EITHER
def test_every_landmark_gets_a_gradient(loss: Loss) -> None:
    scores = torch.randn(2, 10, 16, 16, requires_grad=True)
    loss(sum_pool(spatial_softmax(scores), 2)).backward()
    assert scores.grad is not None
    assert (scores.grad.abs().amax((0, 2, 3)) > 0).all()


@EITHER
def test_invariant_to_the_order_of_images_landmarks_and_blocks(loss: Loss) -> None:
    p = maps(3, 4, 6, 6)
    value = loss(sum_pool(p, 2))
    moved = p[[2, 0, 1]][:, [3, 1, 0, 2]].roll((2, 4), (2, 3))
    torch.testing.assert_close(loss(sum_pool(moved, 2)), value)


@EITHER
def test_half_precision_maps_and_autocast_keep_float32_sums(loss: Loss) -> None:
    p = maps(2, 10, 32, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(sum_pool(p, 5))
        half = loss(sum_pool(p.bfloat16(), 5))
    assert value.dtype == half.dtype == torch.float32
    torch.testing.assert_close(value, loss(sum_pool(p, 5)), rtol=1e-6, atol=0)
    torch.testing.assert_close(half, value, rtol=1e-3, atol=0)
