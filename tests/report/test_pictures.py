"""Pictures of a report: sharper than the method's images, and still the same."""

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from landmark_lab.errors import DataError
from landmark_lab.report.pictures import data_uri, sharp, sharpness, shrink


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    pixels = np.frombuffer(base64.b64decode(content), np.uint8)
    return cv2.imdecode(pixels, cv2.IMREAD_COLOR_RGB)


def test_a_data_uri_holds_the_image_in_its_colours() -> None:
    image = np.zeros((32, 48, 3), np.uint8)
    image[:, :24] = (200, 100, 0)
    back = decoded(data_uri(image))
    assert back.shape == image.shape
    np.testing.assert_allclose(back[16, 8], (200, 100, 0), atol=4)
    np.testing.assert_allclose(back[16, 40], 0, atol=4)


def test_drawn_images_are_drawn_larger_with_the_same_points() -> None:
    found = sharp({"name": "toy_faces", "size": 32})
    assert (found.data.size, found.size) == (160, 32)
    small = sharp({"name": "toy_faces", "size": 160}).data.images("test")[3]
    large = found.data.images("test")[3]
    np.testing.assert_array_equal(large["image"], small["image"])
    np.testing.assert_array_equal(large["points"], small["points"])


def test_files_are_read_larger(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    for name in "abcdefghij":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.tile(ramp, (300, 1)))
    spec = {"name": "folder", "root": str(tmp_path), "preprocess": {"size": 40}}
    found = sharp(spec)
    assert (found.data.size, found.size) == (160, 40)
    image = found.data.images("train")[0]["image"]
    assert image.shape == (160, 160, 3)
    assert shrink(image, 40).shape == (40, 40, 3)


def test_images_that_are_large_enough_are_taken_as_they_are() -> None:
    assert sharp({"name": "toy_faces", "size": 161}).data.size == 161


def test_data_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        sharp({"name": "folder", "root": str(tmp_path / "gone")})


def test_detail_is_sharp() -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    assert sharpness(image) > 2 * sharpness(cv2.GaussianBlur(image, (0, 0), 1))
