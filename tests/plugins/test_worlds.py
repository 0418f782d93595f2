"""What holds for every drawn world: exact flow and points, frames that depend on nothing else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landmark_lab.data.batch import Sample
from landmark_lab.data.sampling import Images, LoaderSettings, collate
from landmark_lab.errors import ConfigError
from landmark_lab.geometry import FlowWarp
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData
from landmark_lab_plugins.pairings.frames import Frames
from landmark_lab_plugins.worlds.clips import PROVIDES, World

FRAMES = 25
# The settings of each world, and its bounds: mean photometric error of the object in the next frame
# (of 1), the greatest of one pixel, and how far points and flow may be apart in pixels (the marks
# of the car stand out a little, those of the sphere may be seen at its rim).
WORLDS: dict[str, tuple[dict[str, Any], float, float, float]] = {
    "roboarm": ({"name": "roboarm"}, 0.006, 0.15, 1e-3),
    "arms": ({"name": "roboarm", "arms": 2}, 0.008, 0.15, 1e-2),
    "sphere": ({"name": "sphere"}, 0.013, 0.2, 0.1),
    "rotor": ({"name": "rotor"}, 0.01, 0.2, 0.05),
    "five": ({"name": "rotor", "fold": 5}, 0.012, 0.2, 0.05),
    "car": ({"name": "car"}, 0.02, 0.3, 0.15),
}
each_world = pytest.mark.parametrize("world", WORLDS)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path))


def data_of(world: str, **settings: Any) -> World:
    small = {"frames": FRAMES, "train": 2, "val": 1, "test": 1}
    made = build(ImageData, {**WORLDS[world][0], **small, **settings})
    assert isinstance(made, World)
    return made


def batch(images: Images, indices: list[int]) -> Sample:
    rows = [{**images[index], "index": index} for index in indices]
    return collate(rows).with_float_image()


def successive(world: str) -> tuple[Sample, Sample, FlowWarp]:
    images = data_of(world).images("train")
    indices = [*range(0, FRAMES - 1, 2), *range(FRAMES, 2 * FRAMES - 1, 2)]
    now, after = batch(images, indices), batch(images, [index + 1 for index in indices])
    assert now.flow is not None
    return now, after, FlowWarp(now.flow, now.flow_visible)


def size_of(sample: Sample) -> tuple[int, int]:
    return sample.image.shape[2], sample.image.shape[3]


def on_object(sample: Sample) -> Tensor:
    assert sample.mask is not None
    return sample.mask[:, 0] > 0.5


# --- the flow ------------------------------------------------------------------------------------


@each_world
def test_warping_a_frame_by_its_flow_gives_the_next_one(world: str) -> None:
    now, after, warp = successive(world)
    _, mean, greatest, _ = WORLDS[world]
    known = warp.valid(size_of(now), at="target")
    there = known & on_object(after)
    error = (warp.apply(now.image, padding="border") - after.image).abs().mean(1)
    still = (now.image - after.image).abs().mean(1)
    assert error[there].mean() < mean
    assert error[there].max() < greatest
    assert error[there].mean() < 0.5 * still[there].mean()
    assert there.sum() > 0.4 * on_object(after).sum()
    # The background's edge is mixed with what moves over it; else it stays exactly as it is.
    assert error[known & ~on_object(after)].mean() < 1e-3


@each_world
def test_a_pixel_appears_in_the_next_frame_where_its_flow_says(world: str) -> None:
    now, after, warp = successive(world)
    _, mean, _, _ = WORLDS[world]
    known = warp.valid(size_of(now), at="source")
    found = F.grid_sample(after.image, warp.target_grid(size_of(now)), align_corners=False)
    error = (found - now.image).abs().mean(1)
    still = (now.image - after.image).abs().mean(1)
    here = known & on_object(now)
    assert error[here].mean() < mean
    assert error[here].quantile(0.99) < 0.12  # hidden ones would show another colour
    assert error[here].mean() < 0.5 * still[here].mean()
    assert here.sum() > 0.6 * on_object(now).sum()
    assert (known & ~on_object(now)).sum() > 0.8 * (~on_object(now)).sum()


@each_world
def test_points_move_with_the_flow(world: str) -> None:
    now, after, warp = successive(world)
    assert now.points is not None
    assert after.points is not None
    seen = now.visible & after.visible  # type: ignore[operator]
    pixels = size_of(now)[1] / 2
    apart = (warp.to_target(now.points) - after.points).norm(dim=-1)[seen] * pixels
    moved = (now.points - after.points).norm(dim=-1)[seen] * pixels
    assert apart.mean() < WORLDS[world][3]
    assert moved.mean() > 0.3
    assert moved.mean() < 8


# --- the frames ----------------------------------------------------------------------------------


@each_world
def test_the_fields_have_the_promised_form(world: str) -> None:
    data = data_of(world, size=32)
    row = data.images("val")[3]
    assert row.keys() == {"image", *data.provides}
    assert data.provides == PROVIDES
    points = len(data.point_names)
    shapes = {name: (np.asarray(v).dtype, np.asarray(v).shape) for name, v in row.items()}
    assert shapes == {
        "image": (np.uint8, (32, 32, 3)),
        "points": (np.float32, (points, 2)),
        "visible": (np.bool_, (points,)),
        "mask": (np.float32, (1, 32, 32)),
        "flow": (np.float32, (2, 32, 32)),
        "flow_visible": (np.bool_, (32, 32)),
        "identity": (np.int64, ()),
        "frame": (np.int64, ()),
    }
    assert np.isfinite(row["flow"]).all()
    assert np.isfinite(row["points"]).all()


@each_world
def test_the_mask_covers_what_is_not_background_and_all_visible_points(world: str) -> None:
    images = data_of(world).images("train")
    for index in (0, FRAMES - 1, FRAMES + 7):
        row = images[index]
        mask = row["mask"][0]
        assert mask.min() == 0
        assert mask.max() == 1
        assert 0.04 < mask.mean() < 0.6
        (background,) = np.unique(row["image"][mask == 0], axis=0)
        assert (row["image"][mask == 1] != background).any(1).mean() > 0.99
        assert (row["flow"][:, mask == 0] == 0).all()
        grid = torch.from_numpy(row["points"][row["visible"]])[None, None]
        under = F.grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)
        assert under.min() > 0.3
        assert (np.abs(row["points"][row["visible"]]) <= 1).all()


@each_world
def test_a_frame_is_a_function_of_seed_split_and_index(world: str) -> None:
    images = data_of(world, train=2).images("train")
    longer = data_of(world, train=3).images("train")
    again = pickle.loads(pickle.dumps(longer))  # as a process that is started anew gets it
    late = images[FRAMES + 3]  # before any other frame of its clip
    for index in (0, FRAMES - 1, FRAMES + 3):
        for name, value in images[index].items():
            assert np.array_equal(value, longer[index][name]), name
            assert np.array_equal(value, again[index][name]), name
    assert np.array_equal(late["image"], images[FRAMES + 3]["image"])
    others = [
        images[4],
        images[FRAMES + 3],
        data_of(world, seed=1).images("train")[3],
        data_of(world).images("val")[3],
        data_of(world).images("test")[3],
    ]
    for other in others:
        assert not np.array_equal(images[3]["image"], other["image"])


@each_world
def test_a_clip_is_one_identity_and_no_split_shares_one(world: str) -> None:
    data = data_of(world, train=2)
    splits = [data.images(split) for split in ("train", "val", "test")]
    identities = []
    for images in splits:
        assert images.identity is not None
        assert images.frame is not None
        assert len(images) == len(images.identity) == len(images.frame)
        row = images[FRAMES - 1]
        assert row["identity"] == images.identity[FRAMES - 1]
        assert row["frame"] == images.frame[FRAMES - 1] == FRAMES - 1
        identities.append(images.identity)
    assert len(np.unique(np.concatenate(identities))) == 2 + 1 + 1
    assert (np.diff(splits[0].frame) == 1).sum() == 2 * (FRAMES - 1)  # type: ignore[arg-type]


@each_world
def test_the_drawing_does_not_depend_on_the_size(world: str) -> None:
    small, large = (data_of(world, size=size).images("train")[5] for size in (40, 80))
    assert np.allclose(small["points"], large["points"], atol=1e-6)
    halved = large["image"].reshape(40, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(halved - small["image"]).mean() < 3  # of 255
    both = small["flow_visible"] & large["flow_visible"].reshape(40, 2, 40, 2).all((1, 3))
    flow = large["flow"].reshape(2, 40, 2, 40, 2).mean((2, 4))
    apart = np.abs(flow - small["flow"]).max(0)[both] * 20
    assert np.quantile(apart, 0.99) < 0.05  # pixels; not one surface, but two that meet in a fold


def test_workers_see_the_same() -> None:
    batches = []
    for workers in (0, 2):
        data = data_of("roboarm", size=32)
        settings = LoaderSettings(batch_size=5, workers=workers)
        data.prepare_training(Frames(), settings, seed=3)
        batches.append([loaded.members for loaded in data.train_dataloader()][:3])
    for one, other in zip(*batches, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.image, b.image)
            assert a.flow is not None
            assert b.flow is not None
            assert torch.equal(a.flow, b.flow)


@pytest.mark.parametrize("name", ["roboarm", "sphere", "rotor", "car"])
@pytest.mark.parametrize("settings", [{"size": 15}, {"train": -1}, {"frames": 1}])
def test_impossible_settings_are_refused(name: str, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        build(ImageData, {"name": name, **settings})


def test_there_is_no_frame_beyond_the_end() -> None:
    images = data_of("sphere").images("val")
    assert len(images) == FRAMES
    for index in (FRAMES, -1):
        with pytest.raises(IndexError):
            images[index]
    assert len(data_of("sphere", val=0).images("val")) == 0
