"""Alignment against the quadratic oracle, closed forms, gradients, half precision."""

import pytest
import torch
from torch import Tensor

from landmark_lab.geometry import AffineWarp, ComposedWarp, FlowWarp, IdentityWarp, TpsWarp
from landmark_lab.geometry.heatmap import soft_argmax, spatial_softmax
from landmark_lab.geometry.points import from_pixels, pixel_grid, to_pixels
from landmark_lab.losses.alignment import (
    cells_in_one_image,
    map_alignment,
    point_alignment,
    points_in_one_image,
)
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.tps_pair import TpsPair
from tests.oracles import losses as oracle


def maps(*shape: int, seed: int = 0) -> Tensor:
    """Random probability maps."""
    generator = torch.Generator().manual_seed(seed)
    return spatial_softmax(2 * torch.randn(*shape, generator=generator, dtype=torch.float64))


def spline(count: int) -> TpsWarp:
    """Random splines."""
    warp = TpsPair().draw(BatchDraw.single(3, count), (16, 16))[1]
    assert isinstance(warp, TpsWarp)
    return warp


def affine(count: int = 2) -> AffineWarp:
    """Rotations, scalings and translations."""
    matrix = torch.tensor([[[0.9, -0.3, 0.1], [0.2, 1.1, -0.2]]], dtype=torch.float64)
    return AffineWarp(matrix.repeat(count, 1, 1))


def delta(point: tuple[int, int], height: int, width: int) -> Tensor:
    """A map (1, 1, H, W) concentrated in the cell (row, column)."""
    one = torch.zeros(1, 1, height, width, dtype=torch.float64)
    one[0, 0, point[0], point[1]] = 1
    return one


@pytest.mark.parametrize(
    ("first_size", "second_size"), [((4, 4), (4, 4)), ((5, 3), (4, 6)), ((1, 7), (3, 2))]
)
def test_map_alignment_equals_the_quadratic_double_sum(
    first_size: tuple[int, int], second_size: tuple[int, int]
) -> None:
    first, second = maps(2, 3, *first_size), maps(2, 3, *second_size, seed=1)
    here, there = cells_in_one_image(affine(), first_size, second_size)
    value = map_alignment(first, second, here, there)
    expected = oracle.map_alignment(
        first.flatten(2).numpy(),
        second.flatten(2).numpy(),
        here.expand(2, -1, -1).numpy(),
        there.numpy(),
    )
    assert value.item() == pytest.approx(expected, rel=1e-10)


def test_point_alignment_equals_its_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 3, 5, 2, generator=generator, dtype=torch.float64)
    value = point_alignment(first, second).item()
    assert value == pytest.approx(oracle.point_alignment(first.numpy(), second.numpy()))


def test_expected_distance_is_distance_of_the_means_plus_both_variances() -> None:
    first, second = maps(2, 3, 6, 5), maps(2, 3, 6, 5, seed=1)
    grid = pixel_grid(6, 5, dtype=torch.float64)[None]

    def variance(p: Tensor) -> Tensor:
        offset = grid[:, None] - soft_argmax(p)[:, :, None]
        return (p.flatten(2) * offset.square().sum(-1)).sum(-1).mean()

    expected = point_alignment(soft_argmax(first), soft_argmax(second))
    expected = expected + variance(first) + variance(second)
    assert map_alignment(first, second, grid, grid).item() == pytest.approx(expected.item())


def test_perfect_landmarks_cost_nothing_and_blurred_ones_do() -> None:
    # The target is the source shifted by two cells to the right: to_target(x) = x + 2 cells.
    warp = AffineWarp(torch.tensor([[[1, 0, 2 * 2 / 8], [0, 1, 0]]], dtype=torch.float64))
    here, there = cells_in_one_image(warp, (8, 8), (8, 8))
    source, target = delta((4, 3), 8, 8), delta((4, 5), 8, 8)
    assert map_alignment(source, target, here, there).item() == pytest.approx(0, abs=1e-12)
    wrong_way = delta((4, 1), 8, 8)
    pixels = [to_pixels(cells, 8, 8) for cells in (here, there)]
    assert map_alignment(source, wrong_way, *pixels).item() == pytest.approx(16)
    blurred = (delta((4, 4), 8, 8) + delta((4, 6), 8, 8)) / 2
    assert map_alignment(source, blurred, *pixels).item() == pytest.approx(1)
    points = points_in_one_image(warp, soft_argmax(source), soft_argmax(blurred))
    assert point_alignment(*points).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alignment", ["maps", "points"])
def test_landmarks_that_move_with_the_warp_cost_nothing(alignment: str) -> None:
    """For each kind of warp, in its exact direction, through the soft-argmax of sharp maps."""
    size = (64, 64)
    flow = 0.2 * torch.sin(2 * pixel_grid(*size)).T.reshape(1, 2, *size)
    warps = {
        "identity": IdentityWarp(1),
        "affine": AffineWarp(torch.tensor([[[0.8, 0.2, 0.1], [-0.2, 0.8, 0.0]]])),
        "spline": spline(1),
        "inverse of a spline": spline(1).inverse(),
        "flow": FlowWarp(flow),
    }
    source_points = torch.tensor([[[0.1, -0.2], [-0.3, 0.3], [0.4, 0.1]]])
    for name, warp in warps.items():
        target_points = warp.to_target(source_points)

        def peaks(points: Tensor) -> Tensor:
            squares = (points[:, :, None] - pixel_grid(*size)).square().sum(-1)
            return spatial_softmax(-2000 * squares.unflatten(-1, size))

        source, target = peaks(source_points), peaks(target_points)
        if alignment == "maps":
            cells = cells_in_one_image(warp, size, size)
            value = map_alignment(source, target, *(to_pixels(c, *size) for c in cells))
            assert value.item() < 1.5, name  # the peaks' own variances, two of 0.5 to 0.8
        else:
            points = points_in_one_image(warp, soft_argmax(source), soft_argmax(target))
            assert point_alignment(*points).item() < 1e-4, name


def test_splines_are_compared_in_the_source_and_flows_in_the_target() -> None:
    points = torch.zeros(2, 3, 2)
    warp = spline(2)
    kept, _ = points_in_one_image(warp, points, points)
    assert kept is points
    _, kept = points_in_one_image(FlowWarp(torch.zeros(2, 2, 8, 8)), points, points)
    assert kept is points
    both = ComposedWarp(warp, FlowWarp(torch.zeros(2, 2, 8, 8)))
    with pytest.raises(ValueError, match="exact in no direction"):
        points_in_one_image(both, points, points)
    assert all(cells.isfinite().all() for cells in cells_in_one_image(both, (8, 8), (8, 8)))


def test_gradients() -> None:
    scores = torch.randn(2, 2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    warp = affine()

    def of_maps(values: Tensor) -> Tensor:
        cells = cells_in_one_image(warp, (3, 4), (3, 4))
        return map_alignment(*spatial_softmax(values.flatten(0, 1)).chunk(2), *cells)

    def of_points(values: Tensor) -> Tensor:
        source, target = soft_argmax(spatial_softmax(values.flatten(0, 1))).chunk(2)
        return point_alignment(*points_in_one_image(warp, source, target))

    assert torch.autograd.gradcheck(of_maps, (scores,))
    assert torch.autograd.gradcheck(of_points, (scores,))


def test_every_landmark_gets_a_gradient() -> None:
    scores = torch.randn(4, 10, 8, 8, requires_grad=True)
    source, target = spatial_softmax(scores).chunk(2)
    map_alignment(source, target, *cells_in_one_image(affine(), (8, 8), (8, 8))).backward()
    assert scores.grad is not None
    assert (scores.grad.abs().amax((0, 2, 3)) > 0).all()


def test_invariant_to_the_order_of_images_and_landmarks_and_to_the_common_frame() -> None:
    first, second = maps(3, 4, 5, 5), maps(3, 4, 5, 5, seed=1)
    here, there = cells_in_one_image(affine(3), (5, 5), (5, 5))
    value = map_alignment(first, second, here, there)
    images, landmarks = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2])
    moved = [p[images][:, landmarks] for p in (first, second)]
    torch.testing.assert_close(map_alignment(*moved, here, there[images]), value)
    torch.testing.assert_close(map_alignment(second, first, there, here), value)
    offset = torch.tensor([0.3, -2.0], dtype=torch.float64)
    torch.testing.assert_close(map_alignment(first, second, here + offset, there + offset), value)


def test_half_precision_maps_and_autocast_keep_float32_sums() -> None:
    first, second = maps(2, 3, 32, 32).float(), maps(2, 3, 32, 32, seed=1).float()
    grid = to_pixels(pixel_grid(32, 32), 32, 32)[None]
    expected = map_alignment(first, second, grid, grid)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = map_alignment(first, second, grid, grid)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    # Rounded maps are wrong by what rounding took from them, not by cancelling sums.
    half = [p.bfloat16() for p in (first, second)]
    torch.testing.assert_close(
        map_alignment(half[0], half[1], grid, grid),
        map_alignment(half[0].float(), half[1].float(), grid, grid),
    )


def test_sub_pixel_differences_survive_in_float32() -> None:
    size = (128, 128)
    point = from_pixels(torch.tensor([[[100.0, 90.0]]]), *size)
    squares = (to_pixels(point, *size)[:, :, None] - to_pixels(pixel_grid(*size), *size)).square()
    sharp = spatial_softmax(-20 * squares.sum(-1).unflatten(-1, size))
    grid = to_pixels(pixel_grid(*size), *size)[None]
    assert map_alignment(sharp, sharp, grid, grid).item() == pytest.approx(0, abs=0.02)
    assert map_alignment(sharp, sharp, grid, grid + 0.5).item() == pytest.approx(0.5, abs=0.02)
