"""The car: rays against an oracle, its plane of symmetry, all headings."""

from __future__ import annotations

import numpy as np

from landmark_lab_plugins.data.car import CAMERA, FLIP, MARKS, Car, Garage, car, pose
from landmark_lab_plugins.worlds.space import Pose, View, rotation
from tests.oracles.space import first_hit


def poses(count: int) -> list[Pose]:
    generator = np.random.default_rng(0)
    return [
        pose(*generator.uniform((0, -0.15, -0.15), (6.3, 0.15, 0.15)), generator.normal(0, 0.1, 3))
        for _ in range(count)
    ]


def mirrored(one: Pose) -> Pose:
    mirror = np.diag([-1.0, 1, 1])
    return Pose(mirror @ one.turn @ mirror, mirror @ one.place)


def test_rays_meet_what_the_oracle_says() -> None:
    generator = np.random.default_rng(1)
    solids = car()
    hits = 0
    for one in poses(3):
        seen = generator.uniform(-0.8, 0.8, (2, 80))
        found = View(CAMERA, solids, one).cast(seen).depth
        expected = np.array([first_hit(CAMERA, solids, one, point) for point in seen.T])
        # A ray along an edge may meet it or not.
        same = np.isclose(found, expected, rtol=1e-4) | (np.isinf(found) & np.isinf(expected))
        assert same.mean() > 0.98
        hits += np.isfinite(expected).sum()
    assert hits > 40


def test_depth_and_projection_are_inverse() -> None:
    points = np.random.default_rng(0).normal(0, 0.5, (3, 50))
    seen, depth = CAMERA.project(points)
    assert np.allclose(CAMERA.at_depth(seen, depth), points)
    one = poses(1)[0]
    assert np.allclose(one.undo(one.apply(points)), points)


def test_a_rotation_turns_about_its_axis() -> None:
    turn = rotation((0, 0, 1), np.pi / 2)
    assert np.allclose(turn @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(turn @ [0, 0, 1], [0, 0, 1])
    both = rotation((0.6, 0.0, 0.8), 0.7) @ rotation((0.6, 0.0, 0.8), -0.2)
    assert np.allclose(both, rotation((0.6, 0.0, 0.8), 0.5))


def test_a_mirrored_image_is_the_car_in_the_mirrored_pose() -> None:
    scene = Garage(64, 2, 0)
    flip = list(FLIP)
    for now, after in zip(*[iter(poses(6))] * 2, strict=True):
        drawing = scene.draw(now, after)
        other = scene.draw(mirrored(now), mirrored(after))
        difference = np.abs(drawing.image[:, ::-1].astype(int) - other.image)
        assert (difference > 2).mean() < 0.002  # a sample that lies on an edge
        assert np.allclose(drawing.points * (-1, 1), other.points[flip], atol=1e-6)
        assert np.array_equal(drawing.visible, other.visible[flip])
        mirrored_flow = drawing.flow[:, :, ::-1] * np.array([-1, 1])[:, None, None]
        same = np.abs(mirrored_flow - other.flow).max(0) < 1e-4
        assert same.mean() > 0.995


def test_partners_have_the_names_of_each_other() -> None:
    names = Car.point_names
    assert Car.flip == FLIP
    for name, partner in zip(names, FLIP, strict=True):
        side, _, rest = name.partition("_")
        assert names[partner] == f"{'right' if side == 'left' else 'left'}_{rest}"


def test_points_are_seen_from_their_own_side() -> None:
    scene = Garage(64, 2, 0)
    still = np.zeros(3)
    left = scene.draw(pose(-np.pi / 2, 0, 0, still), pose(-np.pi / 2, 0, 0, still))
    # At heading -90 degrees its left side, x > 0, faces the viewer.
    seen = dict(zip(Car.point_names, left.visible, strict=True))
    assert seen["left_front_wheel"]
    assert seen["left_back_wheel"]
    assert not seen["right_front_wheel"]
    assert not seen["right_back_wheel"]
    front = scene.draw(pose(0, 0, 0, still), pose(0, 0, 0, still))
    seen = dict(zip(Car.point_names, front.visible, strict=True))
    assert seen["left_headlight"]
    assert seen["right_headlight"]
    assert not seen["left_tail_light"]
    assert len(MARKS) == 7


def test_its_back_is_red() -> None:
    scene = Garage(64, 2, 0)
    red = []
    for heading in (0, np.pi):
        there = pose(heading, 0, 0, np.zeros(3))
        image = scene.draw(there, there).image.astype(int)
        red.append(((image[..., 0] > 100) & (image[..., 1] < 60)).mean())
    front, back = red
    assert front < 0.01
    assert back > 0.05


def test_its_headings_go_all_round_in_small_steps() -> None:
    scene = Garage(64, 400, 0)
    headings, steps = [], []
    for clip in range(12):
        turns = np.stack([moment.turn for moment in scene.motion(0, clip)])
        between = np.einsum("nij,nik->njk", turns[:-1], turns[1:])
        steps.append(np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1)))
        headings.append(np.arctan2(turns[:, 0, 2], turns[:, 2, 2]))
    share, _ = np.histogram(np.concatenate(headings), bins=12, range=(-np.pi, np.pi), density=True)
    assert share.min() > 0.3 / (2 * np.pi)
    assert np.degrees(np.concatenate(steps)).mean() < 8
    spread = [np.ptp(np.unwrap(heading)) for heading in headings]
    assert np.mean(np.degrees(spread) > 360) > 0.3
