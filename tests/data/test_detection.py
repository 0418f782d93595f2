"""Detecting the keypoints of a whole split, once."""

import logging
import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from landmark_lab.data.detection import detect_keypoints
from landmark_lab.data.keypoints import Detections, KeypointTable
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, KeypointDetector
from landmark_lab.seeding import rng

COUNT = 150  # several portions


@dataclass(frozen=True, kw_only=True)
class Brightest(KeypointDetector, name="test_brightest"):
    """The pixels brighter than a level, and a random number.

    Args:
        level: grey value.
    """

    level: int = 200
    seen: ClassVar[list[int]] = []
    cure = "a lower 'level' finds more"

    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: NDArray[np.float32] | None = None,
        box: NDArray[np.float32] | None = None,
    ) -> Detections:
        self.seen.append(int(image.max()))
        y, x = np.nonzero(image[..., 0] > self.level)
        points = (np.stack([x, y], axis=1) + 0.5) / len(image) * 2 - 1
        scores = np.full(len(points), generator.random())
        return Detections(
            points.astype(np.float32), scores.astype(np.float32), image[y, x].astype(np.float32)
        )


class Drawing(Brightest, name="test_drawing"):
    """The same, which says that it uses random numbers."""

    draws = True


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))
    Brightest.seen.clear()
    return tmp_path / "cache" / "keypoints"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Image i has i % 4 bright pixels."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(COUNT):
        image = np.full((16, 16, 3), number % 50, np.uint8)
        for bright in range(number % 4):
            image[bright * 5, number % 16] = 255 - number % 50
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    return folder


def folder(path: Path, **settings: Any) -> ImageData:
    given = {"root": str(path), "val_fraction": 0.0, "test_fraction": 0.0, **settings}
    return build(ImageData, {"name": "folder", "preprocess": {"size": 16}, **given})


def detector(name: str = "test_brightest", **settings: Any) -> KeypointDetector:
    return build(KeypointDetector, {"name": name, **settings})


def same(one: KeypointTable, other: KeypointTable) -> bool:
    columns = ("image", "points", "scores", "descriptors")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in columns)


def test_the_table_holds_what_the_detector_finds_in_each_image(pictures: Path) -> None:
    data, one = folder(pictures), detector()
    table = detect_keypoints(data, "train", one, 3)
    images = data.images("train")
    assert table.images == COUNT
    assert table.counts().tolist() == [i % 4 for i in range(COUNT)]
    for index in (1, 70, 147):
        alone = one.detect(images[index]["image"], rng(3, "keypoints train", index))
        mine = table.image == index
        assert np.array_equal(table.points[mine], alone.points)
        assert np.array_equal(table.scores[mine], alone.scores)
        assert table.descriptors is not None
        assert np.array_equal(table.descriptors[mine], alone.descriptors)


def test_it_is_done_once(pictures: Path, cache: Path) -> None:
    first = detect_keypoints(folder(pictures), "train", detector(), 0)
    assert len(Brightest.seen) == COUNT
    again = detect_keypoints(folder(pictures), "train", detector(), 0)
    assert len(Brightest.seen) == COUNT
    assert same(first, again)
    assert len(list(cache.glob("*.npz"))) == 1


def touched(path: Path) -> None:
    image = path / "007.png"
    status = image.stat()
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda path: detect_keypoints(folder(path), "train", detector(level=180), 0),
        lambda path: detect_keypoints(
            folder(path, preprocess={"size": 16, "fill": 7}), "train", detector(), 0
        ),
        lambda path: detect_keypoints(folder(path, every=1), "train", detector("test_drawing"), 0),
        lambda path: detect_keypoints(folder(path), "train", detector(), 0, descriptors=False),
        lambda path: (touched(path), detect_keypoints(folder(path), "train", detector(), 0)),
        lambda path: (
            (path / "003.png").unlink(),
            detect_keypoints(folder(path), "train", detector(), 0),
        ),
    ],
    ids=["setting", "preprocess", "detector", "descriptors", "changed file", "fewer files"],
)
def test_whatever_matters_makes_another_file(pictures: Path, cache: Path, change: Any) -> None:
    detect_keypoints(folder(pictures), "train", detector(), 0)
    change(pictures)
    assert len(list(cache.glob("*.npz"))) == 2


@pytest.mark.parametrize(("attribute", "value"), [("version", 2), ("content", "other weights")])
def test_what_the_settings_do_not_say_makes_another_file(
    pictures: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any
) -> None:
    detect_keypoints(folder(pictures), "train", detector(), 0)
    monkeypatch.setattr(Brightest, attribute, value)
    detect_keypoints(folder(pictures), "train", detector(), 0)
    assert len(list(cache.glob("*.npz"))) == 2


def test_splits_draw_for_themselves(pictures: Path, cache: Path) -> None:
    def found(split: Any) -> KeypointTable:
        data = folder(pictures, val_fraction=0.5)
        return detect_keypoints(data, split, detector("test_drawing"), 0)

    found("train")
    found("val")
    assert len(list(cache.glob("*.npz"))) == 2


@pytest.mark.parametrize("name", ["sift", "orb", "superpoint"])
def test_another_release_of_the_library_is_another_detector(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = detector(name).content
    monkeypatch.setattr(cv2, "__version__", "9.9.9")
    assert detector(name).content != before


@pytest.mark.parametrize(("name", "files"), [("test_brightest", 1), ("test_drawing", 2)])
def test_the_seed_matters_where_the_detector_draws(
    pictures: Path, cache: Path, name: str, files: int
) -> None:
    for seed in (0, 1):
        detect_keypoints(folder(pictures), "train", detector(name), seed)
    assert len(list(cache.glob("*.npz"))) == files


def test_drawn_images_are_known_by_their_pixels(cache: Path) -> None:
    def faces(seed: int) -> ImageData:
        numbers = {"train": 3, "val": 2, "test": 0}
        return build(ImageData, {"name": "toy_faces", "size": 32, "seed": seed, **numbers})

    for seed in (0, 0, 1):
        detect_keypoints(faces(seed), "train", detector("grid"), 0)
    assert len(list(cache.glob("*.npz"))) == 2
    with pytest.raises(DataError, match="no images in the split 'test'"):
        detect_keypoints(faces(0), "test", detector("grid"), 0)


def test_descriptors_are_left_out_if_asked(pictures: Path) -> None:
    table = detect_keypoints(folder(pictures), "train", detector(), 0, descriptors=False)
    assert table.descriptors is None
    assert len(table) > 0


def test_a_damaged_file_is_made_again(
    pictures: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = detect_keypoints(folder(pictures), "train", detector(), 0)
    (path,) = cache.glob("*.npz")
    for content in (b"", path.read_bytes()[:1000]):
        path.write_bytes(content)
        assert same(detect_keypoints(folder(pictures), "train", detector(), 0), first)
        assert "is no keypoint table" in caplog.text
        assert "it is made again" in caplog.text
        caplog.clear()
    assert same(KeypointTable.load(path), first)


def test_without_a_place_for_files_it_works_and_says_so(
    pictures: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert len(detect_keypoints(folder(pictures), "train", detector(), 0)) > 0
    assert "keypoints are not kept" in caplog.text


def test_images_without_keypoints_are_counted_and_named(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # also when it is read
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            detect_keypoints(folder(pictures), "train", detector(), 0)
        (record,) = caplog.records
        assert "test_brightest: no keypoint was found in 38 of 150 images" in record.getMessage()
        assert "000.png" in record.getMessage()
        assert record.getMessage().endswith("016.png, ...")


def test_nothing_at_all_is_an_error_that_says_what_to_change(pictures: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"in any of the 150 images; a lower 'level' finds more"):
        detect_keypoints(folder(pictures), "train", detector(level=255), 0)
    assert not list(cache.glob("*.npz"))


def test_a_detector_that_needs_points_refuses_data_without(pictures: Path) -> None:
    with pytest.raises(ConfigError, match="'mixture' needs points, which the data 'folder' does"):
        detect_keypoints(folder(pictures), "train", detector("mixture"), 0)


def test_points_and_boxes_reach_the_detector() -> None:
    faces = build(ImageData, {"name": "toy_faces", "size": 32, "train": 5, "val": 0, "test": 0})
    one = detector("mixture", share=1.0, displacement=0.0, fewest=12, most=12)
    table = detect_keypoints(faces, "train", one, 0)
    for index in range(5):
        points = torch.from_numpy(faces.images("train")[index]["points"]).float()
        mine = table.points[table.image == index]
        assert torch.cdist(mine, points).amin(1).max() < 1e-5


def test_of_several_processes_one_detects_and_the_others_read(pictures: Path, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    together, outcomes = context.Barrier(3), context.SimpleQueue()

    def work() -> None:
        together.wait(60)
        table = detect_keypoints(folder(pictures), "train", detector(), 0)
        outcomes.put((len(Brightest.seen), len(table)))

    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    found = [outcomes.get() for _ in processes]
    assert sorted(seen for seen, _ in found) == [0, 0, COUNT]
    assert len({rows for _, rows in found}) == 1
    assert len(list(cache.glob("*.npz"))) == 1
