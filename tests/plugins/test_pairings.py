"""Pairings: what is loaded together, and where a pair's warp says that things are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.batch import Pair, Sample
from landmark_lab.data.sampling import Images, LoaderSettings, Row
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.geometry.warp import IdentityWarp
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Pairing
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.data.toy_faces import ToyFaces
from landmark_lab_plugins.pairings.random import Random
from landmark_lab_plugins.pairings.same import Same
from landmark_lab_plugins.pairings.synthetic import Synthetic

SIZE = 64


class Named(Images):
    """Images without content, of the given individuals."""

    def __init__(self, *identity: int) -> None:
        self.count = len(identity)
        self.identity: NDArray[np.int64] | None = np.array(identity, np.int64)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        raise AssertionError("nothing is loaded to choose a partner")


def blobs(points: Tensor, width: float = 0.06) -> Tensor:
    """One blob a channel, (B, 3, SIZE, SIZE), at points (B, 3, 2)."""
    grid = pixel_grid(SIZE, SIZE)
    square = (grid - points[:, :, None]).square().sum(-1)
    return (-square / (2 * width**2)).exp().unflatten(2, (SIZE, SIZE))


def peaks(images: Tensor) -> Tensor:
    """The centre of mass of each channel, (B, C, 2)."""
    weight = images.flatten(2)
    return (weight @ pixel_grid(SIZE, SIZE)) / weight.sum(2, keepdim=True)


def sample(count: int = 8) -> Sample:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, 2, generator=generator) * 0.8 - 0.4
    return Sample(
        image=blobs(points),
        index=torch.arange(count),
        points=points,
        visible=torch.tensor([True, True, False]).repeat(count, 1),
        mask=blobs(points).amax(1, keepdim=True),
        box=torch.tensor([-0.3, -0.2, 0.1, 0.4]).repeat(count, 1),
        label=torch.arange(count) + 5,
        identity=torch.arange(count) + 7,
    )


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- synthetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("warps", ["tps_pair", "affine"])
def test_a_blob_and_its_point_are_where_the_warp_says(warps: str) -> None:
    # A reflection would show some blobs twice.
    pairing = build(Pairing, {"name": "synthetic", "warps": warps, "padding": "zeros"})
    pair = pairing.pair((sample(),), BatchDraw.single(0, 8))
    assert pair.warp is not None
    source, target = pair.source, pair.target
    inside = (source.points.abs() < 0.8).all(-1) & (target.points.abs() < 0.8).all(-1)
    assert inside.sum() > 12
    pixel = 2 / SIZE
    # A blob in a bent image is bent, which moves its centre of mass a little.
    assert (peaks(source.image) - source.points)[inside].abs().max() < pixel
    assert (peaks(target.image) - target.points)[inside].abs().max() < pixel
    assert torch.allclose(pair.warp.to_target(source.points), target.points, atol=1e-5)
    moved = pair.warp.to_target(peaks(source.image))
    assert (moved - peaks(target.image))[inside].abs().max() < pixel
    assert (source.points - sample().points).abs().mean() > 0.05
    assert (source.points - target.points).abs().mean() > 0.05


def test_all_annotation_moves_with_the_image_and_the_rest_stays() -> None:
    original = sample()
    pair = Synthetic().pair((original,), BatchDraw.single(3, 8))
    for moved in (pair.source, pair.target):
        assert torch.equal(moved.index, original.index)
        assert torch.equal(moved.label, original.label)
        assert torch.equal(moved.identity, original.identity)
        assert moved.mask.shape == (8, 1, SIZE, SIZE)
        # The mask was made from the image, and so it still is.
        assert (moved.mask - moved.image.amax(1, keepdim=True)).abs().max() < 0.1
        inside = (moved.points.abs() <= 1).all(-1)
        assert torch.equal(moved.visible, inside & original.visible)
        assert (moved.box[:, 2:] > moved.box[:, :2]).all()
    corners = torch.tensor([[-0.3, -0.2], [0.1, -0.2], [0.1, 0.4], [-0.3, 0.4]]).repeat(8, 1, 1)
    draw = BatchDraw.single(3, 8)
    view, warp = Synthetic().warps.draw(draw, (SIZE, SIZE))
    for moved, there in (
        (pair.source, view.to_target(corners)),
        (pair.target, warp.to_target(view.to_target(corners))),
    ):
        assert torch.allclose(moved.box[:, :2], there.amin(1), atol=1e-6)
        assert torch.allclose(moved.box[:, 2:], there.amax(1), atol=1e-6)
    assert torch.equal(original.image, sample().image)
    assert torch.equal(original.points, sample().points)


def test_points_that_leave_the_image_or_are_unknown_are_invisible() -> None:
    original = sample()
    original = replace(original, points=original.points + 0.55, visible=None)
    original.points[:, 0] = torch.nan
    pair = Synthetic().pair((original,), BatchDraw.single(0, 8))
    left = ~(pair.target.points.abs() <= 1).all(-1)
    assert left[:, 0].all()
    assert 0 < left[:, 1:].sum() < 16
    assert torch.equal(pair.target.visible, ~left)
    assert pair.target.points[:, 1:].isfinite().float().mean() > 0.8


def test_without_annotation_only_the_images_are_warped() -> None:
    everything = Synthetic().pair((sample(),), BatchDraw.single(0, 8))
    images = Synthetic(annotation=False).pair((sample(),), BatchDraw.single(0, 8))
    assert torch.equal(images.target.image, everything.target.image)
    assert images.source.points is images.target.visible is images.source.box is None
    assert images.source.mask is None
    plain = Sample(image=sample().image, index=torch.arange(8))
    pair = Synthetic().pair((plain,), BatchDraw.single(0, 8))
    assert torch.equal(pair.source.image, everything.source.image)
    assert pair.source.points is pair.source.visible is None


def test_each_view_may_have_its_own_colours() -> None:
    images = Named(0, 1, 2)
    assert tuple(Synthetic().members(images, 1, generator())) == (1, 1)
    pairing = Synthetic(independent_colours=False)
    assert tuple(pairing.members(images, 1, generator())) == (1,)
    bright, dark = sample(), replace(sample(), image=sample().image * 0.5)
    mixed = Synthetic().pair((bright, dark), BatchDraw.single(0, 8))
    plain = pairing.pair((bright,), BatchDraw.single(0, 8))
    assert torch.equal(mixed.source.image, plain.source.image)
    assert torch.allclose(mixed.target.image, plain.target.image * 0.5, atol=1e-6)
    assert torch.equal(mixed.target.points, plain.target.points)


def test_the_target_shows_what_lay_beyond_the_edges_of_the_source() -> None:
    full = replace(sample(), image=torch.ones(8, 3, SIZE, SIZE))
    pair = Synthetic(padding="zeros").pair((full,), BatchDraw.single(0, 8))
    twice = pair.warp.apply(pair.source.image)
    assert pair.target.image.mean() > twice.mean() + 0.02
    valid = pair.warp.valid((SIZE, SIZE), at="target")[:, None]
    assert ((pair.target.image - twice).abs() * valid).mean() < 0.02


def test_the_padding_fills_what_the_image_does_not_have() -> None:
    full = replace(sample(), image=torch.ones(8, 3, SIZE, SIZE))
    for padding in ("border", "reflection"):
        pair = Synthetic(padding=padding).pair((full,), BatchDraw.single(0, 8))
        assert torch.allclose(pair.target.image, torch.ones(1), atol=1e-4)
    dark = Synthetic(padding="zeros").pair((full,), BatchDraw.single(0, 8))
    assert dark.target.image.min() == 0
    with pytest.raises(ConfigError, match=r"pairing\.padding"):
        build(Pairing, {"name": "synthetic", "padding": "mirror"})


def test_no_warp_leaves_everything_in_place() -> None:
    pairing = build(Pairing, {"name": "synthetic", "warps": "identity"})
    pair = pairing.pair((sample(),), BatchDraw.single(0, 8))
    assert isinstance(pair.warp, IdentityWarp)
    for name, value in vars(sample()).items():
        for moved in (pair.source, pair.target):
            got = getattr(moved, name)
            assert got is value is None or torch.allclose(got.float(), value.float()), name


def test_two_processes_make_the_pairs_of_one() -> None:
    original = sample()

    def pair(first: int, count: int) -> Pair:
        draw = BatchDraw(0, "pair", epoch=2, batch=5, total=8, rows=(first, 1, count))
        rows = slice(first, first + count)
        part = {k: None if v is None else v[rows] for k, v in vars(original).items()}
        return Synthetic().pair((Sample(**part),), draw)

    whole, left, right = pair(0, 8), pair(0, 3), pair(3, 5)
    for side in ("source", "target"):
        for name, value in vars(getattr(whole, side)).items():
            parts = [getattr(getattr(half, side), name) for half in (left, right)]
            if value is not None:
                assert torch.allclose(torch.cat(parts).float(), value.float(), atol=1e-5), name
    query = original.points
    there = torch.cat([left.warp.to_source(query[:3]), right.warp.to_source(query[3:])])
    assert torch.allclose(there, whole.warp.to_source(query), atol=1e-5)


def test_a_loaded_batch_becomes_a_pair() -> None:
    data = build(ImageData, {"name": "toy_faces", "size": 32, "train": 8})
    pairing = Synthetic()
    data.prepare_training(pairing, LoaderSettings(batch_size=4), seed=0)
    for batch in data.train_dataloader():
        draw = BatchDraw(0, "pair", batch.epoch, batch.batch, batch.total, (batch.first, 1, 4))
        pair = pairing.pair(tuple(m.with_float_image() for m in batch.members), draw)
        assert pair.source.image.shape == pair.target.image.shape == (4, 3, 32, 32)
        assert torch.equal(pair.source.identity, pair.target.identity)
        # What a landmark shows stays under it, wherever it goes: here, on the head.
        for side in (pair.source, pair.target):
            grid = side.points[:, None]
            under = torch.nn.functional.grid_sample(side.mask, grid, align_corners=False)
            inner = side.visible & (side.points.abs() < 0.9).all(-1)
            assert under[:, 0, 0][inner].mean() > 0.9


# --- same, random --------------------------------------------------------------------------------


def test_the_partner_is_another_image_of_the_same_individual() -> None:
    images = Named(4, 9, 4, 4, 7)
    partners = Counter(tuple(Same().members(images, 2, generator(s))) for s in range(100))
    assert set(partners) == {(2, 0), (2, 3)}
    assert min(partners.values()) > 25
    assert tuple(Same().members(images, 1, generator())) == (1, 1)


def test_a_partner_needs_an_identity() -> None:
    images = Named(1, 1)
    images.identity = None
    with pytest.raises(DataError, match="identity"):
        Same().members(images, 0, generator())

    class Anonymous(ToyFaces):
        provides = frozenset({"points"})  # type: ignore[assignment]

    data: Any = Anonymous()
    with pytest.raises(ConfigError, match="identity"):
        data.prepare_training(Same(), LoaderSettings(), 0)


def test_the_partner_is_any_other_image() -> None:
    images = Named(*range(4))
    partners = Counter(tuple(Random().members(images, 2, generator(s))) for s in range(150))
    assert set(partners) == {(2, 0), (2, 1), (2, 3)}
    assert min(partners.values()) > 25
    assert tuple(Random().members(Named(0), 0, generator())) == (0, 0)


@pytest.mark.parametrize("pairing", [Same(), Random()], ids=["same", "random"])
def test_unrelated_images_stay_as_they_are(pairing: Pairing) -> None:
    one, other = sample(), replace(sample(), image=sample().image * 0.5)
    pair = pairing.pair((one, other), BatchDraw.single(0, 8))
    assert pair.source is one
    assert pair.target is other
    assert pair.warp is None
    assert not pairing.provides_warp


@pytest.mark.parametrize("name", ["same", "random"])
def test_partners_come_from_the_same_split(name: str) -> None:
    data = build(ImageData, {"name": "toy_faces", "size": 16, "train": 12})
    data.prepare_training(build(Pairing, name), LoaderSettings(batch_size=6), seed=0)
    for batch in data.train_dataloader():
        one, other = batch.members
        assert (one.index != other.index).all()
        if name == "same":
            assert torch.equal(one.identity, other.identity)
            assert not torch.equal(one.image, other.image)


def test_views_show_the_surroundings_where_there_are_some() -> None:
    # A ramp from left to right, over the square and what surrounds it.
    whole = (torch.arange(96.0) / 95).expand(2, 3, 96, 96).contiguous()
    inner = whole[..., 16:80, 16:80].contiguous()
    sample = Sample(inner, torch.arange(2), surroundings=whole)
    shift = {"name": "affine", "rotation": [0.0, 0.0], "scale": [0.0, 0.0]}
    shift |= {"translation_law": "uniform", "translation": [0.4, 0.0]}
    pairing = build(Pairing, {"name": "synthetic", "warps": shift, "padding": "reflection"})
    pair = pairing.pair((sample,), BatchDraw.single(3, 2))
    assert pair.source.surroundings is None
    assert pair.source.image.shape == inner.shape
    # Still a ramp: nothing is reflected, because the surroundings reach far enough.
    slopes = pair.source.image.diff(dim=3)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 1 / 95), atol=1e-4, rtol=0)
    alone = pairing.pair((replace(sample, surroundings=None),), BatchDraw.single(3, 2))
    assert (alone.source.image.diff(dim=3) < 0).any()
    unmoved = IdentityWarp(2).apply(whole, size=(64, 64))
    torch.testing.assert_close(unmoved, inner, atol=1e-5, rtol=0)
