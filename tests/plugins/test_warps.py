"""The built-in warp generators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from landmark_lab.errors import ConfigError
from landmark_lab.geometry import AffineWarp, IdentityWarp, TpsWarp, Warp
from landmark_lab.geometry.points import isotropic_extent, pixel_grid
from landmark_lab.plugin import build
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.warps.affine import AffinePair
from landmark_lab_plugins.warps.identity import IdentityPair
from landmark_lab_plugins.warps.mirror import MirrorPair
from landmark_lab_plugins.warps.tps_pair import TpsPair
from tests.oracles.warps import smallest_area

SIZE = (32, 32)
WIDE: dict[str, Any] = {"rotation": (30.0, 30.0), "rotation_law": "uniform"}
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, twice as strong": {"bend": (0.001, 0.002), "bend_half": (0.01, 0.02)},
    "structural": {
        "control": 7,
        "spline": "offsets",
        "bend": (0.1, 0.1),
        "bend_half": (0.1, 0.1),
        "rotation": (10.0, 10.0),
        "scale_law": "lognormal",
        "scale": (0.223, 0.223),
        "translation_law": "uniform",
        "translation": (0.15, 0.15),
    },
    "image generation": {
        "bend": (0.001, 0.001),
        "bend_half": (0.01, 0.01),
        "rotation": (5.0, 0.0),
        "scale": (0.1, 0.0),
    },
}
GENERATORS = {
    "identity": IdentityPair(),
    "mirror": MirrorPair(view=0.5, warp=0.5),
    "affine": AffinePair(),
    "affine, wide": AffinePair(**WIDE, scale_law="loguniform", scale=(0.3, 0.3)),
    **{f"tps_pair, {name}": TpsPair(**settings) for name, settings in FAMILIES.items()},
}
every = pytest.mark.parametrize("generator", GENERATORS.values(), ids=list(GENERATORS))


def points(count: int, reach: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(count, 60, 2, generator=generator) * 2 - 1) * reach


@every
def test_draws_depend_on_the_seed_alone(generator: WarpGenerator) -> None:
    state = torch.random.get_rng_state()
    first, second = (generator.draw(BatchDraw.single(3, 6), SIZE) for _ in range(2))
    other = generator.draw(BatchDraw.single(4, 6), SIZE)
    assert torch.equal(state, torch.random.get_rng_state())
    p = points(6)
    for a, b, c in zip(first, second, other, strict=True):
        assert torch.equal(a.to_source(p), b.to_source(p))
        if not isinstance(generator, IdentityPair):
            assert not torch.equal(a.to_source(p), c.to_source(p))


@every
def test_processes_draw_their_rows_of_the_global_batch(generator: WarpGenerator) -> None:
    whole = generator.draw(BatchDraw(3, "warp", 1, 2, 6, (0, 1, 6)), SIZE)
    for first, step, rows in ((0, 1, slice(0, 3)), (1, 2, slice(1, None, 2))):
        part = generator.draw(BatchDraw(3, "warp", 1, 2, 6, (first, step, 3)), SIZE)
        for a, b in zip(part, whole, strict=True):
            assert len(a) == 3
            expected = b.to_source(points(6))[rows]
            torch.testing.assert_close(a.to_source(points(6)[rows]), expected, atol=1e-6, rtol=0)


@every
def test_points_come_back_from_the_strongest_warps(generator: WarpGenerator) -> None:
    for warp in generator.draw(BatchDraw.single(0, 128), SIZE):
        p = points(128)
        back = warp.to_target(warp.to_source(p))
        assert (back - p).abs().max() < 1e-3
        assert (back - p).abs().mean() < 1e-5


def areas(warp: Warp, side: int) -> np.ndarray:
    """The smallest determinant of each ``to_source`` on the image, (B,), in float64."""

    def to_source(p: np.ndarray) -> np.ndarray:
        where = torch.from_numpy(p)
        if isinstance(warp, TpsWarp):  # the same points for all rows: evaluated once
            features = warp.basis.features(where)
            return (features @ warp.coefficients.double()).numpy()
        rows = warp.to_source(where.expand(len(warp), -1, -1))
        return rows.double().numpy()

    return smallest_area(to_source, side)


@every
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_warps_are_one_to_one(generator: WarpGenerator, size: tuple[int, int]) -> None:
    for warp in generator.draw(BatchDraw.single(7, 48), size):
        lowest = areas(warp, side=65)
        assert (np.abs(lowest) if isinstance(generator, MirrorPair) else lowest).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_no_warp_folds_in_many_draws(family: str) -> None:
    generator = TpsPair(**FAMILIES[family])
    for seed in range(20):
        for warp in generator.draw(BatchDraw.single(seed, 64), SIZE):
            assert areas(warp, side=101).min() > 0


def test_the_default_family_is_the_published_one() -> None:
    generator = TpsPair()
    assert generator.spec["bend"] == [0.0005, 0.001]
    count = 400
    view, warp = generator.draw(BatchDraw.single(0, count), SIZE)
    assert isinstance(view, TpsWarp)
    assert isinstance(warp, TpsWarp)
    for part, strength in ((view, 0.5), (warp, 1.0)):
        weights = part.coefficients[:, :100]
        # A mixture of two normals; the weights of warps that would fold are smaller.
        expected = strength * math.sqrt((0.001**2 + 0.01**2) / 2)
        assert 0.85 * expected < weights.std().item() < 1.02 * expected
        shift, fx, fy = part.coefficients[:, 100:].unbind(1)
        angle, scale = torch.atan2(fx[:, 1], fx[:, 0]), fx.norm(dim=1)
        assert math.degrees(angle.std().item()) == pytest.approx(5, rel=0.15)
        assert scale.mean().item() == pytest.approx(1, abs=0.02)
        assert scale.std().item() == pytest.approx(0.1, rel=0.15)
        assert shift.std().item() == pytest.approx(0.1, rel=0.15)
        torch.testing.assert_close(fy, torch.stack([-fx[:, 1], fx[:, 0]], 1))
    moved = (warp.to_source(points(count)) - points(count)).norm(dim=-1)
    assert 0.15 < moved.square().mean().sqrt().item() < 0.35


def test_offsets_move_the_control_points() -> None:
    generator = TpsPair(
        control=5,
        spline="offsets",
        bend=(0.0, 0.02),
        bend_half=(0.0, 0.02),
        rotation=(0.0, 0.0),
        scale=(0.0, 0.0),
        translation=(0.0, 0.0),
    )
    view, warp = generator.draw(BatchDraw.single(0, 200), SIZE)
    assert isinstance(warp, TpsWarp)
    control = warp.basis.control.float().expand(200, -1, -1)
    torch.testing.assert_close(view.to_source(control), control, atol=1e-5, rtol=0)
    offsets = warp.to_source(control) - control
    assert offsets.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "low", "high"),
    [
        ({"scale_law": "normal", "scale": (0.4, 0.4)}, 0.1, 3.0),
        ({"scale_law": "lognormal", "scale": (0.2, 0.2)}, 0.3, 3.0),
        ({"scale_law": "loguniform", "scale": (0.3, 0.3)}, math.exp(-0.3), math.exp(0.3)),
    ],
)
def test_laws_of_the_scale(settings: dict[str, Any], low: float, high: float) -> None:
    view, _ = AffinePair(**settings).draw(BatchDraw.single(0, 2000), SIZE)
    assert isinstance(view, AffineWarp)
    sampling = view.inverse().matrix[..., :2]
    scale = torch.linalg.det(sampling).sqrt()
    assert low - 1e-4 <= scale.min()
    assert scale.max() <= high + 1e-4
    if settings["scale_law"] == "loguniform":
        assert scale.log().std().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.05)
    elif settings["scale_law"] == "lognormal":
        assert scale.log().std().item() == pytest.approx(0.2, rel=0.05)


def test_uniform_rotation_and_translation_have_sharp_limits() -> None:
    generator = AffinePair(
        rotation=(20.0, 0.0),
        rotation_law="uniform",
        translation=(0.25, 0.0),
        translation_law="uniform",
    )
    view, warp = generator.draw(BatchDraw.single(0, 1000), SIZE)
    assert isinstance(view, AffineWarp)
    assert isinstance(warp, AffineWarp)
    matrix = view.inverse().matrix
    angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0]).rad2deg().abs()
    assert 19 < angle.max() <= 20.001
    assert 0.24 < matrix[..., 2].abs().max() <= 0.2501
    still = warp.matrix
    torch.testing.assert_close(still[:, 0, 1], torch.zeros(1000))
    torch.testing.assert_close(still[..., 2], torch.zeros(1000, 2))


def test_wide_images_turn_without_shearing() -> None:
    size = (30, 60)
    view, _ = AffinePair(rotation=(40.0, 0.0), scale=(0.0, 0.0)).draw(BatchDraw.single(0, 8), size)
    extent = torch.tensor(isotropic_extent(size))
    p = points(8)
    moved = view.to_target(p)
    before, after = ((q[:, 1:] - q[:, :1]).norm(dim=-1) for q in (p * extent, moved * extent))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


def test_no_strength_is_no_warp() -> None:
    nothing = dict.fromkeys(("bend", "bend_half", "rotation", "scale", "translation"), (0.0, 0.0))
    images = torch.rand(4, 3, *SIZE)
    for warp in TpsPair(**nothing).draw(BatchDraw.single(0, 4), SIZE):  # type: ignore[arg-type]
        torch.testing.assert_close(warp.apply(images), images, atol=1e-5, rtol=0)


def test_mirror_flips_images_with_the_given_probability() -> None:
    images = torch.rand(64, 1, *SIZE)
    view, warp = MirrorPair().draw(BatchDraw.single(0, 64), SIZE)
    torch.testing.assert_close(view.apply(images), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(warp.apply(images), images.flip(3), atol=1e-5, rtol=0)
    view, _ = MirrorPair(view=0.5).draw(BatchDraw.single(0, 64), SIZE)
    flipped = (view.to_target(torch.ones(64, 1, 2))[:, 0, 0] < 0).sum().item()
    assert 16 < flipped < 48


def test_identity_is_free() -> None:
    view, warp = IdentityPair().draw(BatchDraw.single(0, 5), SIZE)
    assert isinstance(view, IdentityWarp)
    images = torch.rand(5, 3, *SIZE)
    assert warp.apply(images) is images
    assert len(view.then(warp)) == 5


def test_generators_are_built_from_configurations() -> None:
    for spec in (
        "identity",
        {"name": "mirror", "view": 0.5},
        {"name": "affine", "rotation": [10, 0]},
        {"name": "tps_pair", "spline": "offsets", "bend": [0.1, 0.1]},
    ):
        generator = build(WarpGenerator, spec)
        again = build(WarpGenerator, generator.spec)
        assert again.spec == generator.spec


@pytest.mark.parametrize(
    ("generator", "settings", "message"),
    [
        (TpsPair, {"control": 1}, "control: 1 control points"),
        (TpsPair, {"bend": (0.1, -0.1)}, "bend: "),
        (AffinePair, {"rotation": (math.inf, 0.0)}, "rotation: "),
        (AffinePair, {"scale": (math.nan, 0.0)}, "scale: "),
        (MirrorPair, {"warp": 1.5}, "warp: 1.5 is not a probability"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    generator: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generator(**settings)


@every
def test_grids_agree_with_pixels(generator: WarpGenerator) -> None:
    for warp in generator.draw(BatchDraw.single(0, 4), SIZE):
        expected = warp.to_source(pixel_grid(*SIZE).expand(4, -1, -1)).reshape(4, *SIZE, 2)
        torch.testing.assert_close(warp.source_grid(SIZE), expected, atol=2e-5, rtol=0)


def test_two_similarities_beside_each_other_are_the_same_two() -> None:
    settings: dict[str, Any] = {"rotation": (20.0, 20.0), "translation": (0.2, 0.2)}
    view, warp = AffinePair(**settings).draw(BatchDraw.single(0, 8), SIZE)
    same_view, beside = AffinePair(**settings, relative_to="image").draw(
        BatchDraw.single(0, 8), SIZE
    )
    points = torch.rand(8, 5, 2) - 0.5
    torch.testing.assert_close(view.to_target(points), same_view.to_target(points))
    # From the image, over the source, to the target: the second similarity alone.
    arrived = beside.to_target(same_view.to_target(points))
    torch.testing.assert_close(arrived, warp.to_target(points), atol=1e-5, rtol=1e-5)
