"""Making images square, and finding the way back."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from landmark_lab.data.preprocess import Preprocess
from landmark_lab.errors import DataError
from landmark_lab.plugin import check_parameters

FITS = ("letterbox", "squash", "crop")


def blob(width, height, x, y, radius):
    """A bright Gaussian spot at (x, y) pixels of a black image."""
    across = np.exp(-((np.arange(width) - x) ** 2) / (2 * radius**2))
    down = np.exp(-((np.arange(height) - y) ** 2) / (2 * radius**2))
    grey = np.rint(255 * down[:, None] * across).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def centre_of_mass(image):
    weight = image[:, :, 0].astype(float)
    y, x = np.mgrid[: len(image), : len(image)]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def pixels(points, size):
    """The convention, written out: points in [-1, 1] to pixels of the square."""
    return (points + 1) * size / 2 - 0.5


@pytest.mark.parametrize("size", [32, 63, 128])
@pytest.mark.parametrize(
    ("width", "height"), [(200, 200), (201, 133), (97, 160), (40, 30), (31, 48), (300, 40)]
)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("boxed", [False, True])
def test_a_blob_is_where_the_mapped_point_says(size, width, height, fit, boxed):
    reach = 0.25 * min(width, height)
    point = np.array([0.5 * width - 0.2 * reach, 0.5 * height + 0.17 * reach])
    box = np.concatenate([point - 1.1 * reach, point + np.array([1.3, 0.9]) * reach])
    settings = Preprocess(size, fit, box_margin=0.1 if boxed else None)
    # Wide enough to survive the shrinking, narrow enough to lie inside.
    image = blob(width, height, *point, radius=reach / 3.5)
    square, placement = settings(image, box)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    expected = pixels(placement.to_square(point), size)
    np.testing.assert_allclose(centre_of_mass(square), expected, atol=0.1)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(FITS),
    st.integers(8, 300),
    st.integers(8, 2000),
    st.integers(8, 2000),
    st.none() | st.tuples(*[st.floats(0, 1)] * 4),
    st.floats(0, 1),
)
def test_points_come_back_exactly(fit, size, width, height, corners, margin):
    settings = Preprocess(size, fit, box_margin=None if corners is None else margin)
    box = None
    if corners is not None:
        x, y = sorted(corners[:2]), sorted(corners[2:])
        box = np.array([x[0] * width, y[0] * height, x[1] * width + 1, y[1] * height + 1]) - 0.5
    placement = settings.place(width, height, box)
    points = np.array([[0, 0], [width - 1, height - 1], [-3.5, 2 * height], [np.nan, np.nan]])
    there = placement.to_square(points)
    np.testing.assert_allclose(placement.to_original(there), points, atol=1e-6)
    np.testing.assert_allclose(
        placement.to_original(there.astype(np.float32)), points, atol=2e-3 * max(width, height)
    )


@pytest.mark.parametrize("fit", FITS)
def test_edges_map_to_edges(fit):
    placement = Preprocess(64, fit).place(300, 200)
    corners = placement.to_square(np.array([[-0.5, -0.5], [299.5, 199.5]]))
    if fit == "squash":
        np.testing.assert_allclose(corners, [[-1, -1], [1, 1]])
    if fit == "letterbox":
        assert corners[:, 0] == pytest.approx([-1, 1])
        assert corners[:, 1] == pytest.approx([-43 / 64, 43 / 64], abs=1 / 64)
    if fit == "crop":
        assert corners[:, 1] == pytest.approx([-1, 1])
        assert corners[:, 0] == pytest.approx([-1.5, 1.5])


def test_a_square_image_of_the_right_size_is_left_alone():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for fit in FITS:
        square, placement = Preprocess(64, fit)(image)
        np.testing.assert_array_equal(square, image)
        np.testing.assert_allclose(placement.to_square(np.array([31.5, 31.5])), 0, atol=1e-12)


def test_shrinking_averages():
    """A fine chequerboard becomes grey, also where the other side grows."""
    board = (np.indices((320, 40)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[:, :, None], 3, axis=2)
    for fit in FITS:
        square, _ = Preprocess(16, fit)(image)
        middle = square[:, 7:9] if fit == "letterbox" else square
        assert np.abs(middle.astype(int) - 127).max() <= 16, fit


@pytest.mark.parametrize("fill", [7, (10, 20, 30), "edge"])
def test_what_lies_outside_is_filled(fill):
    image = np.full((20, 40, 3), (200, 100, 50), np.uint8)
    square, _ = Preprocess(40, fill=fill)(image)
    expected = (200, 100, 50) if fill == "edge" else np.broadcast_to(fill, 3)
    assert square[0, 0].tolist() == list(expected)
    beyond = Preprocess(40, "crop", box_margin=1.0, fill=fill)(image, np.array([0, 0, 5.0, 5]))[0]
    assert beyond[0, 0].tolist() == list(expected)


def test_crop_by_box_shows_the_box_with_its_margin():
    box = np.array([99.5, 49.5, 139.5, 69.5])
    placement = Preprocess(50, "crop", box_margin=0.25).place(400, 300, box)
    # The longer side is 40, with margins 60: the square from (90, 30) to (150, 90).
    corners = placement.to_square(np.array([[89.5, 29.5], [149.5, 89.5]]))
    np.testing.assert_allclose(corners, [[-1, -1], [1, 1]], atol=1e-9)


def test_without_a_box_the_whole_image_is_used():
    boxed, plain = Preprocess(32, box_margin=0.1), Preprocess(32)
    assert boxed.place(50, 40, np.full(4, np.nan)) == plain.place(50, 40)
    assert boxed.place(50, 40, None) == plain.place(50, 40)
    with pytest.raises(DataError, match="outside the image"):
        boxed.place(50, 40, np.array([60.0, 0, 70, 10]))


@pytest.mark.parametrize(
    "bad",
    [
        {"size": 4},
        {"fit": "stretch"},
        {"box_margin": -1},
        {"fill": 300},
        {"fill": (1, 2, -3)},
        {"window": 0},
        {"window": 1.5},
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Preprocess(**bad)


def test_settings_from_a_configuration():
    spec = check_parameters(Preprocess, {"size": 64, "fill": [1, 2, 3]}, "data.preprocess")
    expected = {"size": 64, "fit": "letterbox", "region": None, "box_margin": None, "window": 1.0}
    assert spec == {**expected, "fill": [1, 2, 3]}
    assert spec == check_parameters(Preprocess, spec, "data.preprocess")
    assert dataclasses.asdict(Preprocess(64))["fill"] == 0


@pytest.mark.parametrize("fit", ["letterbox", "squash", "crop"])
@pytest.mark.parametrize(("size", "window"), [(64, 0.75), (33, 0.5), (48, 1.0)])
def test_a_window_shows_the_middle_and_keeps_the_surroundings(fit, size, window):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 4)
    preprocess = Preprocess(size, fit, window=window)
    square, place = preprocess(image)
    whole = preprocess.with_surroundings(image)
    assert square.shape == (size, size, 3)
    assert len(whole) == preprocess.outer_size == pytest.approx(size / window, abs=2)
    np.testing.assert_array_equal(square, preprocess.inner(whole))
    # The outer square is the same image without a window.
    outer = Preprocess(preprocess.outer_size, fit)
    np.testing.assert_array_equal(whole, outer(image)[0])
    points = np.array([[60.0, 45.0], [20.0, 70.0]])
    share = preprocess.outer_size / size
    np.testing.assert_allclose(place.to_square(points) / share, outer(image)[1].to_square(points))
    np.testing.assert_allclose(place.to_original(place.to_square(points)), points)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("window", [1.0, 0.8])
def test_a_region_is_what_cutting_it_out_first_gives(fit, window):
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    square, placement = Preprocess(32, fit, region=(0.25, 0.2, 0.9, 1.0), window=window)(image)
    cut, of_cut = Preprocess(32, fit, window=window)(np.ascontiguousarray(image[18:90, 30:108]))
    np.testing.assert_array_equal(square, cut)
    point = np.array([[70.0, 44.0]])
    np.testing.assert_allclose(
        placement.to_square(point), of_cut.to_square(point - [30, 18]), atol=1e-12
    )
    np.testing.assert_allclose(placement.to_original(placement.to_square(point)), point)


@pytest.mark.parametrize("region", [(0.5, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.5)])
def test_a_region_outside_the_image_is_refused(region):
    with pytest.raises(ValueError, match="region must be left, top, right, bottom"):
        Preprocess(region=region)


def test_a_region_and_a_box_are_one_too_many():
    with pytest.raises(ValueError, match="give one"):
        Preprocess(region=(0, 0, 1, 0.5), box_margin=0.1)
