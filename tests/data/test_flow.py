"""The optical flow of a folder of frames or of a video: exact motion, what is hidden, the disk."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from landmark_lab.data.flow import FrameTable, consistent
from landmark_lab.data.images import SplitTable
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.sampling import successors
from landmark_lab.errors import DataError
from landmark_lab.geometry import FlowWarp
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.plugin import build
from landmark_lab.roles import OpticalFlow
from tests.data.films import (
    HEIGHT,
    WIDTH,
    about_the_middle,
    save,
    texture,
    turning,
    view,
)

MOTION = about_the_middle(2, 1.02, 2.5, -1.25)
BOTH = pytest.mark.parametrize("name", ["farneback", "dis"])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "flow"


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames of a texture that turns, grows and shifts."""
    return turning(tmp_path_factory.mktemp("film"), 5, MOTION)


class Counted(OpticalFlow, name="counted_by_test"):
    """Says that all move by one pixel to the right, and counts how often it is asked."""

    asked = 0

    def __init__(self, tolerance: float = 0.7) -> None:
        self.tolerance = tolerance

    def estimate(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        Counted.asked += 1
        flow = np.zeros((*source.shape[:2], 2), np.float32)
        flow[..., 0] = 1 if Counted.asked % 2 else -1
        return flow


def frames(
    root: Path,
    flow: str | dict[str, Any] | OpticalFlow = "dis",
    preprocess: Preprocess | None = None,
    **known: Any,
) -> FrameTable:
    """The image files of a folder as the frames of one video."""
    files = tuple(sorted(root.glob("*.png")))
    count = len(files)
    known = {"clip": np.zeros(count, np.int64), "frame": np.arange(count), **known}
    table = SplitTable(files, np.full(count, -1), np.zeros((count, 2), np.int64), **known)
    estimator = flow if isinstance(flow, OpticalFlow) else build(OpticalFlow, flow)
    return FrameTable(table, preprocess or Preprocess(64, "crop"), estimator)


def exact(images: FrameTable, index: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The flow by the motion itself, (2, size, size), and where both ends are in the file."""
    size = images.preprocess.size
    points = pixel_grid(size, size).numpy().astype(np.float64)
    origin = images.placement(index).to_original(points)
    moved = origin @ MOTION[:, :2].T + MOTION[:, 2]
    flow = (images.placement(index + 1).to_square(moved) - points).T.reshape(2, size, size)
    inside = np.ones(size * size, dtype=bool)
    for pixels in (origin, moved):
        inside &= ((pixels > -0.5) & (pixels < np.array([WIDTH, HEIGHT]) - 0.5)).all(1)
    return flow, inside.reshape(size, size)


def apart(images: FrameTable, index: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How many pixels of the square the estimate is off, and where it is said to hold."""
    row = images[index]
    off = np.linalg.norm(row["flow"] - exact(images, index)[0], axis=0) * images.preprocess.size / 2
    return off, row["flow_visible"]


# --- what it finds -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(64, "letterbox"),
        Preprocess(64, "crop", window=0.8),
        Preprocess(100, "squash", region=(0.1, 0.0, 0.9, 0.9)),
    ],
    ids=["letterbox", "window", "region"],
)
def test_a_known_motion_is_found_and_carried_through_the_preprocessing(
    film: Path, name: str, preprocess: Preprocess
) -> None:
    images = frames(film, name, preprocess)
    images.prepare_flow(progress=False)
    for index in range(4):
        off, seen = apart(images, index)
        flow, inside = exact(images, index)
        assert off[seen].mean() < 0.2
        assert np.quantile(off[seen], 0.99) < 0.8
        assert np.linalg.norm(flow, axis=0)[seen].mean() * preprocess.size / 2 > 1
        assert seen[inside].mean() > 0.95
        assert (seen & ~inside).sum() <= 0.05 * (~inside).sum()


def test_crops_that_follow_a_box_do_not_change_what_moves_where(film: Path) -> None:
    boxes = np.array([[20.0 + 4 * i, 10 + 2 * i, 80 + 5 * i, 70 - i] for i in range(5)])
    images = frames(film, "dis", Preprocess(64, "crop", box_margin=0.05), box=boxes)
    images.prepare_flow(progress=False)
    for index in range(4):
        off, seen = apart(images, index)
        assert off[seen].mean() < 0.2
        assert seen.mean() > 0.9


@BOTH
def test_warping_a_frame_gives_the_next_one(film: Path, name: str) -> None:
    images = frames(film, name)
    images.prepare_flow(progress=False)
    now, after = images[1], images[2]
    pictures = [torch.from_numpy(row["image"]).permute(2, 0, 1)[None] / 255 for row in (now, after)]
    warp = FlowWarp(
        torch.from_numpy(now["flow"])[None], torch.from_numpy(now["flow_visible"])[None]
    )
    valid = warp.valid((64, 64))
    error = (warp.apply(pictures[0], padding="border") - pictures[1]).abs().mean(1)[valid].mean()
    assert error < 0.02
    assert error < 0.2 * (pictures[0] - pictures[1]).abs().mean(1)[valid].mean()
    assert valid.float().mean() > 0.9


# Farnebäck's window is as wide as what is hidden; half a window beside it seems to move along.
@pytest.mark.parametrize(
    ("settings", "most"), [({"name": "dis"}, 0.35), ({"name": "farneback", "window": 7}, 0.5)]
)
def test_what_something_moves_over_is_not_visible(
    tmp_path: Path, settings: dict[str, Any], most: float
) -> None:
    ground, patch = texture(1), texture(2)
    pictures = [view(ground, about_the_middle(0, 1, 0, 0)) for _ in range(2)]
    edge, wide = 60, 8  # the patch's right edge moves from 60 to 68
    for number, picture in enumerate(pictures):
        right = edge + number * wide
        picture[15:75, right - 40 : right] = patch[:60, :40]
    images = frames(save(tmp_path / "two", pictures), settings, Preprocess(WIDTH, "squash"))
    images.prepare_flow(progress=False)
    seen, flow = images[0]["flow_visible"], images[0]["flow"] * WIDTH / 2
    rows = slice(28, 84)  # of the square, whose rows are 4/3 as many as the file's
    hidden = seen[rows, edge : edge + wide]
    assert hidden.mean() < most
    assert seen[rows, edge + wide + 10 :].mean() > 0.95  # the ground at rest
    assert seen[rows, edge - 32 : edge - 8].mean() > 0.9
    np.testing.assert_allclose(flow[0, rows, edge - 30 : edge - 10].mean(), wide, atol=0.5)
    assert abs(flow[0, rows, edge + 25 :]).mean() < 0.3


def test_going_there_and_back() -> None:
    there = np.zeros((6, 10, 2), np.float32)
    there[:, :5, 0] = 2  # two columns to the right
    back = -np.roll(there, 2, axis=1)
    expected = np.ones((6, 10), dtype=bool)
    expected[:, 5:7] = False  # others come back to these
    np.testing.assert_array_equal(consistent(there, back, 0.7), expected)
    leaving = np.zeros((6, 10, 2), np.float32)
    leaving[..., 1] = 3
    inside = np.zeros((6, 10), dtype=bool)
    inside[:3] = True
    np.testing.assert_array_equal(consistent(leaving, -leaving, 0.7), inside)
    # At rest up to the tolerance; a tenth or so of the way is added.
    for way, lost, holds in ((0.0, 0.6, True), (0.0, 0.8, False), (2.0, 0.74, True)):
        forward = np.full((6, 10, 2), (way, 0), np.float32)
        loss = np.full((6, 10, 2), (0, lost), np.float32)
        assert consistent(forward, loss - forward, 0.7)[:, :7].all() == holds


def test_frames_have_no_flow_before_it_is_prepared_and_the_last_one_never(film: Path) -> None:
    images = frames(film)
    assert images[0].keys() == {"image", "frame"}
    images.prepare_flow(progress=False)
    last = images[4]
    assert last["flow"].shape == (2, 64, 64)
    assert last["flow"].dtype == np.float32
    assert not last["flow"].any()
    assert last["flow_visible"].dtype == bool
    assert not last["flow_visible"].any()


def test_frames_of_different_sizes_have_no_flow(tmp_path: Path) -> None:
    root = save(tmp_path / "two", [texture(0, 80)])
    save(root, [texture(0, 81)], first=1)
    with pytest.raises(DataError, match=r"frame_001\.png: is 81 x 81 .* before 80 x 80"):
        frames(root).prepare_flow(progress=False)


def test_pairs_that_cannot_be_followed_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = save(tmp_path / "others", [texture(seed, 90) for seed in range(3)])
    # Also when the flow was computed before, maybe for another run.
    for _ in range(2):
        with (
            caplog.at_level(logging.INFO),
            pytest.warns(UserWarning, match="of 2 of 2 pairs of frames less than 20% of the"),
        ):
            frames(root).prepare_flow(progress=False)
        assert "flow.dis: 2 pairs of frames, 9% of the pixels" in caplog.text
        caplog.clear()


class Wrong(Counted, name="wrong_by_test"):
    """Gives a flow for another size, or none."""

    def __init__(self, missing: bool = False) -> None:
        self.missing = missing

    def estimate(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        height, width = source.shape[:2]
        shape = (height, width, 2) if self.missing else (height, width // 2, 2)
        return np.full(shape, np.nan if self.missing else 0, np.float32)


@pytest.mark.parametrize("missing", [True, False])
def test_an_estimator_must_give_a_finite_flow_for_every_pixel(film: Path, missing: bool) -> None:
    with pytest.raises(DataError, match=r"flow\.wrong_by_test: gives a flow of the shape"):
        frames(film, Wrong(missing)).prepare_flow(progress=False)


# --- who follows whom ----------------------------------------------------------------------------


def test_successors() -> None:
    video = np.array([3, 3, 5, 3, -1, -1, 5, 3])
    frame = np.array([0, 2, 1, 1, 0, 1, -1, 1])
    assert successors(video, frame).tolist() == [3, -1, -1, 1, -1, -1, -1, 1]
    assert successors(video, frame, 2).tolist() == [1, -1, -1, -1, -1, -1, -1, -1]
    assert successors(video[:0], frame[:0]).tolist() == []


def test_a_frame_that_is_left_out_leaves_a_gap(tmp_path: Path) -> None:
    root = turning(tmp_path / "film", 5, MOTION)
    files = tuple(sorted(root.glob("*.png")))
    files[2].write_bytes(files[2].read_bytes()[:60])
    table = SplitTable(
        files,
        np.full(5, -1),
        np.zeros((5, 2), np.int64),
        clip=np.zeros(5, np.int64),
        frame=np.arange(5),
    )
    estimator = build(OpticalFlow, "dis")
    images = FrameTable(table, Preprocess(32), estimator, on_corrupt="skip")
    assert images.following is not None
    assert images.following.tolist() == [1, -1, 3, -1]
    images.prepare_flow(progress=False)
    assert [bool(images[i]["flow_visible"].any()) for i in range(4)] == [True, False, True, False]


# --- the disk ------------------------------------------------------------------------------------


def test_it_is_computed_once_and_again_when_something_changes(
    film: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counted.asked = 0
    images = frames(film, Counted())
    images.prepare_flow(progress=False)
    images.prepare_flow(progress=False)
    assert Counted.asked == 8
    again = frames(film, Counted())
    again.prepare_flow(progress=False)
    assert Counted.asked == 8
    for index in range(5):
        for key, value in images[index].items():
            np.testing.assert_array_equal(value, again[index][key])
    frames(film, Counted(0.5)).prepare_flow(progress=False)
    frames(film, Counted(), Preprocess(32)).prepare_flow(progress=False)
    frames(film, Counted(), frame=np.array([0, 1, 2, 3, 5])).prepare_flow(progress=False)
    assert Counted.asked == 8 + 8 + 8 + 6
    for where, name, value in ((Counted, "version", 7), (cv2, "__version__", "9.9.9")):
        monkeypatch.setattr(where, name, value)
        frames(film, Counted()).prepare_flow(progress=False)
    assert Counted.asked == 8 + 8 + 8 + 6 + 8 + 8
    assert len(list(cache.glob("counted_by_test-*.npy"))) == 6


def test_a_damaged_file_is_made_again(
    film: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames(film).prepare_flow(progress=False)
    (path,) = cache.glob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    images = frames(film)
    images.prepare_flow(progress=False)
    assert "it is made again" in caplog.text
    assert path.read_bytes() == whole
    assert images[0]["flow"].any()


def test_without_a_place_for_files_it_is_held_in_memory(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = frames(film)
    kept.prepare_flow(progress=False)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "file"))
    held = frames(film)
    held.prepare_flow(progress=False)
    assert "held in memory" in caplog.text
    copy = pickle.loads(pickle.dumps(held))
    np.testing.assert_array_equal(copy[2]["flow"], kept[2]["flow"])


def test_another_process_reads_the_same_file(film: Path) -> None:
    images = frames(film)
    images.prepare_flow(progress=False)
    images[0]
    sent = pickle.dumps(images)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent)[1]["flow"], images[1]["flow"])


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": "farneback", "window": 2}, "window 2"),
        ({"name": "farneback", "neighbourhood": 6}, "allowed: 5, 7"),
        ({"name": "dis", "resolution": 16}, "at least 32"),
        ({"name": "dis", "tolerance": 0.0}, "positive"),
        ({"name": "dis", "preset": "slow"}, "preset"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        build(OpticalFlow, settings)
