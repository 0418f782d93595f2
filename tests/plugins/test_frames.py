"""Pairs of frames: who belongs together, and that the warp is the flow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.batch import Sample
from landmark_lab.data.images import ImageTable, SplitTable
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.sampling import Images, LoaderSettings, Row
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Pairing, Split
from landmark_lab.seeding import BatchDraw
from landmark_lab_plugins.data.toy_faces import ToyFaces
from landmark_lab_plugins.pairings.frames import Frames
from landmark_lab_plugins.pairings.mirrored import Mirrored
from landmark_lab_plugins.pairings.synthetic import Synthetic

SIDE = 16


class Videos(Images):
    """Frames without content: two videos, in no particular order, and one with a gap."""

    def __init__(self) -> None:
        self.identity: NDArray[np.int64] | None = np.array([7, 8, 7, 7, 8, 9, 9, 7])
        self.frame: NDArray[np.int64] | None = np.array([0, 0, 2, 1, 1, 0, 5, 3])

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Row:
        raise AssertionError("nothing is loaded to choose a partner")


class Film(Videos):
    """One video, without content."""

    def __init__(self, count: int) -> None:
        self.identity, self.frame = np.zeros(count, np.int64), np.arange(count)

    def __len__(self) -> int:
        return 0 if self.frame is None else len(self.frame)


class Films(ToyFaces):
    """Data with the images given."""

    provides = Frames.needs

    def __init__(self, images: Images) -> None:
        super().__init__()
        self.film = images

    def images(self, split: Split) -> Images:
        return self.film


def sources(pairing: Pairing, images: Images, rows: list[int]) -> list[int]:
    draws = np.random.default_rng(0)
    return [pairing.members(images, row, draws)[0] for row in rows]


def members(pairing: Frames, index: int) -> list[int]:
    return list(pairing.members(Videos(), index, np.random.default_rng(0)))


def shift(x: float, y: float) -> Tensor:
    return torch.tensor([x, y]).view(1, 2, 1, 1).expand(2, 2, SIDE, SIDE).contiguous()


def sample(flow: Tensor | None, visible: Tensor | None = None) -> Sample:
    image = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return Sample(image, torch.arange(2), flow=flow, flow_visible=visible)


def draw() -> BatchDraw:
    return BatchDraw.single(0, 2)


def test_the_partner_is_the_next_frame_of_the_same_video() -> None:
    assert members(Frames(), 0) == [0, 3]
    assert members(Frames(), 3) == [3, 2]
    assert members(Frames(), 1) == [1, 4]
    assert members(Frames(step=3), 0) == [0, 3, 2, 7]


def test_the_last_frame_is_a_target() -> None:
    assert members(Frames(), 7) == [2, 7]
    assert members(Frames(), 4) == [1, 4]
    assert members(Frames(step=2), 7) == [3, 2, 7]


def test_gaps_and_short_videos_are_errors() -> None:
    with pytest.raises(DataError, match="image 5 is not among 2 successive frames"):
        members(Frames(), 5)
    with pytest.raises(DataError, match="image 1 is not among 3 successive frames"):
        members(Frames(step=2), 1)
    still = Videos()
    still.frame = None
    with pytest.raises(DataError, match="no frames of videos"):
        Frames().members(still, 0, np.random.default_rng(0))


def test_the_warp_is_the_flow_and_the_images_stay() -> None:
    visible = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    visible[:, 3, 4] = False
    one, other = sample(shift(0.25, -0.125), visible), sample(shift(0.5, 0.5))
    pair = Frames().pair((one, other), draw())
    assert pair.source is one
    assert pair.target is other
    assert pair.warp is not None
    points = torch.tensor([[[0.0, 0.0], [0.3, 0.2]]]).expand(2, -1, -1)
    torch.testing.assert_close(pair.warp.to_target(points), points + torch.tensor([0.25, -0.125]))
    valid = pair.warp.valid((SIDE, SIDE), at="source")
    assert not valid[:, 3, 4].any()
    assert not valid[:, :, -2:].any()  # two pixels to the right: they leave the image
    assert valid[:, 5:, :-2].all()


def test_steps_are_composed() -> None:
    chain = (sample(shift(0.25, 0)), sample(shift(0.125, 0.25)), sample(None))
    pair = Frames(step=2).pair(chain, draw())
    assert pair.warp is not None
    points = torch.tensor([[[0.0, 0.0], [-0.5, 0.25]]]).expand(2, -1, -1)
    torch.testing.assert_close(pair.warp.to_target(points), points + torch.tensor([0.375, 0.25]))
    assert pair.source is chain[0]
    assert pair.target is chain[2]


@pytest.mark.parametrize("warps", ["affine", "tps_pair"])
def test_the_target_can_be_moved_further(warps: str) -> None:
    made = build(Pairing, {"name": "frames", "warps": warps})
    visible = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    visible[:, 3, 4] = False
    one, other = sample(shift(0.25, 0), visible), sample(None)
    other = replace(other, points=torch.tensor([[[0.0, 0.0], [0.3, 0.2]]]).expand(2, -1, -1))
    pair = made.pair((one, other), draw())
    assert pair.warp is not None
    assert pair.warp.exact == {"to_target"}
    assert pair.view is None
    assert pair.source is one
    assert other.points is not None
    # What the flow leads to the annotated points of the frame lies where these went.
    moved = pair.warp.to_target(other.points - torch.tensor([0.25, 0.0]))
    torch.testing.assert_close(moved, pair.target.points)
    assert not torch.equal(moved, other.points)
    assert not pair.warp.valid((SIDE, SIDE), at="source")[:, 3, 4].any()
    again = made.pair((one, other), draw())
    assert torch.equal(again.target.image, pair.target.image)
    assert not torch.equal(pair.target.image, other.image)
    # The frame is resampled once, by the warp alone.
    rest = build(Pairing, {"name": "frames", "warps": "identity"}).pair((one, other), draw())
    torch.testing.assert_close(rest.target.image, other.image)


def test_items_are_images_among_enough_successive_ones() -> None:
    assert Frames().rows(Videos()).tolist() == [0, 1, 2, 3, 4, 7]
    assert Frames(step=2).rows(Videos()).tolist() == [0, 2, 3, 7]
    assert Mirrored(Frames(step=3)).rows(Videos()).tolist() == [0, 2, 3, 7]
    for step in (1, 2, 3):
        for index in Frames(step=step).rows(Videos()).tolist():
            chain = members(Frames(step=step), index)
            assert index in chain
            assert len(chain) == step + 1
    with pytest.raises(DataError, match="there are no 5 successive frames"):
        Frames(step=4).rows(Videos())


def test_some_images_trained_on_are_the_sources_of_their_pairs() -> None:
    """Rounds of self-training look at these images alone, and look up the sources of pairs."""
    images = Film(20)
    data = Films(images)
    for step in (1, 2, 5):
        for pairing in (Frames(step=step), Mirrored(Frames(step=step))):
            data.prepare_training(pairing, LoaderSettings(images=10), 0)
            rows = data.training_rows().tolist()
            assert len(set(rows)) == 10
            assert sources(pairing, images, rows) == rows
            data.prepare_training(pairing, LoaderSettings(), 0)
            rows = data.training_rows().tolist()
            assert rows == list(range(20))
            assert set(sources(pairing, images, rows)) <= set(rows)
    data.prepare_training(Frames(step=5), LoaderSettings(images=16), 0)
    with pytest.raises(DataError, match="there are 15 images to train on, not 16"):
        data.training_rows()
    with pytest.raises(DataError, match="there are no 5 successive frames"):
        Frames(step=4).sources(Videos())


@pytest.mark.parametrize("known", [True, False])
def test_what_rests_can_be_left_out(known: bool) -> None:
    flow = torch.zeros(2, 2, SIDE, SIDE)
    flow[:, 0, 4:12, 4:12] = 0.05 * 2 / SIDE  # a twentieth of a pixel
    flow[:, 1, 4:12, 4:8] = 0.002 * 2 / SIDE
    visible = torch.ones(2, SIDE, SIDE, dtype=torch.bool) if known else None
    one = sample(flow, visible)

    def valid(least: float) -> Tensor:
        pair = Frames(least_motion=least).pair((one, one), draw())
        assert pair.warp is not None
        return pair.warp.valid((SIDE, SIDE), at="source")

    assert valid(0).all()
    moving = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    moving[:, 4:12, 4:12] = True
    assert torch.equal(valid(0.001), moving)
    assert not valid(0.06).any()


@pytest.mark.parametrize("settings", [{"step": 0}, {"least_motion": -0.1}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        build(Pairing, {"name": "frames", **settings})


def test_data_without_flow_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match=r"'frames' needs flow, frame, .*'toy_faces'"):
        ToyFaces().prepare_training(Frames(), LoaderSettings(), 0)
    with pytest.raises(DataError, match="no flow"):
        Frames().pair((sample(None), sample(None)), draw())


def test_a_loader_gives_successive_frames_whose_flow_fits() -> None:
    data = build(ImageData, {"name": "sphere", "size": 40, "frames": 8, "train": 3})
    data.prepare_training(build(Pairing, "frames"), LoaderSettings(batch_size=6), seed=0)
    for loaded in data.train_dataloader():
        one, other = (member.with_float_image() for member in loaded.members)
        assert torch.equal(one.identity, other.identity)
        assert torch.equal(one.frame + 1, other.frame)
        pair = Frames().pair((one, other), draw())
        assert pair.warp is not None
        known = pair.warp.valid((40, 40))
        warped = pair.warp.apply(one.image, padding="border")
        error = (warped - other.image).abs().mean(1)[known].mean()
        assert error < 0.5 * (one.image - other.image).abs().mean(1)[known].mean()


def test_a_view_made_by_a_warp_has_no_flow() -> None:
    pair = Synthetic().pair((sample(shift(0.1, 0)),) * 2, draw())
    for side in (pair.source, pair.target):
        assert side.flow is None
        assert side.flow_visible is None


def test_frames_of_a_folder_are_known_without_loading() -> None:
    numbers = np.arange(3)
    table = SplitTable(
        (Path("film.mp4"),) * 3,
        numbers,
        np.zeros((3, 2), np.int64),
        identity=numbers * 0,
        frame=numbers,
    )
    images = ImageTable(table, Preprocess(size=16))
    assert list(Frames().members(images, 1, np.random.default_rng(0))) == [1, 2]


def test_the_flow_between_pixels_needs_all_of_them() -> None:
    # A coarse map's cells lie at the corners of four pixels each.
    visible = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    visible[:, 6, 7] = False
    pair = Frames().pair((sample(shift(0, 0), visible),) * 2, draw())
    assert pair.warp is not None
    coarse = pair.warp.valid((SIDE // 2, SIDE // 2), at="source")
    expected = torch.ones_like(coarse)
    expected[:, 3, 3] = False
    assert torch.equal(coarse, expected)
    fine = pair.warp.valid((SIDE, SIDE), at="source")
    assert torch.equal(fine, visible)
