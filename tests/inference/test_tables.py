"""Predicted points as files, read back by our own readers."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from landmark_lab.data.annotations import read
from landmark_lab.inference.inputs import Frame, Source
from landmark_lab.inference.tables import HEADER, TABLES

NAMES = ("nose", "tail, tip")


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Frame]:
    """An image and three frames of a film of twelve."""
    monkeypatch.setattr("landmark_lab.inference.inputs.frame_count", lambda path: 12)
    picture, film = Source(Path("cats/a.png")), Source(Path("films/run.mp4"))
    image = np.zeros((30, 40, 3), np.uint8)
    return [Frame(picture, -1, image), *(Frame(film, number, image) for number in (0, 5, 10))]


def write(folder: Path, name: str, stream: list[Frame]) -> tuple[np.ndarray, np.ndarray]:
    """Write made-up points of which one is missing; returns points and scores."""
    generator = np.random.default_rng(0)
    points = generator.uniform(-5, 50, (len(stream), 2, 2))
    score = generator.uniform(0.1, 1, (len(stream), 2))
    points[1, 0], score[1, 0] = np.nan, 0
    with TABLES[name](folder, NAMES, [(0, 1)]) as add:
        for frame, own, certain in zip(stream, points, score, strict=True):
            add(frame, own, certain)
            assert not list(folder.glob("[a-z]*.[cj]s*"))  # nothing appears before it is complete
    return points, score


def test_the_table_has_a_row_for_each_point(tmp_path: Path, stream: list[Frame]) -> None:
    points, score = write(tmp_path, "csv", stream)
    with (tmp_path / "points.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == HEADER
    assert [row[:3] for row in rows[1:4]] == [
        ["cats/a.png", "", "tail, tip"],
        ["films/run.mp4", "0", "nose"],
        ["films/run.mp4", "0", "tail, tip"],
    ]
    assert rows[2][3:] == ["", "", "0.0000"]
    values = np.array([[float(cell or "nan") for cell in row[3:]] for row in rows])
    np.testing.assert_allclose(values[:, :2], points.reshape(-1, 2), atol=5e-4)
    np.testing.assert_allclose(values[:, 2], score.ravel(), atol=5e-5)


def test_coco_is_read_back(tmp_path: Path, stream: list[Frame]) -> None:
    points, score = write(tmp_path, "coco", stream)
    back = read(tmp_path / "coco.json")
    assert back.names == NAMES
    assert back.skeleton == ((0, 1),)
    assert back.images[0] == "cats/a.png"
    assert back.images[2] == "labeled-data/run/img05.png"
    assert back.clip == ("", *["films/run.mp4"] * 3)
    assert back.frame is not None
    assert back.frame.tolist() == [-1, 0, 5, 10]
    assert back.size is not None
    assert back.size[0].tolist() == [40, 30]
    np.testing.assert_allclose(back.points, points, atol=5e-4)
    np.testing.assert_array_equal(back.visible, ~np.isnan(points).any(-1))
    annotation = json.loads((tmp_path / "coco.json").read_text())["annotations"][1]
    assert annotation["keypoints"][:3] == [0, 0, 0]
    assert annotation["num_keypoints"] == 1
    np.testing.assert_allclose(annotation["keypoint_scores"], score[1], atol=5e-5)


def test_deeplabcut_is_read_back(tmp_path: Path, stream: list[Frame]) -> None:
    points, score = write(tmp_path, "deeplabcut", stream)
    back = read(tmp_path / "deeplabcut.csv")
    assert back.names == NAMES
    assert back.images == tuple(frame.name for frame in stream)
    assert back.clip is not None
    assert back.clip[1] == "run"
    assert back.frame is not None
    assert back.frame.tolist()[1:] == [0, 5, 10]
    np.testing.assert_allclose(back.points, points, atol=5e-4)
    # A film's own file has the form in which DeepLabCut writes what it finds.
    with (tmp_path / "deeplabcut" / "run.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["scorer", "bodyparts", "coords", "0", "5", "10"]
    assert rows[2][1:] == ["x", "y", "likelihood"] * 2
    assert rows[3][1:4] == ["", "", "0.0000"]
    assert float(rows[4][6]) == pytest.approx(score[2, 1], abs=5e-5)


def test_films_follow_one_another(tmp_path: Path, stream: list[Frame]) -> None:
    other = [Frame(Source(Path("films/swim.avi")), n, stream[0].image) for n in (0, 1)]
    write(tmp_path, "deeplabcut", [*stream, *other])
    lines = (tmp_path / "deeplabcut" / "swim.csv").read_text().splitlines()
    assert len(lines) == 3 + 2
    assert len((tmp_path / "deeplabcut" / "run.csv").read_text().splitlines()) == 3 + 3


@pytest.mark.parametrize("name", TABLES)
def test_without_images_the_file_is_whole(tmp_path: Path, name: str) -> None:
    with TABLES[name](tmp_path, NAMES, []):
        pass
    (file,) = tmp_path.iterdir()
    if name == "coco":
        assert json.loads(file.read_text())["annotations"] == []
    else:
        assert len(file.read_text().splitlines()) == {"csv": 1, "deeplabcut": 3}[name]


@pytest.mark.parametrize("name", TABLES)
def test_an_error_leaves_nothing_half_written(
    tmp_path: Path, name: str, stream: list[Frame]
) -> None:
    def broken() -> None:
        with TABLES[name](tmp_path, NAMES, []) as add:
            add(stream[1], np.zeros((2, 2)), np.ones(2))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        broken()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
