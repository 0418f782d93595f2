"""The robot arm: physics that holds together, motions kept on the disk, occlusion between arms."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from landmark_lab.errors import MissingDependencyError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData
from landmark_lab.seeding import rng
from landmark_lab_plugins.data import roboarm
from landmark_lab_plugins.data.roboarm import ANCHOR, LINKS, PAIR_SCALE, Capsules, Roboarm, simulate
from landmark_lab_plugins.worlds.motions import cache_folder, remembered

MOMENTS = 120
Motion = NDArray[np.float64]


@pytest.fixture(scope="module")
def motion() -> Motion:
    return simulate(1, MOMENTS, rng(0, "test"))


@pytest.fixture(scope="module")
def pair() -> Motion:
    return simulate(2, MOMENTS, rng(1, "test"))


def ends(motion: Motion, scale: float, along: float) -> Motion:
    """The end of each capsule's axis, (moments, 2, K): along = -1 where it begins, 1 where not."""
    half = scale / 2 * np.array([link.length for link in LINKS])
    angle = motion[:, 2]
    return motion[:, :2] + along * half * np.stack([np.cos(angle), np.sin(angle)], axis=1)


# --- the physics ---------------------------------------------------------------------------------


def test_the_capsules_hang_together_within_their_limits(motion: Motion, pair: Motion) -> None:
    count = len(LINKS)
    for state, scale, side in (
        (motion, 1.0, 1.0),
        (pair[:, :, :count], PAIR_SCALE, 1.0),
        (pair[:, :, count:], PAIR_SCALE, -1.0),
    ):
        begin, end = ends(state, scale, -1), ends(state, scale, 1)
        for number, link in enumerate(LINKS):
            if link.parent < 0:
                joint = np.array([side * ANCHOR[0], ANCHOR[1]])[None]
            else:
                joint = end[:, :, link.parent]
                turn = side * (state[:, 2, number] - state[:, 2, link.parent])
                assert (turn > link.low - 0.15).all()
                assert (turn < link.high + 0.15).all()
            gap = np.linalg.norm(begin[:, :, number] - joint, axis=1)
            assert gap.max() * 45 < 0.7  # pixels
        assert (np.abs(state[:, :2]) < 1).all()


def test_the_arm_moves_a_few_pixels_a_frame_and_everywhere(motion: Motion) -> None:
    step = np.linalg.norm(np.diff(motion[:, :2], axis=0), axis=1) * 45
    assert 1 < step.mean() < 5
    assert step.max() < 30
    tip = motion[:, :2, -1]
    assert (np.ptp(tip, axis=0) > 0.8).all()


def test_the_same_draws_give_the_same_motion(motion: Motion) -> None:
    assert np.array_equal(motion[:30], simulate(1, 30, rng(0, "test")))
    assert not np.allclose(motion[:30], simulate(1, 30, rng(2, "test")))


def test_the_arms_are_mirror_images() -> None:
    class Down:  # gravity that does not tell left from right
        def normal(self, mean: float, deviation: float, count: int) -> NDArray[np.float64]:
            return np.array([0.0, -deviation])

    generator: Any = Down()
    motion = simulate(2, 10, generator)
    left, right = motion[:, :, : len(LINKS)], motion[:, :, len(LINKS) :]
    assert np.allclose(left[:, 0], -right[:, 0], atol=1e-3)
    assert np.allclose(left[:, 1], right[:, 1], atol=1e-3)
    assert np.allclose(np.sin(left[:, 2]), np.sin(right[:, 2]), atol=1e-3)
    assert np.allclose(np.cos(left[:, 2]), -np.cos(right[:, 2]), atol=1e-3)
    data = Roboarm(arms=2)
    assert data.flip is not None
    for name, partner in zip(data.point_names, data.flip, strict=True):
        swapped = {"left": "right", "right": "left"}
        expected = "_".join(swapped.get(word, word) for word in name.split("_"))
        assert data.point_names[partner] == expected
    assert Roboarm().flip is None


def test_nothing_is_seen_behind_what_is_drawn_later() -> None:
    scene = Capsules(90, 1, 2, 0, None)
    size = len(LINKS)
    # All capsules at rest upon one another: only the last one's centre is seen.
    stack = roboarm.Moment(np.zeros((2, size), np.float32), np.zeros(size, np.float32))
    drawing = scene.draw(stack, stack)
    assert drawing.visible.tolist() == [False] * (size - 1) + [True]
    # The last one leaves: what it covered in the middle appears, but has no flow from there.
    away = roboarm.Moment(stack.centre.copy(), stack.angle)
    away.centre[1, -1] = 0.6
    drawing = scene.draw(stack, away)
    assert drawing.flow[1, 45, 45] == pytest.approx(0.6)
    assert drawing.flow_visible[45, 45]
    assert not drawing.flow_visible[72, 45]  # background that it comes to lie on
    assert drawing.flow_visible[10, 10]
    # It comes back: what it covers then is not seen in the next frame.
    drawing = scene.draw(away, stack)
    assert (drawing.flow[:, 45, 45] == 0).all()
    assert not drawing.flow_visible[45, 45]
    assert drawing.flow_visible[72, 45]


# --- the cache -----------------------------------------------------------------------------------


def arm(cache: Path, **settings: Any) -> Roboarm:
    small = {"size": 16, "frames": 3, "train": 2, "val": 0, "test": 0}
    made = build(ImageData, {"name": "roboarm", "cache": str(cache), **small, **settings})
    assert isinstance(made, Roboarm)
    return made


def test_a_motion_is_simulated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = arm(tmp_path).images("train")[1]
    assert len(list(tmp_path.iterdir())) == 1

    def refuse(*arguments: object) -> Motion:
        raise AssertionError("simulated again")

    monkeypatch.setattr(roboarm, "simulate", refuse)
    assert np.array_equal(arm(tmp_path).images("train")[1]["image"], first["image"])
    assert arm(tmp_path, size=20).images("train")[1]["image"].shape == (20, 20, 3)
    for other in ({"seed": 1}, {"arms": 2}, {"frames": 4}):
        with pytest.raises(AssertionError, match="again"):
            arm(tmp_path, **other).images("train")[1]


def test_a_damaged_motion_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = arm(tmp_path).images("train")[1]
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"not an archive"):
        file.write_bytes(damage)
        with caplog.at_level(logging.WARNING):
            assert np.array_equal(arm(tmp_path).images("train")[1]["image"], first["image"])
        assert str(file) in caplog.text
        assert file.read_bytes() == whole
        caplog.clear()


def test_a_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert arm(tmp_path / "file").images("train")[0]["image"].shape == (16, 16, 3)
    assert "not kept" in caplog.text


def test_several_may_make_the_same_motion_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(
                lambda k: remembered(tmp_path, "test", {"k": 0}, lambda: np.full((50, 3), 7.0)),
                range(40),
            )
        )
    assert all((motion == 7).all() for motion in found)
    (file,) = tmp_path.iterdir()
    with np.load(file, allow_pickle=False) as content:
        assert (content["motion"] == 7).all()


def test_the_cache_is_where_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("LANDMARK_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/landmark-lab")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "landmark-lab"


def test_without_the_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymunk", None)
    data = arm(tmp_path)
    images = data.images("train")
    with pytest.raises(MissingDependencyError, match="pip install 'pymunk'"):
        images[0]
