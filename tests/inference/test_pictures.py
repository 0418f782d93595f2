"""Points on images and videos."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from landmark_lab.data.video import VideoReader, frame_count, frame_size
from landmark_lab.errors import RunError
from landmark_lab.figures import point_colour
from landmark_lab.files import read_image
from landmark_lab.inference.inputs import Frame, Source, find_sources
from landmark_lab.inference.pictures import Pictures, annotate
from tests.inference.world import dots, save_image, save_video

SURE = np.array([True, True, True])


def drawn(folder: Path, files: list[Path], every: int = 1) -> None:
    sources = find_sources([str(file) for file in files])
    reader = VideoReader()
    with Pictures(folder, sources, every=every) as pictures:
        for source in sources:
            if source.is_video:
                for number in range(0, source.frames, every):
                    image = reader.read(source.path, number)
                    pictures.add(Frame(source, number, image), dots(number)[1], np.ones(3))
            else:
                pictures.add(Frame(source, -1, read_image(source.path)), dots(0)[1], np.ones(3))


def test_points_stand_where_they_are_in_their_colours() -> None:
    image, places = dots(0, (400, 330))
    picture = annotate(image, places, SURE, ())
    assert picture.shape == (330, 400, 3)
    for number, (x, y) in enumerate(places):
        assert tuple(picture[round(y), round(x)]) == point_colour(number)
    missing = annotate(image, np.full((3, 2), np.nan), SURE, ())
    np.testing.assert_array_equal(missing, image)


def test_unsure_points_are_rings() -> None:
    image, places = dots(0, (400, 330))
    picture = annotate(image, places, ~SURE, ())
    x, y = places[0]
    assert tuple(picture[round(y), round(x)]) != point_colour(0)


def test_small_images_are_enlarged_with_their_points() -> None:
    image, places = dots(0, (41, 31))
    picture = annotate(image, places, SURE, ())
    factor = 11  # the shorter side reaches 320 pixels
    assert picture.shape == (31 * factor + 1, 41 * factor + 1, 3)  # even, as videos need
    for number, (x, y) in enumerate((places + 0.5) * factor - 0.5):
        assert tuple(picture[round(y), round(x)]) == point_colour(number)


def test_images_lie_as_the_originals_do(tmp_path: Path) -> None:
    files = [save_image(tmp_path / "in" / name, dots(0)[0]) for name in ("a/1.png", "b/1.jpg")]
    drawn(tmp_path / "out", files)
    assert read_image(tmp_path / "out" / "a" / "1.png").shape == (360, 480, 3)
    assert (tmp_path / "out" / "b" / "1.jpg").is_file()


def test_a_video_has_every_frame_and_the_speed_of_the_original(tmp_path: Path) -> None:
    film = save_video(tmp_path / "film.avi", [dots(n, (400, 330))[0] for n in range(9)], rate=24)
    other = save_video(tmp_path / "other.mp4", [dots(n, (400, 330))[0] for n in range(2)])
    drawn(tmp_path / "out", [film, other], every=2)
    result = tmp_path / "out" / "film.mp4"
    assert frame_count(result) == 5
    assert frame_size(result) == (400, 330)
    assert cv2.VideoCapture(str(result)).get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    assert frame_count(tmp_path / "out" / "other.mp4") == 1
    image = VideoReader().read(result, 2)
    for number, (x, y) in enumerate(dots(4)[1]):
        colour = image[round(y), round(x)].astype(int)
        assert np.abs(colour - point_colour(number)).max() < 90  # compressed


def test_a_failure_leaves_no_video(tmp_path: Path) -> None:
    film = save_video(tmp_path / "film.mp4", [dots(0)[0]] * 3)
    source = Source(film)

    def broken() -> None:
        with Pictures(tmp_path / "out", [source]) as pictures:
            pictures.add(Frame(source, 0, dots(0)[0]), dots(0)[1], np.ones(3))
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        broken()
    assert [file for file in (tmp_path / "out").rglob("*") if file.is_file()] == []


def test_no_encoder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = save_video(tmp_path / "film.mp4", [dots(0)[0]])
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *code: 0x21212121)
    with pytest.raises(RunError, match="cannot write MPEG-4 videos; --no-draw"):
        drawn(tmp_path / "out", [film])
