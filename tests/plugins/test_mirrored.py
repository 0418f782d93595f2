"""Mirrored pairs: half of them, drawn for the global batch, everything mirrored consistently."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.errors import ConfigError
from landmark_lab.geometry.points import inside
from landmark_lab.geometry.symmetry import reverses_orientation
from landmark_lab.plugin import build
from landmark_lab.roles import Pairing
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.pairings.mirrored import Mirrored

COUNT, SIZE = 24, 32


def sample(count: int = COUNT) -> Sample:
    """Smooth images, so that a resampled one can be compared."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").clamp(0, 1)
    points = torch.rand(count, 6, 2, generator=generator) - 0.5
    box = torch.tensor([-0.5, -0.4, 0.3, 0.6]).expand(count, -1)
    mask = image[:, :1].clone()
    return Sample(image, torch.arange(count), points=points, box=box, mask=mask)


def pairs(draw: BatchDraw | None = None, **settings: Any) -> Pair:
    pairing = build(Pairing, {"name": "mirrored", **settings})
    assert isinstance(pairing, Mirrored)
    members = sample(COUNT if draw is None else draw.count)
    return pairing.pair((members, members), draw or BatchDraw.single(1, COUNT))


def test_about_half_are_mirrored_and_the_warp_tells_which() -> None:
    pair = pairs(pairing={"name": "synthetic", "warps": "identity"})
    assert pair.warp is not None
    mirrored = reverses_orientation(pair.warp)
    assert 6 <= mirrored.sum() <= 18
    plain = sample()
    expected = torch.where(mirrored[:, None, None, None], plain.image.flip(-1), plain.image)
    torch.testing.assert_close(pair.source.image, expected, rtol=0, atol=0)
    torch.testing.assert_close(pair.target.image, plain.image, rtol=0, atol=0)
    assert not reverses_orientation(pairs(probability=0.0).warp).any()  # type: ignore[arg-type]
    assert reverses_orientation(pairs(probability=1.0).warp).all()  # type: ignore[arg-type]


def test_images_points_masks_and_boxes_follow_the_warp() -> None:
    pair = pairs()
    assert pair.warp is not None
    assert pair.source.points is not None
    assert pair.target.points is not None
    moved = pair.warp.to_target(pair.source.points)
    torch.testing.assert_close(moved, pair.target.points, rtol=0, atol=1e-4)
    shown = pair.warp.valid((SIZE, SIZE))[:, None]
    assert shown.float().mean() > 0.5
    for source, target in (
        (pair.source.image, pair.target.image),
        (pair.source.mask, pair.target.mask),
    ):
        assert source is not None
        assert target is not None
        difference = ((pair.warp.apply(source) - target) * shown).abs()
        assert difference.mean() < 0.02  # smoothed once more
    assert pair.source.box is not None
    assert not (pair.source.box[:, :2] >= pair.source.box[:, 2:]).any()  # some left the image


def test_query_cells_are_as_exact_as_without_the_mirror() -> None:
    plain = build(Pairing, "synthetic").pair((sample(), sample()), BatchDraw.single(1, COUNT)).warp
    mirrored = pairs().warp
    assert plain is not None
    assert mirrored is not None
    grid, expected = mirrored.source_grid((8, 8)), plain.source_grid((8, 8))
    sign = torch.where(reverses_orientation(mirrored), -1.0, 1.0)[:, None, None]
    expected = torch.stack([expected[..., 0] * sign, expected[..., 1]], -1)
    torch.testing.assert_close(grid, expected, rtol=0, atol=1e-6)
    known = inside(expected)
    torch.testing.assert_close(mirrored.valid((8, 8)), known)


def test_two_processes_mirror_what_one_would() -> None:
    whole = pairs(BatchDraw(3, "pair", 1, 2, COUNT, (0, 1, COUNT))).warp
    half = pairs(BatchDraw(3, "pair", 1, 2, COUNT, (12, 1, 12))).warp
    assert whole is not None
    assert half is not None
    expected = reverses_orientation(whole)
    assert reverses_orientation(half).tolist() == expected[12:].tolist()
    assert 0 < expected.sum() < COUNT


def test_what_the_other_pairing_is_counts() -> None:
    pairing = Mirrored(build(Pairing, "synthetic"))
    assert pairing.mirrors
    assert not Mirrored(build(Pairing, "synthetic"), probability=0.0).mirrors
    assert Mirrored(pairing, probability=0.0).mirrors
    assert pairing.warps is not None
    dropped = build(Pairing, {"name": "synthetic", "annotation": False})
    assert Mirrored(dropped).drops == dropped.drops
    frames = build(Pairing, "frames")
    assert Mirrored(frames).needs == frames.needs
    assert Mirrored(frames).warps is None
    with pytest.raises(ConfigError, match="'random' have no known warp"):
        build(Pairing, {"name": "mirrored", "pairing": "random"})
    with pytest.raises(ConfigError, match="0 to 1"):
        build(Pairing, {"name": "mirrored", "probability": 1.5})


def test_frames_of_a_video_are_mirrored_with_their_flow() -> None:
    members = replace(sample(), frame=torch.zeros(COUNT), identity=torch.arange(COUNT))
    flow = torch.zeros(COUNT, 2, SIZE, SIZE)
    flow[:, 0] = 4 * 2 / SIZE
    first = replace(members, flow=flow)
    later = replace(members, image=members.image.roll(4, -1))
    pair = Mirrored(build(Pairing, "frames")).pair((first, later), BatchDraw.single(0, COUNT))
    assert pair.warp is not None
    assert pair.source.flow is None
    seen = pair.warp.valid((SIZE, SIZE), at="source")
    grid = pair.warp.target_grid((SIZE, SIZE))
    found = torch.nn.functional.grid_sample(pair.target.image, grid, align_corners=False)
    difference = (found - pair.source.image).abs().amax(1)
    assert difference[seen].max() < 1e-4
    assert seen.float().mean() > 0.8
