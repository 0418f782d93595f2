"""Drawings."""

from itertools import pairwise

import numpy as np

from landmark_lab.figures import contact_sheet, draw_points, point_colour
from landmark_lab.files import read_image


def test_a_point_is_drawn_where_it_is_and_missing_ones_are_not():
    image = np.full((41, 61, 3), 128, np.uint8)
    drawn = draw_points(image, np.array([[20.0, 10], [np.nan, np.nan], [1e9, -1e9]]))
    assert tuple(drawn[10, 20]) == point_colour(0)
    y, x = np.nonzero((drawn != image).any(axis=2))
    assert abs(x.mean() - 20) < 0.1
    assert abs(y.mean() - 10) < 0.1
    assert (image == 128).all()


def test_hidden_points_are_rings():
    image = np.full((41, 41, 3), 128, np.uint8)
    drawn = draw_points(image, np.array([[20.0, 20]]), np.array([False]), radius=6)
    assert tuple(drawn[20, 20]) == (128, 128, 128)
    assert (drawn != image).any()


def test_colours_are_fixed_and_neighbours_differ():
    colours = [point_colour(i) for i in range(100)]
    assert len(set(colours)) == 100
    for first, second in pairwise(colours):
        assert np.abs(np.subtract(first, second)).sum() > 100


def test_a_sheet_shows_images_of_any_size(tmp_path):
    images = [np.full((20, 40, 3), 50, np.uint8), np.full((300, 100, 3), 200, np.uint8)]
    points = [np.array([[19.5, 9.5]]), np.array([[49.5, 149.5]])]
    contact_sheet(tmp_path / "sheet.png", images, points, titles=["a", "b"], cell=100, columns=2)
    sheet = read_image(tmp_path / "sheet.png")
    # The middle of each image, in cells of 100 pixels with gaps of 4.
    assert tuple(sheet[4 + 25, 4 + 50]) == point_colour(0)
    assert tuple(sheet[4 + 50, 108 + 17]) == point_colour(0)
    assert tuple(sheet[10, 10]) == (50, 50, 50)
