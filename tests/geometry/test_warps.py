"""Every kind of warp keeps the promises of ``landmark_lab.geometry.warp``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from landmark_lab.geometry import (
    AffineWarp,
    ComposedWarp,
    FlowWarp,
    IdentityWarp,
    InverseWarp,
    ThinPlateBasis,
    TpsWarp,
    Warp,
)
from landmark_lab.geometry.affine import similarity
from landmark_lab.geometry.heatmap import gaussian
from landmark_lab.geometry.points import inside, pixel_grid, to_pixels
from tests.oracles.warps import peak, warp_image

Size = tuple[int, int]
COUNT = 3
SIZES = [(64, 64), (61, 61), (48, 63)]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def affine(size: Size = (64, 64), dtype: torch.dtype = torch.float32, seed: int = 0) -> AffineWarp:
    numbers = torch.randn(COUNT, 4, generator=rng(seed)).to(dtype)
    matrix = similarity(
        0.3 * numbers[:, 0], torch.exp(0.1 * numbers[:, 1]), 0.1 * numbers[:, 2:], size
    )
    shear = torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    return AffineWarp(matrix + shear)


def mirrored(size: Size = (64, 64), dtype: torch.dtype = torch.float32) -> AffineWarp:
    matrix = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=dtype)
    return AffineWarp(matrix.expand(COUNT, 2, 3))


def spline(size: Size = (64, 64), dtype: torch.dtype = torch.float32, seed: int = 1) -> TpsWarp:
    basis = ThinPlateBasis.regular(5, size)
    offsets = 0.03 * torch.randn(COUNT, 25, 2, generator=rng(seed)).to(dtype)
    coefficients = basis.interpolated(offsets) + basis.affine(affine(size, dtype, seed).matrix)
    return TpsWarp(basis, coefficients)


def swirl(size: Size = (64, 64), dtype: torch.dtype = torch.float32, turn: float = 0.4) -> FlowWarp:
    """Each point turns about the centre by an angle that falls with its radius.

    The radius stays, so the inverse is the same with the opposite angle.
    """
    grid = pixel_grid(*size, dtype=dtype)
    moved = torch.stack([_swirled(grid, turn * k) for k in (1.0, -0.7, 0.4)]) - grid
    return FlowWarp(moved.transpose(1, 2).reshape(COUNT, 2, *size))


def _swirled(points: Tensor, turn: float) -> Tensor:
    angle = turn * torch.exp(-2 * points.square().sum(-1))
    x, y = points.unbind(-1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y], -1)


def identity(size: Size = (64, 64), dtype: torch.dtype = torch.float32) -> IdentityWarp:
    return IdentityWarp(COUNT, dtype=dtype)


KINDS: dict[str, Callable[..., Warp]] = {
    "identity": identity,
    "affine": affine,
    "mirror": mirrored,
    "spline": spline,
    "flow": swirl,
    "inverse of a spline": lambda *a: spline(*a).inverse(),
    "inverse of a flow": lambda *a: swirl(*a).inverse(),
    "two splines": lambda *a: spline(*a).then(spline(*a, seed=5)),
    "affine, then spline": lambda *a: affine(*a).then(spline(*a)),
    "spline, then flow": lambda *a: spline(*a).then(swirl(*a)),
    "inverse of a composition": lambda *a: spline(*a).then(affine(*a)).inverse(),
}
kinds = pytest.mark.parametrize("kind", KINDS)
sizes = pytest.mark.parametrize("size", SIZES, ids=lambda s: f"{s[0]}x{s[1]}")


def smooth_images(size: Size, dtype: torch.dtype = torch.float32) -> Tensor:
    """Three channels of slow waves, so that interpolation errors are small."""
    x, y = pixel_grid(*size, dtype=dtype).reshape(*size, 2).unbind(-1)
    waves = torch.stack([torch.sin(2 * x + y), torch.cos(x - 2 * y), x * y])
    return torch.stack([waves * (1 + 0.2 * k) for k in range(COUNT)])


def some_points(count: int = 40, reach: float = 0.9, dtype: torch.dtype = torch.float32) -> Tensor:
    return ((torch.rand(COUNT, count, 2, generator=rng(9)) * 2 - 1) * reach).to(dtype)


# --- images and points ---------------------------------------------------------------------------


@sizes
def test_identities_return_the_image(size: Size) -> None:
    images = torch.rand(COUNT, 3, *size, generator=rng())
    basis = ThinPlateBasis.regular(10, size)
    unit = torch.eye(2, 3).expand(COUNT, 2, 3)
    for warp in (
        IdentityWarp(COUNT),
        AffineWarp(unit),
        TpsWarp(basis, basis.affine(unit)),
        TpsWarp(basis, basis.affine(unit)).inverse(),
        FlowWarp(torch.zeros(COUNT, 2, *size)),
        mirrored().then(mirrored()),
        ComposedWarp(TpsWarp(basis, basis.affine(unit)), AffineWarp(unit)),
    ):
        torch.testing.assert_close(warp.apply(images), images, atol=1e-5, rtol=0)
        assert warp.valid(size, at="target").all()
        assert warp.valid(size, at="source").all()


@kinds
@sizes
def test_a_blob_peaks_at_the_warped_point(kind: str, size: Size) -> None:
    warp = KINDS[kind](size)
    for place in ((0.0, 0.0), (0.35, -0.4), (-0.45, 0.3)):
        points = torch.tensor(place).expand(COUNT, 1, 2)
        images = gaussian(points, size, deviation=0.1)
        expected = to_pixels(warp.to_target(points), *size)[:, 0]
        for image, target in zip(warp.apply(images)[:, 0], expected, strict=True):
            found = peak(image.double().numpy())
            assert math.dist(found, target.tolist()) < 0.1


@kinds
def test_points_come_back(kind: str) -> None:
    warp = KINDS[kind]()
    points = some_points()
    torch.testing.assert_close(warp.to_target(warp.to_source(points)), points, atol=1e-4, rtol=0)
    torch.testing.assert_close(warp.to_source(warp.to_target(points)), points, atol=1e-4, rtol=0)


@kinds
@sizes
def test_the_grids_agree_with_the_points(kind: str, size: Size) -> None:
    warp = KINDS[kind](size)
    pixels = pixel_grid(*size).expand(COUNT, -1, -1)
    for direction, grid, points, valid in (
        ("to_source", warp.source_grid(size), warp.to_source(pixels), warp.valid(size, "target")),
        ("to_target", warp.target_grid(size), warp.to_target(pixels), warp.valid(size, "source")),
    ):
        assert grid.shape == (COUNT, *size, 2)
        assert grid.isfinite().all()
        # Only where there is a counterpart: elsewhere a grid may hold any guess.
        assert valid.float().mean() > 0.5
        difference = (grid - points.reshape(grid.shape))[valid].abs().max()
        tabulated = isinstance(warp, ComposedWarp) or direction not in warp.exact
        assert difference < (2e-3 if tabulated else 1e-5)


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("make", [affine, spline], ids=["affine", "spline"])
def test_images_are_looked_up_where_the_points_come_from(
    make: Callable[..., Warp], padding: Any
) -> None:
    size = (11, 14)
    warp = make(size, torch.float64)
    images = torch.rand(COUNT, 2, *size, generator=rng(), dtype=torch.float64)
    found = warp.apply(images, padding=padding)
    for k in range(COUNT):

        def to_source(point: np.ndarray, k: int = k) -> np.ndarray:
            return warp[k : k + 1].to_source(torch.from_numpy(point)[None, None])[0, 0].numpy()

        expected = warp_image(images[k].numpy(), to_source, padding)
        np.testing.assert_allclose(found[k].numpy(), expected, atol=1e-12)


@kinds
def test_validity_is_whether_the_counterpart_is_inside(kind: str) -> None:
    size = (33, 40)
    warp = KINDS[kind](size)
    pixels = pixel_grid(*size).expand(COUNT, -1, -1)
    for at, counterpart in (
        ("target", warp.to_source(pixels)),
        ("source", warp.to_target(pixels)),
    ):
        valid = warp.valid(size, at=at)  # type: ignore[arg-type]
        assert valid.shape == (COUNT, *size)
        assert valid.dtype == torch.bool
        expected = inside(counterpart).reshape(valid.shape)
        # A composition also wants the image in the middle to hold the point.
        chain = warp.warp if isinstance(warp, InverseWarp) else warp
        if isinstance(chain, ComposedWarp):
            forward = (at == "source") == (chain is warp)
            middle = chain.first.to_target(pixels) if forward else chain.second.to_source(pixels)
            expected &= inside(middle).reshape(valid.shape)
        # The solver of whole images may err by a pixel's fraction at the very edge.
        assert (valid != expected).float().mean() < 0.005


def test_validity_knows_only_two_sides() -> None:
    with pytest.raises(ValueError, match="source, target"):
        affine().valid((8, 8), at="middle")  # type: ignore[arg-type]


# --- inverse and composition ---------------------------------------------------------------------


@kinds
def test_an_inverse_exchanges_source_and_target(kind: str) -> None:
    size = (40, 40)
    warp = KINDS[kind](size)
    inverse = warp.inverse()
    points = some_points()
    torch.testing.assert_close(inverse.to_source(points), warp.to_target(points), atol=1e-5, rtol=0)
    torch.testing.assert_close(inverse.to_target(points), warp.to_source(points), atol=1e-5, rtol=0)
    opposite = {"to_source": "to_target", "to_target": "to_source"}
    assert inverse.exact == {opposite[direction] for direction in warp.exact}
    same = inverse.valid(size, at="source") == warp.valid(size, at="target")
    assert same.float().mean() > 0.995
    back = inverse.inverse()
    torch.testing.assert_close(back.to_source(points), warp.to_source(points), atol=1e-5, rtol=0)


@kinds
def test_a_warp_and_its_inverse_return_the_image(kind: str) -> None:
    size = (64, 64)
    warp = KINDS[kind](size)
    images = smooth_images(size)
    back = warp.inverse().apply(warp.apply(images, padding="border"), padding="border")
    there = warp.valid(size, at="source")[:, None].expand_as(images)
    assert there.float().mean() > 0.5
    # Twice interpolated; the border's half pixel is not the image's own.
    assert (back - images)[there].abs().max() < 0.06
    assert (back - images)[there].abs().mean() < 2e-3


@kinds
@pytest.mark.parametrize("other", ["affine", "spline", "flow"])
def test_a_composition_equals_doing_both(kind: str, other: str) -> None:
    size = (64, 64)
    first, second = KINDS[kind](size), KINDS[other](size)
    both = first.then(second)
    points = some_points(reach=0.6)
    torch.testing.assert_close(
        both.to_target(points), second.to_target(first.to_target(points)), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        both.to_source(points), first.to_source(second.to_source(points)), atol=1e-5, rtol=0
    )
    images = smooth_images(size)
    one_by_one = second.apply(first.apply(images, padding="border"), padding="border")
    at_once = both.apply(images, padding="border")
    # Two affine warps become one, which does not know the image in the middle.
    valid = both.valid(size, at="target") & second.valid(size, at="target")
    valid = valid[:, None].expand_as(images)
    assert (at_once - one_by_one)[valid].abs().max() < 0.06
    assert (at_once - one_by_one)[valid].abs().mean() < 2e-3
    # The composed grid itself is much closer to the truth than two interpolated images.
    pixels = pixel_grid(*size).expand(COUNT, -1, -1)
    exact = both.to_source(pixels).reshape(COUNT, *size, 2)
    grid_error = (both.source_grid(size) - exact)[both.valid(size, at="target")]
    assert grid_error.abs().max() < 2e-3


def test_affine_warps_and_identities_stay_simple() -> None:
    first, second = affine(seed=1), affine(seed=2)
    both = first.then(second)
    assert isinstance(both, AffineWarp)
    assert both.exact == {"to_source", "to_target"}
    identity = IdentityWarp(COUNT)
    assert first.then(identity) is first
    assert identity.then(first) is first
    assert identity.inverse() is identity
    warp = spline()
    assert warp.inverse().inverse() is warp


def test_batches_of_different_length_do_not_compose() -> None:
    for first in (affine(), spline(), IdentityWarp(COUNT)):
        with pytest.raises(ValueError, match="batch of 3 warps"):
            first.then(affine()[:2])


# --- batches, types, devices ---------------------------------------------------------------------


@kinds
def test_rows_of_a_batch(kind: str) -> None:
    warp = KINDS[kind]()
    points = some_points()
    assert len(warp) == COUNT
    assert len(warp[1:]) == 2
    torch.testing.assert_close(warp[1:].to_source(points[1:]), warp.to_source(points)[1:])
    moved = warp.to("cpu")
    torch.testing.assert_close(moved.to_target(points), warp.to_target(points))
    assert moved.device == torch.device("cpu")


@kinds
def test_autocast_does_not_touch_coordinates(kind: str) -> None:
    size = (16, 16)
    warp, points = KINDS[kind](size), some_points()
    expected = warp.to_source(points), warp.to_target(points), warp.source_grid(size)
    with torch.autocast("cpu", torch.bfloat16):
        found = warp.to_source(points), warp.to_target(points), warp.source_grid(size)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.dtype == torch.float32


@kinds
def test_points_of_half_precision_are_moved_in_the_precision_of_the_warp(kind: str) -> None:
    warp, points = KINDS[kind](), some_points(4).bfloat16()
    if kind != "identity":
        for move in (warp.to_source, warp.to_target):
            torch.testing.assert_close(move(points), move(points.float()))
            assert move(points.double()).dtype == torch.float64


@kinds
def test_images_keep_their_type(kind: str) -> None:
    warp = KINDS[kind]((16, 16))
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        assert warp.apply(torch.ones(COUNT, 1, 16, 16, dtype=dtype)).dtype == dtype


def test_masks_and_label_maps_are_moved_by_nearest_neighbours() -> None:
    labels = torch.randint(0, 5, (COUNT, 1, 16, 16), generator=rng())
    flipped = mirrored().apply(labels, mode="nearest")
    assert torch.equal(flipped, labels.flip(3))
    mask = labels > 2
    assert torch.equal(mirrored().apply(mask, mode="nearest"), mask.flip(3))
    with pytest.raises(ValueError, match="nearest"):
        mirrored().apply(labels)


def test_images_must_fit_the_warps() -> None:
    for shape in ((2, 3, 8, 8), (COUNT, 8, 8)):
        with pytest.raises(ValueError, match="3 warps need images"):
            affine().apply(torch.zeros(shape))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 2, 3\)"):
        AffineWarp(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="coefficients"):
        TpsWarp(ThinPlateBasis.regular(3, (8, 8)), torch.zeros(1, 9, 2))
    with pytest.raises(ValueError, match="at least 2"):
        ThinPlateBasis(1)
    with pytest.raises(ValueError, match="a flow is"):
        FlowWarp(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="does not fit"):
        FlowWarp(torch.zeros(1, 2, 8, 8), visible=torch.ones(1, 8, 9, dtype=torch.bool))


@kinds
def test_unknown_points_stay_unknown(kind: str) -> None:
    points = some_points(3)
    points[0, 1] = float("nan")
    for move in (KINDS[kind]().to_source, KINDS[kind]().to_target):
        moved = move(points)
        assert moved[0, 1].isnan().all()
        assert moved[1].isfinite().all()


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that would make the CPU wait for a GPU's result."""

    forbidden = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.forbidden, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@kinds
def test_nothing_waits_for_the_device(kind: str) -> None:
    size = (16, 16)
    warp, points = KINDS[kind](size), some_points()
    warp.apply(torch.zeros(COUNT, 1, *size))  # fills the tables
    warp.target_grid(size)
    warp.to_target(warp.to_source(points))
    with NoWaiting():
        warp.apply(torch.zeros(COUNT, 1, *size))
        warp.valid(size, at="source")
        warp.to_target(warp.to_source(points))


# --- gradients -----------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("direction", ["to_source", "to_target"])
def test_gradients_of_points(kind: str, direction: str) -> None:
    warp = KINDS[kind]((12, 12), torch.float64)
    points = some_points(4, reach=0.7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: getattr(warp, direction)(p), (points,))


@pytest.mark.parametrize("direction", ["to_source", "to_target", "source_grid", "target_grid"])
@pytest.mark.parametrize("kind", ["affine", "spline", "flow"])
def test_gradients_of_parameters(kind: str, direction: str) -> None:
    size = (6, 7)
    warp = KINDS[kind](size, torch.float64)
    make: dict[str, tuple[Tensor, Callable[[Tensor], Warp]]] = {
        "affine": (affine(size, torch.float64).matrix, AffineWarp),
        "spline": (
            spline(size, torch.float64).coefficients,
            lambda c: TpsWarp(ThinPlateBasis.regular(5, size), c),
        ),
        "flow": (swirl(size, torch.float64).flow, FlowWarp),
    }
    parameters, build = make[kind]
    # The tabulated inverse of a spline takes its time.
    rows = slice(0, 1)
    argument: Any = size if "grid" in direction else some_points(3, 0.7, torch.float64)[rows]

    def move(values: Tensor) -> Tensor:
        result: Tensor = getattr(build(values), direction)(argument)
        return result

    # Only pixels with a counterpart are differentiable in a direction that is solved for.
    if "grid" in direction:
        at = {"source_grid": "target", "target_grid": "source"}[direction]
        keep = warp[rows].valid(size, at=at)  # type: ignore[arg-type]
        whole = move
        move = lambda values: whole(values)[keep]  # noqa: E731
    start = parameters[rows].detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(move, (start,), fast_mode=kind == "spline")


def test_gradients_of_images() -> None:
    warp = spline((5, 6), torch.float64)
    images = torch.rand(COUNT, 1, 5, 6, generator=rng(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(warp.apply, (images,))


def test_tables_made_in_inference_mode_serve_in_training() -> None:
    ThinPlateBasis.regular.cache_clear()
    with torch.inference_mode():
        spline((10, 12)).apply(torch.zeros(COUNT, 1, 10, 12))
        spline((10, 12)).to_target(some_points())
    warp = spline((10, 12))
    coefficients = warp.coefficients.clone().requires_grad_()
    again = TpsWarp(warp.basis, coefficients)
    (again.source_grid((10, 12)).sum() + again.to_target(some_points()).sum()).backward()
    assert coefficients.grad is not None


# --- an independent library ----------------------------------------------------------------------


@sizes
def test_affine_warps_agree_with_scipy(size: Size) -> None:
    height, width = size
    warp = affine(size, torch.float64)
    images = torch.rand(COUNT, 1, *size, generator=rng(), dtype=torch.float64)
    found = warp.apply(images)
    # SciPy works in (row, column) pixels and wants the map from target to source.
    to_points = np.array(
        [[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]]
    )
    swap = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    for k in range(COUNT):
        forward = np.vstack([warp.matrix[k].numpy(), [0, 0, 1]])
        pixels = np.linalg.inv(to_points) @ np.linalg.inv(forward) @ to_points
        expected = scipy.ndimage.affine_transform(
            images[k, 0].numpy(), swap @ pixels @ swap, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(found[k, 0].numpy(), expected, atol=1e-10)


@sizes
def test_flows_agree_with_scipy_and_the_inverse_formula(size: Size) -> None:
    warp = swirl(size, torch.float64)
    images = smooth_images(size, torch.float64)[:, :1]
    found = warp.apply(images)
    grid = pixel_grid(*size, dtype=torch.float64)
    for k, turn in enumerate((0.4, -0.28, 0.16)):
        pixels = to_pixels(_swirled(grid, -turn), *size).numpy().T[::-1]
        expected = scipy.ndimage.map_coordinates(
            images[k, 0].numpy(), pixels, order=1, mode="grid-constant"
        )
        # What is left is the flow's own sampling: a few hundredths of a pixel.
        valid = warp.valid(size, at="target")[k].flatten().numpy()
        assert valid.mean() > 0.95
        assert np.abs(found[k].flatten().numpy() - expected)[valid].max() < 4e-3
