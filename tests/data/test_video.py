"""Frames of videos."""

import os
import pickle

import cv2
import numpy as np
import pytest

from landmark_lab.data.video import VideoReader, frame_count, frame_size
from landmark_lab.errors import DataError


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of 120 frames, in which frame i is grey of level 2 i."""
    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for i in range(120):
        writer.write(np.full((48, 64, 3), 2 * i, np.uint8))
    writer.release()
    return path


def level(image):
    return round(float(image[:, :, 1].mean()) / 2)  # the codec keeps green best


def test_frames_in_any_order(film):
    reader = VideoReader()
    for frame in (0, 1, 2, 50, 119, 3, 3, 4, 60, 119, 0):
        image = reader.read(film, frame)
        assert image.shape == (48, 64, 3)
        assert level(image) == frame
    reader.close()
    assert level(reader.read(film, 9)) == 9


def test_count_and_size(film):
    assert frame_count(film) == 120
    assert frame_size(film) == (64, 48)


def test_colours_are_in_the_order_red_green_blue(tmp_path):
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (32, 32))
    writer.write(np.full((32, 32, 3), (0, 0, 255), np.uint8))
    writer.release()
    red, green, blue = VideoReader().read(path, 0).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(green, blue) < 60


def test_many_files_at_once(film, tmp_path):
    paths = []
    for i in range(6):
        paths.append(tmp_path / f"{i}.avi")
        paths[-1].write_bytes(film.read_bytes())
    reader = VideoReader()
    for frame in range(3):
        for path in paths:
            assert level(reader.read(path, frame)) == frame


def test_a_reader_may_be_sent_to_another_process(film):
    reader = VideoReader()
    reader.read(film, 5)
    assert level(pickle.loads(pickle.dumps(reader)).read(film, 5)) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_disturb_its_parent(film):
    reader = VideoReader()
    reader.read(film, 5)
    child = os.fork()
    if child == 0:
        right = [level(reader.read(film, frame)) == frame for frame in (6, 7, 80)]
        os._exit(0 if all(right) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert level(reader.read(film, 6)) == 6


def test_errors(film, tmp_path):
    with pytest.raises(DataError, match="frame 120 cannot be read"):
        VideoReader().read(film, 120)
    with pytest.raises(DataError, match="no such video"):
        frame_count(tmp_path / "none.mp4")
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    with pytest.raises(DataError, match=r"bad\.mp4: is not a readable video"):
        frame_count(tmp_path / "bad.mp4")
