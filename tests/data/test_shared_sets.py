"""Every real data set is read, and its points sit inside its images.

That they sit on the right places was checked by eye, on contact sheets.
"""

import cv2
import numpy as np
import pytest

from landmark_lab.data.preprocess import Preprocess
from landmark_lab_plugins.data.folder import Folder

THREE = {"train": "train.json", "val": "val.json", "test": "test.json"}
TWO = {"train": "train.json", "test": "test.json"}
FILM = {"annotations": {"test": "CollectedData.csv"}, "pattern": "videos/*.mp4", "every": 50}
SETS = {
    "faces": ({"annotations": THREE}, (2640, 377, 481), 68, (36, 45)),
    "fly": ({"annotations": TWO}, (70, 0, 30), 32, (0, 5)),
    "wings": ({"annotations": TWO}, (40, 0, 18), 12, None),
    "mouse": (FILM, (20, 0, 90), 17, None),
    "openfield": ({"annotations": "CollectedData.csv"}, (92, 12, 12), 4, None),
    "cats": ({"annotations": "."}, (20, 2, 2), 9, (0, 1)),
}


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read(shared_data, name):
    settings, counts, points, normaliser = SETS[name]
    data = Folder(str(shared_data / name), preprocess=Preprocess(64), **settings)
    assert tuple(len(data.images(split)) for split in ("train", "val", "test")) == counts
    assert len(data.point_names) == points
    assert data.normaliser == normaliser
    data.check_annotation()
    images = data.images("test")
    for i in range(0, len(images), 7):
        row = images[i]
        assert row["image"].shape == (64, 64, 3)
        assert row["image"].std() > 5
        original = images.table.points[i]
        back = images.placement(i).to_original(row["points"])
        np.testing.assert_allclose(back, original, atol=2e-3)
        inside = np.abs(row["points"][row["visible"]]) <= 1
        assert inside.mean() > 0.9


def test_no_person_is_in_two_splits_of_the_faces(shared_data):
    data = Folder(str(shared_data / "faces"), THREE)
    people = [set(data.images(split).identity.tolist()) for split in ("train", "val", "test")]
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]
    assert data.provides >= {"points", "visible", "box", "identity", "frame"}


def test_the_mouse_has_missing_points(shared_data):
    data = Folder(str(shared_data / "mouse"), "CollectedData.csv", val_fraction=0, test_fraction=0)
    table = data.images("train").table
    assert np.isnan(table.points).any(axis=2).mean() == pytest.approx(0.0876, abs=1e-4)
    assert (table.visible == ~np.isnan(table.points).any(axis=2)).all()
    assert table.frame[:3].tolist() == [1, 2, 3]


def test_frames_of_the_mouse_video_are_those_of_a_straight_reading(shared_data):
    path = shared_data / "mouse" / "videos" / "test_vid.mp4"
    settings = {"pattern": "videos/*.mp4", "every": 97, "val_fraction": 0, "test_fraction": 0}
    images = Folder(str(shared_data / "mouse"), **settings, cache_mb=0).images("train")
    capture, wanted = cv2.VideoCapture(str(path)), {}
    for frame in range(994):
        found, picture = capture.read()
        assert found
        if frame % 97 == 0:
            wanted[frame] = picture[:, :, ::-1]
    for i in reversed(range(len(images))):  # backwards: every frame is jumped to
        np.testing.assert_array_equal(images.original(i), wanted[images.table.frame[i]])


def test_the_eye_corners_of_mirrored_faces_change_places(shared_data):
    """The given permutation is right: in mirrored coordinates it lowers the distance of shapes."""
    data = Folder(str(shared_data / "faces"), {"test": "test.json"}, pattern="images/a_A*.jpg")
    points = data.images("test").table.points
    mean = (points - points.mean(axis=1, keepdims=True)).mean(axis=0)
    mirrored = mean * [-1, 1]
    assert np.abs(mirrored[list(data.flip)] - mean).max() < 6
    assert np.abs(mirrored - mean).max() > 40
