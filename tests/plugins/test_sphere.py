"""The textured sphere: a whole turn, and points that vanish behind it."""

from __future__ import annotations

import numpy as np

from landmark_lab_plugins.data.sphere import MARKS, RADIUS, Globe, Sphere, coordinates, directions
from landmark_lab_plugins.worlds.space import rotation


def test_coordinates_and_directions_are_inverse() -> None:
    generator = np.random.default_rng(0)
    latitude = generator.uniform(-1.5, 1.5, 200)
    longitude = generator.uniform(-3.1, 3.1, 200)
    place = directions(latitude, longitude)
    assert np.allclose(np.linalg.norm(place, axis=0), 1)
    found = coordinates(place)
    assert np.allclose(found, [latitude, longitude])
    assert np.allclose(directions(np.array(np.pi / 2), np.array(0.3)), [0, -1, 0])
    assert np.allclose(directions(np.array(0.0), np.array(0.0)), [0, 0, 1])


def test_it_turns_right_round_and_shows_all_its_points() -> None:
    data = Sphere(train=3, frames=100)
    images = data.images("train")
    seen = np.stack([images[index]["visible"] for index in range(100)])
    assert (seen[:, 1:-1].mean(0) > 0.2).all()  # all but the poles
    assert (seen[:, 1:-1].mean(0) < 0.8).all()
    assert 0.45 < seen.mean() < 0.55


def test_a_point_is_seen_in_front_and_hidden_behind() -> None:
    scene = Globe(64, 2, 0)
    names = Sphere.point_names
    front, back = (names.index(f"latitude_0_longitude_{east}") for east in (0, 180))
    still = np.eye(3, dtype=np.float32)
    drawing = scene.draw(still, still)
    assert np.allclose(drawing.points[[front, back]], 0, atol=1e-6)
    assert drawing.visible[front]
    assert not drawing.visible[back]
    turned = rotation((0, 1, 0), np.radians(90)).astype(np.float32)
    moved = scene.draw(turned, turned)
    assert np.allclose(moved.points[front], [RADIUS, 0], atol=1e-6)
    assert len(MARKS) == len(names) == 26


def test_what_turns_to_the_far_side_has_no_flow() -> None:
    scene = Globe(64, 2, 0)
    turn = rotation((0, 1, 0), np.radians(30)).astype(np.float32)
    drawing = scene.draw(np.eye(3, dtype=np.float32), turn)
    # A point at sin(a) from the axis is hidden after 30 degrees if a > 60 degrees.
    x = (np.arange(64) * 2 + 1) / 64 - 1
    middle = drawing.flow_visible[32]
    limit = RADIUS * np.sin(np.radians(60))
    assert middle[(x > -RADIUS + 0.04) & (x < limit - 0.02)].all()
    assert not middle[(x > limit + 0.02) & (x < RADIUS)].any()
    inner = np.abs(x) < 0.5
    expected = RADIUS * np.sin(np.arcsin(x[inner] / RADIUS / np.cos(0.0)) + np.radians(30))
    # On the row next to the equator; half a pixel from it changes little.
    assert np.allclose(x[inner] + drawing.flow[0, 32, inner], expected, atol=2e-3)


def test_its_sides_are_blue_and_orange() -> None:
    scene = Globe(64, 2, 0)
    centre = np.hypot(*np.mgrid[-31.5:32, -31.5:32]) < 15
    means = []
    for degrees in (-90, 90):
        pose = rotation((0, 1, 0), np.radians(degrees)).astype(np.float32)
        means.append(scene.draw(pose, pose).image[centre].mean(0))
    orange, blue = means
    assert orange[0] > orange[2] + 60
    assert blue[2] > blue[0] + 60
