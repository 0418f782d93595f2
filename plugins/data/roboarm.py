"""A jointed arm of coloured capsules that random gravity pulls about.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant
image labelling", NeurIPS 2017, section 4.1: the arm is anchored in the bottom left corner, its
joints have limits, each element of gravity is drawn anew from a Gaussian of 15 m/s² every 100
iterations of the physics, a frame is taken every 20, images have 90×90 pixels; 23,999 frames. The
pair of arms is that of "Modelling and unsupervised learning of symmetric deformable object
categories", NeurIPS 2018, section 6.1. Not given, and chosen here: the scale (the image is 10 m
wide), the time step, the capsules and their limits; the two arms of a pair feel the same gravity.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``; y and the angles that turn x
towards it point down. *Left* and *right* are the viewer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmark_lab.errors import require
from landmark_lab.seeding import rng
from landmark_lab_plugins.worlds.clips import (
    Bools,
    Drawing,
    Floats,
    Scene,
    World,
    inside,
    pixel_centres,
)
from landmark_lab_plugins.worlds.motions import remembered

VERSION = 1
"""Of the physics: raised whenever the same settings would give another motion."""

METRES = 5.0  # half the image's width
TIME_STEP = 1 / 200  # seconds an iteration
ITERATIONS = 20  # of a frame
GRAVITY, GRAVITY_LASTS = 15.0, 100  # m/s², iterations
DAMPING = 0.4  # of its velocity a body keeps this share in a second
ANCHOR = (-0.9, 0.9)
BACKGROUND = np.array([36, 38, 46], np.float32)
RIM = 0.55  # brightness of a capsule at its edge


class Link(NamedTuple):
    """A capsule and how it hangs on another.

    Attributes:
        name: of its centre.
        parent: number of the capsule at whose end it hangs; -1: the anchor.
        length: between the centres of its round ends, in half images.
        radius: in half images.
        low: least angle to its parent in radians; a fork's fingers never lie side by side.
        high: greatest angle.
        colour: red, green and blue up to 255.
    """

    name: str
    parent: int
    length: float
    radius: float
    low: float
    high: float
    colour: tuple[float, float, float]


# The single arm reaches over the whole image, each of a pair a little beyond the middle.
LINKS = (
    Link("shoulder", -1, 0.40, 0.130, -1.45, -0.12, (222, 64, 58)),
    Link("upper", 0, 0.38, 0.120, -0.75, 0.75, (240, 148, 44)),
    Link("elbow", 1, 0.36, 0.110, -0.75, 0.75, (236, 214, 62)),
    Link("lower", 2, 0.34, 0.102, -0.75, 0.75, (92, 186, 76)),
    Link("wrist", 3, 0.30, 0.095, -0.75, 0.75, (62, 196, 204)),
    Link("thumb", 4, 0.28, 0.080, 0.25, 0.95, (70, 104, 222)),
    Link("finger", 4, 0.28, 0.080, -0.95, -0.25, (186, 84, 204)),
)
PAIR_SCALE, PAIR_THICKNESS = 0.72, 0.85  # of lengths, of radii


class Moment(NamedTuple):
    """The capsules of a moment, those in front last.

    Attributes:
        centre: (2, K).
        angle: (K,) of their axes.
    """

    centre: Floats
    angle: Floats


class Capsules(Scene[Moment]):
    """One arm or a pair of them; see :class:`Roboarm` for the arguments."""

    def __init__(self, size: int, arms: int, frames: int, seed: int, cache: Path | None) -> None:
        self.size = size
        self.arms = arms
        self.frames = frames
        self.seed = seed
        self.cache = cache
        self._pixels = pixel_centres(size).reshape(2, -1)
        length, thickness = (1.0, 1.0) if arms == 1 else (PAIR_SCALE, PAIR_THICKNESS)
        self._half = length / 2 * np.array([link.length for link in LINKS] * arms, np.float32)
        self._radius = thickness * np.array([link.radius for link in LINKS] * arms, np.float32)
        self._colour = np.array([link.colour for link in LINKS] * arms, np.float32)

    def motion(self, split: int, clip: int) -> Sequence[Moment]:
        """The moments of a clip, from the disk where they are kept."""
        pymunk = _pymunk()
        key = {
            "version": VERSION,
            "library": pymunk.version,
            "arms": self.arms,
            "frames": self.frames,
            "seed": self.seed,
            "split": split,
            "clip": clip,
        }
        generator = rng(self.seed, "roboarm", split, clip)
        motion = remembered(
            self.cache,
            "roboarm",
            key,
            lambda: simulate(self.arms, self.frames + 1, generator),
        )
        return [Moment(state[:2], state[2]) for state in motion.astype(np.float32)]

    def draw(self, now: Moment, after: Moment) -> Drawing:
        """Draw the capsules over a plain background; see the base class."""
        depth = self._radius[:, None] - self._distance(now, self._pixels)
        cover = np.clip(depth * self.size / 2 + 0.5, 0, 1)
        image = np.tile(BACKGROUND, (self.size**2, 1))
        mask = np.zeros(self.size**2, np.float32)
        top = np.full(self.size**2, -1)
        pure = np.ones(self.size**2, bool)
        for number in range(len(cover)):
            (at,) = np.nonzero(cover[number])
            share = cover[number, at]
            pure[at] = share == 1
            top[at] = np.where(share > 0.5, number, top[at])
            round_ = 1 - (1 - np.clip(depth[number, at] / self._radius[number], 0, 1)) ** 2
            lit = self._colour[number] * (RIM + (1 - RIM) * round_[:, None])
            image[at] += share[:, None] * (lit - image[at])
            mask[at] += share * (1 - mask[at])
        flow = _moved(now, after, self._pixels, top) - self._pixels
        seen = pure & self._seen(after, self._pixels + flow, top)
        points = now.centre
        return Drawing(
            image=np.rint(image).astype(np.uint8).reshape(self.size, self.size, 3),
            points=points.T.copy(),
            visible=self._seen(now, points, np.arange(len(points.T))),
            mask=mask.reshape(1, self.size, self.size),
            flow=flow.reshape(2, self.size, self.size),
            flow_visible=seen.reshape(self.size, self.size),
        )

    def _distance(self, moment: Moment, points: Floats) -> Floats:
        """From the axis of every capsule to points (2, N): (K, N)."""
        x, y = points[:, None] - moment.centre[:, :, None]
        c, s = np.cos(moment.angle)[:, None], np.sin(moment.angle)[:, None]
        along = np.maximum(np.abs(c * x + s * y) - self._half[:, None], 0)
        return np.asarray(np.sqrt(along**2 + (c * y - s * x) ** 2))

    def _seen(self, moment: Moment, points: Floats, top: NDArray[np.int64]) -> Bools:
        """Whether points (2, N) of the capsules ``top`` (N,) are in the image, with none before."""
        margin = 1 / self.size  # the edge of a capsule reaches half a pixel further
        covered = self._distance(moment, points) < self._radius[:, None] + margin
        before = np.arange(len(covered))[:, None] > top
        return inside(points) & ~(covered & before).any(axis=0)


def _moved(now: Moment, after: Moment, points: Floats, top: NDArray[np.int64]) -> Floats:
    """Where points (2, N) of the capsules ``top`` (N,) are next; those of none (-1) stay."""
    turn = after.angle - now.angle
    c, s = np.cos(turn)[top], np.sin(turn)[top]
    x, y = points - now.centre[:, top]
    moved = after.centre[:, top] + np.stack([c * x - s * y, s * x + c * y])
    return np.where(top >= 0, moved, points)


# --- physics -------------------------------------------------------------------------------------


def _pymunk() -> Any:
    return require("pymunk", purpose="the physics of the robot arm")


def simulate(arms: int, moments: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Let random gravity move the arms.

    The same generator gives the same motion on the same machine with the same pymunk; between
    machines the last digits may differ, and grow.

    Args:
        arms: one or two.
        moments: how many to return, ``ITERATIONS`` steps of the physics apart.
        generator: draws the gravity.

    Returns:
        (moments, 3, K): x, y and angle of each capsule, the left arm's first.
    """
    pymunk = _pymunk()
    space = pymunk.Space()
    space.iterations = 30
    space.damping = DAMPING
    _walls(pymunk, space)
    bodies = [body for arm in range(arms) for body in _arm(pymunk, space, arm, arms)]
    found = np.empty((moments, 3, len(bodies)))
    for step in range((moments - 1) * ITERATIONS + GRAVITY_LASTS):
        if step % GRAVITY_LASTS == 0:
            space.gravity = tuple(generator.normal(0, GRAVITY, 2).tolist())
        # The first gravity's time is for leaving the drawn-up start.
        if step >= GRAVITY_LASTS and step % ITERATIONS == 0:
            _record(found[step // ITERATIONS - GRAVITY_LASTS // ITERATIONS], bodies)
        space.step(TIME_STEP)
    _record(found[-1], bodies)
    return found


def _record(state: NDArray[np.float64], bodies: list[Any]) -> None:
    state[0] = [body.position.x / METRES for body in bodies]
    state[1] = [body.position.y / METRES for body in bodies]
    state[2] = [body.angle for body in bodies]


def _walls(pymunk: Any, space: Any) -> None:
    """Keep the arms in the image."""
    corners = [(-METRES, -METRES), (METRES, -METRES), (METRES, METRES), (-METRES, METRES)]
    thick = 1.0
    for k, (x, y) in enumerate(corners):
        ahead, here = corners[(k + 1) % 4], (x, y)
        grown = [tuple(v * (1 + thick / METRES) for v in end) for end in (here, ahead)]
        space.add(pymunk.Segment(space.static_body, *grown, thick))


def _arm(pymunk: Any, space: Any, arm: int, arms: int) -> list[Any]:
    """The bodies of one arm, stretched towards the opposite corner; arm 1 is arm 0 mirrored."""
    side = -1.0 if arm else 1.0
    length, thickness = (1.0, 1.0) if arms == 1 else (PAIR_SCALE, PAIR_THICKNESS)
    scale = METRES * length
    bodies: list[Any] = []
    directions: list[float] = []
    for link in LINKS:
        half = link.length / 2 * scale
        parent = bodies[link.parent] if link.parent >= 0 else space.static_body
        base = directions[link.parent] if link.parent >= 0 else 0.0
        direction = base + (link.low + link.high) / 2
        if link.parent >= 0:
            joint = parent.local_to_world((LINKS[link.parent].length / 2 * scale, 0))
        else:
            joint = pymunk.Vec2d(side * ANCHOR[0], ANCHOR[1]) * METRES
        # Mirrored too, a capsule's axis points away from the anchor: x -> -x, angle -> pi - angle.
        angle = direction if side > 0 else pi - direction
        radius = link.radius * METRES * thickness
        mass = radius * half  # any density: only ratios matter
        ends = (-half, 0), (half, 0)
        body = pymunk.Body(mass, pymunk.moment_for_segment(mass, *ends, radius))
        body.angle = angle
        body.position = joint + pymunk.Vec2d(half * cos(angle), half * sin(angle))
        shape = pymunk.Segment(body, *ends, radius)
        shape.filter = pymunk.ShapeFilter(group=1)  # capsules pass before one another
        turn = (link.low, link.high) if side > 0 else (-link.high, -link.low)
        rest = 0.0 if side > 0 or link.parent >= 0 else pi
        space.add(
            body,
            shape,
            pymunk.PivotJoint(parent, body, tuple(joint)),
            pymunk.RotaryLimitJoint(parent, body, rest + turn[0], rest + turn[1]),
        )
        bodies.append(body)
        directions.append(direction)
    return bodies


# --- the data set --------------------------------------------------------------------------------


class Roboarm(World, name="roboarm"):
    """A jointed arm of coloured capsules under random gravity, or a pair of them; exact flow.

    The motion of a clip is simulated when its first frame is asked for, and kept on the disk.

    Args:
        size: side of the images in pixels.
        arms: 1, or 2 for a left and a right one, each other's mirror images in shape and colour:
            mirroring an image swaps their points.
        frames: frames of a clip.
        train: number of training clips; the default makes the paper's 24,000 frames.
        val: number of validation clips.
        test: number of test clips.
        seed: another seed draws other motions.
        cache: folder for the motions (70 kB a clip); None: the environment variable
            ``LANDMARK_LAB_CACHE``, or ``landmark-lab`` in the user's folder for such files.

    Raises:
        ValueError: images below 16 pixels, clips below 2 frames, a negative number.
        MissingDependencyError: when the first frame is asked for, without pymunk.
    """

    def __init__(
        self,
        size: int = 90,
        arms: Literal[1, 2] = 1,
        frames: int = 400,
        train: int = 60,
        val: int = 2,
        test: int = 5,
        seed: int = 0,
        cache: Path | None = None,
    ) -> None:
        names = [link.name for link in LINKS]
        self.point_names = tuple(names)
        if arms == 2:
            self.point_names = tuple(f"{side}_{n}" for side in ("left", "right") for n in names)
            one, other = range(len(names)), range(len(names), 2 * len(names))
            self.flip = (*other, *one)
        super().__init__(Capsules(size, arms, frames, seed, cache), frames, train, val, test)
