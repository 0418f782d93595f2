"""What the user names becomes a stream of frames."""

from pathlib import Path

import numpy as np
import pytest

from landmark_lab.errors import DataError
from landmark_lab.inference.inputs import Source, expected_frames, find_sources, frames
from tests.inference.world import dots, save_image, save_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one in a folder below; a video; a text; something hidden."""
    for name in ("b.png", "deep/a.JPG", ".cache/c.png"):
        save_image(tmp_path / "in" / name, dots(0)[0])
    save_video(tmp_path / "in" / "film.mp4", [dots(seed)[0] for seed in range(7)])
    (tmp_path / "in" / "notes.txt").write_text("hello")
    return tmp_path / "in"


def found(*given: str | Path) -> list[str]:
    return [source.path.name for source in find_sources([str(text) for text in given])]


def test_files_folders_and_patterns_in_order_and_once(folder: Path) -> None:
    assert found(folder) == ["b.png", "a.JPG", "film.mp4"]
    assert found(folder / "film.mp4", folder) == ["film.mp4", "b.png", "a.JPG"]
    assert found(folder / "*.png", folder / "b.png") == ["b.png"]
    assert found(folder / "**" / "*") == ["b.png", "a.JPG", "film.mp4"]


def test_a_file_that_exists_is_no_pattern(tmp_path: Path) -> None:
    save_image(tmp_path / "a[1].png", dots(0)[0])
    assert found(tmp_path / "a[1].png") == ["a[1].png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.png", "there is no such file or folder"),
        ("in/notes.txt", "is neither an image nor a video; allowed: files ending in .avi"),
        ("in/*.gif", "matches no image or video"),
        ("in/.cache/empty", "holds no images or videos"),
    ],
)
def test_nothing_to_predict_is_said(
    folder: Path, given: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".cache" / "empty").mkdir()
    monkeypatch.chdir(folder.parent)
    with pytest.raises(DataError, match=message):
        find_sources([given])


def test_two_videos_of_one_name_are_refused(folder: Path) -> None:
    save_video(folder / "deep" / "film.avi", [dots(0)[0]])
    with pytest.raises(DataError, match=r"deep/film\.avi: has the same name as .*film\.mp4|film"):
        find_sources([str(folder)])


def test_frames_come_in_order_with_deeplabcuts_names(folder: Path) -> None:
    problems: list[str] = []
    stream = list(frames(find_sources([str(folder)]), 3, problems.append))
    assert [frame.number for frame in stream] == [-1, -1, 0, 3, 6]
    assert stream[0].name == (folder / "b.png").as_posix()
    assert stream[3].name == "labeled-data/film/img3.png"
    np.testing.assert_array_equal(stream[0].image, dots(0)[0])
    off = [np.abs(stream[3].image.astype(int) - dots(seed)[0]).mean() for seed in range(7)]
    assert int(np.argmin(off)) == 3
    assert problems == []
    assert expected_frames(find_sources([str(folder)]), 3) == 5


def test_what_cannot_be_read_is_named_and_left_out(folder: Path) -> None:
    (folder / "b.png").write_bytes(b"no image")
    save_image(folder / "c.png", np.zeros((5, 40, 3), np.uint8))
    (folder / "broken.mp4").write_bytes(b"no film")
    problems: list[str] = []
    sources = find_sources([str(folder)])
    stream = list(frames(sources, 1, problems.append))
    assert len(stream) == 1 + 7
    assert expected_frames(sources, 1) == 1 + 1 + 1 + 7
    assert "b.png: is not a readable image" in problems[0]
    assert "broken.mp4: is not a readable video" in problems[1]
    assert "c.png: is too small (40 x 5 pixels)" in problems[2]


def test_a_film_that_breaks_off_gives_what_came_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("landmark_lab.inference.inputs.frame_count", lambda path: 9)
    problems: list[str] = []
    stream = list(frames([Source(folder / "film.mp4")], 1, problems.append))
    assert len(stream) == 7
    assert "frame 7 of 9 cannot be read, nor what follows" in problems[0]
