"""A boxy car that turns right round: bilateral symmetry out of the image's plane.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018, section 6.1: a synthetic car whose back is red, 30,000 frames of
75×75 pixels; its heading follows a random walk, its translation, pitch and roll are sinusoidal;
flows below 0.001 are ignored (``least_motion`` of the pairing ``frames``). Here images have 76
pixels, because the networks halve them. The camera, the model and the amplitudes are not given and
chosen.

The light comes from above and in front, so a mirrored image shows the car in the mirrored pose.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``; axes of space as in
``worlds/space.py``. The car's own: y down, z to its front, half its length is 1. At heading 0 it
faces the viewer; *left* and *right* are its driver's, so left is at x > 0, and the plane of
symmetry is x = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np

from landmark_lab.seeding import rng
from landmark_lab_plugins.worlds.clips import (
    Drawing,
    Floats,
    Scene,
    World,
    inside,
    pixel_centres,
)
from landmark_lab_plugins.worlds.space import Camera, Pose, Solid, View, rotation, solid

CAMERA = Camera(distance=6.0, focal=4.6)
ELEVATION = 22.0  # degrees that the camera looks down
STEP, INERTIA = 2.0, 0.9  # the heading's walk: degrees a frame, and the share that lasts
SWING = (7.0, 7.0)  # amplitudes of pitch and roll in degrees
DRIFT = (0.12, 0.1, 0.3)  # amplitudes of the translation
LIGHT, AMBIENT = np.array([0.0, -0.75, 0.66]), 0.45
BACKGROUND = np.array([52.0, 58, 66])

PAINT, RED, GLASS = (92, 150, 214), (214, 38, 34), (28, 36, 52)
TYRE, HUB, GREY = (30, 30, 32), (176, 180, 186), (104, 108, 114)
HEADLIGHT, TAIL_LIGHT = (255, 244, 196), (255, 178, 60)

# Each on the left; just above the surface.
MARKS = {
    "front_wheel": (0.495, 0.26, 0.60),
    "back_wheel": (0.495, 0.26, -0.60),
    "headlight": (0.31, 0.08, 1.025),
    "tail_light": (0.31, 0.08, -1.025),
    "bonnet": (0.40, -0.035, 0.70),
    "roof_front": (0.28, -0.425, 0.04),
    "roof_back": (0.28, -0.425, -0.50),
}
FLIP = (*range(len(MARKS), 2 * len(MARKS)), *range(len(MARKS)))

_OVERSAMPLING = 3  # odd: the middle sample is the pixel's centre
_ONE_MOTION = 0.5  # pixels by which the samples of a pixel may move apart
_ABOVE = 0.005  # tolerance of depths


class Garage(Scene[Pose]):
    """The car; a moment is its pose. See :class:`Car` for the arguments."""

    def __init__(self, size: int, frames: int, seed: int) -> None:
        self.size = size
        self.frames = frames
        self.seed = seed
        self._solids = car()
        left = np.array(list(MARKS.values())).T
        self._marks = np.concatenate([left, left * [[-1], [1], [1]]], axis=1)
        self._fine = pixel_centres(size * _OVERSAMPLING)

    def motion(self, split: int, clip: int) -> Sequence[Pose]:
        """The poses of a clip."""
        generator = rng(self.seed, "car", split, clip)
        heading, speed = generator.uniform(0, 2 * np.pi), 0.0
        amplitudes = np.array([*np.radians(SWING), *DRIFT])
        phases = generator.uniform(0, 2 * np.pi, len(amplitudes))
        rates = 2 * np.pi / generator.uniform(40, 90, len(amplitudes))
        poses = []
        for frame in range(self.frames + 1):
            pitch, roll, *place = amplitudes * np.sin(rates * frame + phases)
            poses.append(pose(heading, float(pitch), float(roll), np.array(place)))
            speed = INERTIA * speed + np.radians(generator.normal(0, STEP))
            heading += speed
        return poses

    def draw(self, now: Pose, after: Pose) -> Drawing:
        """Draw the car over a plain background; see the base class."""
        size, n = self.size, _OVERSAMPLING
        view, later = (View(CAMERA, self._solids, when) for when in (now, after))
        rows, columns = self._window(view)
        samples = self._fine[:, _fine(rows), _fine(columns)]
        height, width = samples.shape[1:]
        points = samples.reshape(2, -1)
        marks, far = CAMERA.project(now.apply(self._marks))
        hits = view.cast(np.concatenate([points, marks], axis=1))
        depth = hits.depth[: points.shape[1]]
        on = np.isfinite(depth)

        colours = np.empty((len(on), 4), np.float32)
        colours[:] = (*BACKGROUND, 0)
        colours[on] = self._shades(now)[hits.solid[: len(on)][on], hits.face[: len(on)][on]]
        whole = np.tile(np.array([*BACKGROUND, 0], np.float32), (size, size, 1))
        whole[rows, columns] = cv2.resize(
            colours.reshape(height, width, 4),
            (width // n, height // n),
            interpolation=cv2.INTER_AREA,
        )
        mask = whole[..., 3]

        # Each sample of a pixel moves by itself; the one in the middle says how the pixel does.
        there = CAMERA.at_depth(points[:, on], depth[on])
        moved, late = points.copy(), depth.copy()
        moved[:, on], late[on] = CAMERA.project(after.apply(now.undo(there)))
        flows = (moved - points).reshape(2, height, width)
        several = np.stack([flows[:, i::n, j::n] for i, j in product(range(n), repeat=2)])
        middle = n // 2
        flow = np.zeros((2, size, size), np.float32)
        flow[:, rows, columns] = flows[:, middle::n, middle::n]
        deep = np.full((size, size), np.inf)  # the background is behind everything
        deep[rows, columns] = late.reshape(height, width)[middle::n, middle::n]
        targets = self._fine[:, middle::n, middle::n] + flow
        uncovered = later.cast(targets.reshape(2, -1)).depth >= deep.ravel() - _ABOVE
        seen = uncovered.reshape(size, size) & inside(targets) & ((mask == 0) | (mask == 1))
        seen[rows, columns] &= np.ptp(several, axis=0).max(0) * size / 2 < _ONE_MOTION
        return Drawing(
            image=np.rint(whole[..., :3]).astype(np.uint8),
            points=marks.T.astype(np.float32),
            visible=inside(marks) & (hits.depth[len(on) :] >= far - _ABOVE),
            mask=mask[None].copy(),
            flow=flow,
            flow_visible=seen,
        )

    def _window(self, view: View) -> tuple[slice, slice]:
        """The rows and columns of the pixels that the car is in."""
        low, high = (np.clip((end + 1) * self.size / 2, 0, self.size) for end in view.outline)
        first = np.minimum(np.floor(low), self.size - 1).astype(int)
        last = np.maximum(np.ceil(high).astype(int), first + 1)
        return slice(first[1], last[1]), slice(first[0], last[0])

    def _shades(self, now: Pose) -> Floats:
        """Red, green, blue in the light, and 1 for the mask, of all faces of all solids."""
        faces = max(len(body.normals) for body in self._solids)
        shades = np.ones((len(self._solids), faces, 4), np.float32)
        for number, body in enumerate(self._solids):
            light = np.clip(body.normals @ (LIGHT @ now.turn), 0, 1)
            lit = (AMBIENT + (1 - AMBIENT) * light)[:, None] * body.colour
            shades[number, : len(light), :3] = lit
        return shades


def pose(heading: float, pitch: float, roll: float, place: Floats) -> Pose:
    """The car's pose, from its heading, pitch and roll in radians and its place in space."""
    turn = rotation((1, 0, 0), pitch - np.radians(ELEVATION)) @ rotation((0, 0, 1), roll)
    return Pose(turn @ rotation((0, 1, 0), heading), place)


def _fine(pixels: slice) -> slice:
    return slice(pixels.start * _OVERSAMPLING, pixels.stop * _OVERSAMPLING)


# --- the model -----------------------------------------------------------------------------------


def car() -> list[Solid]:
    """The solids that the car is made of, left and right alike."""
    front = _frustum((0.46, -0.06, 0.34, 1.0), (0.46, 0.28, -0.5, 1.0))
    front[1, front[2] > 0.9] = np.maximum(front[1, front[2] > 0.9], 0.0)
    cabin = _frustum((0.35, -0.42, -0.58, 0.12), (0.45, -0.04, -0.78, 0.5))
    solids = [
        solid(_frustum((0.46, -0.1, -0.5, 0.4), (0.46, 0.28, -0.5, 0.4)), PAINT),
        solid(front, PAINT),
        solid(_frustum((0.46, -0.1, -1.0, -0.5), (0.46, 0.28, -1.0, -0.5)), RED),
        solid(cabin, PAINT),
        *(solid(window, GLASS) for window in _windows(cabin)),
        solid(_frustum((0.44, 0.18, 0.9, 1.04), (0.44, 0.28, 0.9, 1.04)), GREY),
        solid(_frustum((0.44, 0.18, -1.04, -0.9), (0.44, 0.28, -1.04, -0.9)), GREY),
    ]
    for side in (1, -1):
        for along in (0.6, -0.6):
            solids.append(solid(_wheel(side, along, radius=0.21, reach=0.48), TYRE))
            solids.append(solid(_wheel(side, along, radius=0.11, reach=0.49), HUB))
        for end, light in ((1, HEADLIGHT), (-1, TAIL_LIGHT)):
            box = product((side * 0.21, side * 0.41), (0.03, 0.13), (end * 0.9, end * 1.02))
            solids.append(solid(np.array(list(box)).T, light))
    return solids


def _frustum(top: Sequence[float], bottom: Sequence[float]) -> Floats:
    """Corners (3, 8) between two rectangles, given as half width, y, back and front."""
    corners = [
        (side * width, y, z)
        for width, y, back, front in (top, bottom)
        for side, z in product((-1, 1), (back, front))
    ]
    return np.array(corners, np.float64).T


def _windows(cabin: Floats) -> list[Floats]:
    """Plates on the four upright faces of the cabin, a little smaller than they are."""
    found = []
    for face in ([0, 1, 4, 5], [2, 3, 6, 7], [0, 2, 4, 6], [1, 3, 5, 7]):
        corners = cabin[:, face]
        middle = corners.mean(1, keepdims=True)
        inner = middle + (corners - middle) * 0.78
        outward = middle[:, 0] - cabin.mean(1)
        outward /= np.linalg.norm(outward)
        found.append(np.concatenate([inner, inner + 0.02 * outward[:, None]], axis=1))
    return found


def _wheel(side: int, along: float, radius: float, reach: float) -> Floats:
    """Corners of a prism about the axle, out to ``reach``: (3, 2 n)."""
    angle = np.arange(12) * 2 * np.pi / 12
    y, z = 0.26 + radius * np.sin(angle), along + radius * np.cos(angle)
    return np.concatenate(
        [np.stack([np.full_like(y, side * x), y, z]) for x in (0.3, reach)], axis=1
    )


# --- the data set --------------------------------------------------------------------------------


class Car(World, name="car"):
    """A boxy car, red at the back, that turns right round out of plane; exact flow and visibility.

    Seven points on its left and their partners on its right; mirroring an image swaps them.

    Args:
        size: side of the images in pixels (the paper 75, which no network here can halve).
        frames: frames of a clip.
        train: number of training clips; the default makes the paper's 30,000 frames.
        val: number of validation clips.
        test: number of test clips.
        seed: another seed draws other motions.

    Raises:
        ValueError: images below 16 pixels, clips below 2 frames, a negative number.
    """

    point_names = tuple(f"{side}_{name}" for side in ("left", "right") for name in MARKS)
    flip = FLIP

    def __init__(
        self,
        size: int = 76,
        frames: int = 400,
        train: int = 75,
        val: int = 2,
        test: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(Garage(size, frames, seed), frames, train, val, test)
