"""The tiled matching loss against the plain one: values, gradients, precision, memory's shape."""

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry.points import pixel_grid, to_pixels
from landmark_lab.losses import matching
from landmark_lab.losses.exchange import exchange
from landmark_lab.losses.matching import expected_distance, negative_log_likelihood
from tests.oracles import matching as oracle

IMAGE = (12, 16)
SIZE = (6, 8)


def problem(
    images: int = 3, count: int = 20, channels: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, targets and weights; some queries do not count."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    queries = normal(images, count, channels).requires_grad_()
    keys = normal(images, channels, *SIZE).requires_grad_()
    targets = torch.rand(images, count, 2, generator=generator) * 2 - 1
    counted = torch.rand(images, count, generator=generator) < 0.7
    return queries, keys, targets.to(dtype), counted / counted.sum().to(dtype)


def plain_distance(
    queries: Tensor, keys: Tensor, targets: Tensor, weight: Tensor, power: float
) -> Tensor:
    positions = to_pixels(pixel_grid(*keys.shape[2:], dtype=targets.dtype), *IMAGE)
    targets = to_pixels(targets, *IMAGE)
    vectors = keys.flatten(2).mT
    return oracle.expected_distance(queries, vectors, targets, positions, weight, power)


def plain_likelihood(queries: Tensor, keys: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    cells = to_pixels(targets, *SIZE)
    shares = torch.stack(
        [
            torch.stack([oracle.bilinear_shares((x, y), *SIZE).flatten() for x, y in image])
            for image in cells.tolist()
        ]
    )
    return oracle.negative_log_likelihood(queries, keys.flatten(2).mT, shares, weight)


def gradients(loss: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a sum in which each image has a weight of its own."""
    scale = torch.arange(1.0, len(loss) + 1, dtype=loss.dtype)
    return torch.autograd.grad((loss * scale).sum(), inputs)


@pytest.mark.parametrize("tile", [1, 7 * 48, 2**21])
@pytest.mark.parametrize("power", [0.5, 1, 1.3, 2])
def test_the_expected_distance_and_its_gradients_are_the_plain_ones(
    power: float, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matching._TILE, "cpu", tile)
    queries, keys, targets, weight = problem()
    found = expected_distance(queries, keys, targets, weight, IMAGE, power)
    expected = plain_distance(queries, keys, targets, weight, power)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradients(found, queries, keys), gradients(expected, queries, keys), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("tile", [1, 7 * 48, 2**21])
def test_the_likelihood_and_its_gradients_are_the_plain_ones(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(matching._TILE, "cpu", tile)
    queries, keys, targets, weight = problem()
    found = negative_log_likelihood(queries, keys, targets, weight)
    expected = plain_likelihood(queries, keys, targets, weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        gradients(found, queries, keys), gradients(expected, queries, keys), rtol=1e-10, atol=1e-14
    )


def test_a_training_size_agrees_to_a_millionth_in_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (2, 16, 32, 32)
    first, second = (torch.randn(shape, generator=generator).requires_grad_() for _ in range(2))
    targets = torch.rand(2, 32 * 32, 2, generator=generator) * 2 - 1
    weight = torch.full((2, 32 * 32), 1 / (2 * 32 * 32))
    queries = first.flatten(2).mT
    found = expected_distance(queries, second, targets, weight, (64, 64), 0.5)
    positions = to_pixels(pixel_grid(32, 32), 64, 64)
    expected = oracle.expected_distance(
        queries, second.flatten(2).mT, to_pixels(targets, 64, 64), positions, weight, 0.5
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradients(found, first, second), gradients(expected, first, second), rtol=1e-4, atol=2e-8
    )


@pytest.mark.parametrize("power", [0.5, 1.3])
def test_gradcheck(power: float) -> None:
    queries, keys, targets, weight = problem(2, 5, 3)
    assert torch.autograd.gradcheck(
        lambda q, k: expected_distance(q, k, targets, weight, IMAGE, power), (queries, keys)
    )
    assert torch.autograd.gradcheck(
        lambda q, k: negative_log_likelihood(q, k, targets, weight), (queries, keys)
    )


def test_gradcheck_through_the_exchange() -> None:
    queries, keys, targets, weight = problem(2, 5, 3)
    auxiliary = torch.randn(2, 2, 3, 2, 3, dtype=torch.float64, requires_grad=True)

    def exchanged(q: Tensor, k: Tensor, a: Tensor) -> Tensor:
        return expected_distance(exchange(q, a), k, targets, weight, IMAGE, 0.5)

    assert torch.autograd.gradcheck(exchanged, (queries, keys, auxiliary))


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    queries, keys, targets, weight = problem()
    whole = expected_distance(queries, keys, targets, weight, IMAGE, 1)
    both = gradients(whole, queries, keys)
    frozen = expected_distance(queries.detach(), keys, targets, weight, IMAGE, 1)
    torch.testing.assert_close(gradients(frozen, keys), both[1:])
    frozen = expected_distance(queries, keys.detach(), targets, weight, IMAGE, 1)
    torch.testing.assert_close(gradients(frozen, queries), both[:1])
    with torch.no_grad():
        torch.testing.assert_close(
            expected_distance(queries, keys, targets, weight, IMAGE, 1), whole.detach()
        )


def test_a_second_derivative_is_refused() -> None:
    queries, keys, targets, weight = problem()
    loss = expected_distance(queries, keys, targets, weight, IMAGE, 1).square().sum()
    (first,) = torch.autograd.grad(loss, queries, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_queries_without_weight_do_not_count() -> None:
    queries, keys, targets, weight = problem()
    loss = expected_distance(queries, keys, targets, weight, IMAGE, 1)
    elsewhere = torch.where(weight[..., None] > 0, targets, 0.9)
    torch.testing.assert_close(expected_distance(queries, keys, elsewhere, weight, IMAGE, 1), loss)
    nothing = expected_distance(queries, keys, targets, torch.zeros_like(weight), IMAGE, 1)
    assert nothing.tolist() == [0, 0, 0]
    assert all((gradient == 0).all() for gradient in gradients(nothing, queries, keys))


def test_the_order_of_queries_and_images_does_not_matter() -> None:
    queries, keys, targets, weight = problem()
    loss = expected_distance(queries, keys, targets, weight, IMAGE, 0.5)
    order = torch.randperm(queries.shape[1], generator=torch.Generator().manual_seed(2))
    shuffled = (queries[:, order], keys, targets[:, order], weight[:, order])
    torch.testing.assert_close(expected_distance(*shuffled, IMAGE, 0.5), loss)
    images = [tensor.flip(0) for tensor in (queries, keys, targets, weight)]
    torch.testing.assert_close(expected_distance(*images, IMAGE, 0.5), loss.flip(0))


def test_a_certain_match_costs_its_distance_and_a_flat_one_the_mean_distance() -> None:
    keys = torch.zeros(1, 2, 1, 4)
    keys[0, 0, 0, 2] = 50.0  # the third of four cells, each 2 pixels wide
    target = to_pixels(torch.tensor([0.0, 0.0]), 2, 8)
    at = 2 * 2 + 0.5  # that cell's centre in pixels
    certain = torch.tensor([[[1.0, 0.0]]])
    one = torch.ones(1, 1)
    points = torch.zeros(1, 1, 2)
    found = expected_distance(certain, keys, points, one, (2, 8), 1)
    assert found.item() == pytest.approx(abs(at - target[0].item()))
    flat = expected_distance(torch.zeros(1, 1, 2), keys, points, one, (2, 8), 1)
    assert flat.item() == pytest.approx((3 + 1 + 1 + 3) / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_cost_no_more_than_their_own_rounding(dtype: torch.dtype) -> None:
    queries, keys, targets, weight = problem(dtype=torch.float32)
    rounded = [tensor.detach().to(dtype).requires_grad_() for tensor in (queries, keys)]
    found = expected_distance(*rounded, targets, weight, IMAGE, 0.5)
    assert found.dtype == torch.float32
    exact = [tensor.detach().float().requires_grad_() for tensor in rounded]
    expected = expected_distance(*exact, targets, weight, IMAGE, 0.5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    by_half = gradients(found, *rounded)
    assert {gradient.dtype for gradient in by_half} == {dtype}
    for half, whole in zip(by_half, gradients(expected, *exact), strict=True):
        torch.testing.assert_close(half.float(), whole, rtol=0.01, atol=1e-4)


def test_vectors_of_two_data_types_are_compared_in_the_more_precise_one() -> None:
    queries, keys, targets, weight = problem(dtype=torch.float32)
    half = queries.detach().half()
    found = expected_distance(half, keys, targets, weight, IMAGE)
    expected = expected_distance(half.float(), keys, targets, weight, IMAGE)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_autocast_changes_nothing() -> None:
    queries, keys, targets, weight = problem(dtype=torch.float32)
    for loss in (
        lambda: expected_distance(queries, keys, targets, weight, IMAGE, 0.5),
        lambda: negative_log_likelihood(queries, keys, targets, weight),
    ):
        expected = gradients(loss(), queries, keys)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = gradients(loss(), queries, keys)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_compiled_loss_is_the_same() -> None:
    queries, keys, targets, weight = problem()
    expected = gradients(expected_distance(queries, keys, targets, weight, IMAGE), queries, keys)
    compiled = torch.compile(
        lambda q, k: expected_distance(q * 1.0, k * 1.0, targets, weight, IMAGE), backend="eager"
    )
    torch.testing.assert_close(gradients(compiled(queries, keys), queries, keys), expected)


def test_no_step_waits_for_the_device() -> None:
    """A meta tensor has no values, so anything that would read one on the host fails."""
    queries, keys, targets, weight = (
        tensor.detach().to("meta").requires_grad_(tensor.requires_grad) for tensor in problem()
    )
    expected_distance(queries, keys, targets, weight, IMAGE, 0.5).sum().backward()
    negative_log_likelihood(queries, keys, targets, weight).sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 0.01), (torch.bfloat16, 0.03)]
)
def test_a_gpu_finds_the_same(dtype: torch.dtype, tolerance: float) -> None:
    queries, keys, targets, weight = problem(dtype=torch.float32)
    expected = expected_distance(queries, keys, targets, weight, IMAGE, 0.5)
    there = [tensor.detach().to("cuda", dtype).requires_grad_() for tensor in (queries, keys)]
    found = expected_distance(*there, targets.cuda(), weight.cuda(), IMAGE, 0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=0)
    scale = torch.arange(1.0, 4)
    by_both = torch.autograd.grad((found * scale.cuda()).sum(), there)
    for gradient, exact in zip(by_both, gradients(expected, queries, keys), strict=True):
        torch.testing.assert_close(gradient.cpu().float(), exact, rtol=tolerance, atol=tolerance)


def test_a_power_that_is_no_distance_is_refused() -> None:
    queries, keys, targets, weight = problem()
    with pytest.raises(ValueError, match="above 0"):
        expected_distance(queries, keys, targets, weight, IMAGE, 0.0)
