"""Smooth L1 and the likelihood of points: loops, gradients, what does not count, half precision."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.losses.likelihood import point_likelihood
from landmark_lab.losses.smooth_l1 import smooth_l1
from tests.oracles import probes as oracle

COUNTED = torch.tensor([[True, False, True], [True, True, False]])


def made(*shape: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def annotated() -> Tensor:
    """Points inside the image, NaN where they do not count."""
    return made(2, 3, 2, scale=0.4).clamp(-1, 1).masked_fill(~COUNTED[..., None], torch.nan)


def of_points(predicted: Tensor, points: Tensor, counted: Tensor) -> Tensor:
    return smooth_l1(predicted, points, counted, 0.3)


CASES = pytest.mark.parametrize(
    ("loss", "values"),
    [(of_points, made(2, 3, 2)), (point_likelihood, made(2, 3, 4, 5))],
    ids=["smooth_l1", "likelihood"],
)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@pytest.mark.parametrize("transition", [0.1, 0.5, 1.0, 10.0])
def test_smooth_l1_equals_the_loops(transition: float) -> None:
    predicted, points = made(2, 3, 2), annotated()
    expected = oracle.smooth_l1(predicted.numpy(), points.numpy(), COUNTED.numpy(), transition)
    value = smooth_l1(predicted, points, COUNTED, transition)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    library = F.smooth_l1_loss(predicted[COUNTED], points[COUNTED], beta=transition)
    torch.testing.assert_close(value, library)


@pytest.mark.parametrize("scale", [0.4, 0.8])
def test_the_likelihood_equals_the_loops(scale: float) -> None:
    scores, points = made(2, 3, 4, 5), made(2, 3, 2, scale=scale)
    expected = oracle.point_likelihood(scores.numpy(), points.numpy(), COUNTED.numpy())
    value = point_likelihood(scores, points, COUNTED)
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_the_likelihood_of_a_flat_map_is_that_of_a_guess() -> None:
    value = point_likelihood(torch.zeros(2, 3, 4, 5), annotated(), COUNTED)
    assert value.item() == pytest.approx(torch.tensor(20.0).log().item(), rel=1e-6)


@CASES
def test_gradients(loss: Loss, values: Tensor) -> None:
    values = values.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, annotated(), COUNTED), (values,))


@CASES
def test_what_does_not_count_has_no_gradient(loss: Loss, values: Tensor) -> None:
    values = values.clone().requires_grad_()
    loss(values, annotated(), COUNTED).backward()
    assert values.grad is not None
    moved = values.grad.flatten(2).abs().amax(-1) > 0
    assert torch.equal(moved, COUNTED)


@CASES
def test_nothing_that_counts_is_zero_and_not_nan(loss: Loss, values: Tensor) -> None:
    values = values.clone().requires_grad_()
    value = loss(values, torch.full((2, 3, 2), torch.nan), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value.item() == 0
    assert values.grad is not None
    assert values.grad.abs().max() == 0


@CASES
def test_half_precision_keeps_float32_sums(loss: Loss, values: Tensor) -> None:
    value = loss(values.bfloat16(), annotated().float(), COUNTED)
    assert value.dtype == torch.float32
    torch.testing.assert_close(
        value.double(), loss(values, annotated(), COUNTED), rtol=0.02, atol=0
    )
