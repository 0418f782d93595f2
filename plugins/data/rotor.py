"""A soft body with rotational symmetry, held at its centre.

J. Thewlis, H. Bilen, A. Vedaldi, "Modelling and unsupervised learning of symmetric deformable
object categories", NeurIPS 2018, section 6.2: a protein of three legs, a soft body anchored at its
centre and moved by varying gravity, 200 sequences of 400 frames that differ in the camera's
rotation, the light, the smoothing of the mesh and the position. Here the body is a flat relief with
n curved legs. Its deformation is a formula with an exact inverse, so the flow is exact: what lies
at the distance r from the centre turns by ``twist``·r² and is carried along by ``sag``·r², which is
how a sheet that is held in its middle gives way to gravity; twist and sag swing like damped springs
whose rest moves with gravity. The camera turns in the image's plane only.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``; angles turn x towards y, which
points down. The body's own polar coordinates have its legs' tips at r = 1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from math import cos, pi, sin
from typing import NamedTuple

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

PERIOD, DECAY = 18.0, 0.1  # of a spring's swing: frames, and the share of its speed lost in one
GRAVITY_LASTS = 25  # frames
SAG, LARGEST_SAG, TWIST = 0.28, 0.4, 0.25  # standard deviations at rest, and the sag's bound
SPIN = 0.025  # radians a frame
MARKS = {"middle": 0.55, "tip": 0.93}  # annotated places along a leg
AMBIENT = 0.45
_OVERSAMPLING = 2


class Look(NamedTuple):
    """What stays the same throughout a clip.

    Attributes:
        centre: (2,) of the body.
        scale: length of its legs, in half images.
        width: half a leg's width near the centre, in lengths of a leg.
        knee: where a leg begins to bend.
        bend: how far its tip is bent, in radians.
        light: (3,) direction that the light comes from, z towards the viewer.
        colours: (3, 3) of the centre, of the tips and of the background, up to 255.
    """

    centre: Floats
    scale: float
    width: float
    knee: float
    bend: float
    light: Floats
    colours: Floats


class Moment(NamedTuple):
    """The body at one time.

    Attributes:
        look: see the class.
        angle: how far it is turned, in radians.
        twist: how much further its rim is turned, in radians.
        sag: (2,) where gravity carries its rim, in lengths of a leg.
    """

    look: Look
    angle: float
    twist: float
    sag: Floats


class Body(Scene[Moment]):
    """The rotor; see :class:`Rotor` for the arguments."""

    def __init__(self, size: int, fold: int, frames: int, seed: int) -> None:
        self.size = size
        self.fold = fold
        self.frames = frames
        self.seed = seed
        self._pixels = pixel_centres(size)
        self._fine = pixel_centres(size * _OVERSAMPLING)

    def motion(self, split: int, clip: int) -> Sequence[Moment]:
        """The swings of a clip, begun one change of gravity before its first frame."""
        generator = rng(self.seed, "rotor", split, clip)
        look = _look(generator, self.fold)
        angle, spin = generator.uniform(0, 2 * pi), generator.normal(0, SPIN)
        state, speed, rest = np.zeros((3, 3))
        moments = []
        for frame in range(-GRAVITY_LASTS, self.frames + 1):
            if frame % GRAVITY_LASTS == 0:
                rest = generator.normal(0, (SAG, SAG, TWIST))
            speed = (1 - DECAY) * speed + (2 * pi / PERIOD) ** 2 * (rest - state)
            state = state + speed
            if frame >= 0:
                # Never so far that the body would fold.
                sag = state[:2] / np.hypot(1, np.linalg.norm(state[:2]) / LARGEST_SAG)
                moments.append(
                    Moment(look, angle + spin * frame, float(state[2]), sag.astype(np.float32))
                )
        return moments

    def draw(self, now: Moment, after: Moment) -> Drawing:
        """Draw the body over a plain background; see the base class."""
        layers = self._shaded(now)
        small = cv2.resize(layers, (self.size, self.size), interpolation=cv2.INTER_AREA)
        mask = small[..., 3].astype(np.float32)
        r, theta = _to_body(now, self._pixels)
        on = mask > 0.5
        moved = np.where(on, _to_image(after, r, theta), self._pixels)
        # A place of the background is seen until a leg comes to lie there.
        stays = on | (self._depth(after.look, *_to_body(after, self._pixels)) < -1 / self.size)
        points = self._points(now)
        return Drawing(
            image=np.rint(small[..., :3]).astype(np.uint8),
            points=points.T.astype(np.float32),
            visible=inside(points),
            mask=mask[None],
            flow=(moved - self._pixels).astype(np.float32),
            flow_visible=((mask == 0) | (mask == 1)) & stays & inside(moved),
        )

    def _shaded(self, now: Moment) -> Floats:
        """Red, green, blue and the mask of every fine pixel, (H, W, 4)."""
        look = now.look
        r, theta = _to_body(now, self._fine)
        depth = self._depth(look, r, theta)
        cover = np.clip(depth * self._fine.shape[-1] / 2 + 0.5, 0, 1)
        layers = np.tile(np.array([*look.colours[2], 0], np.float32), (cover.size, 1))
        at = np.flatnonzero(cover)
        r, theta, share = (values.ravel()[at] for values in (r, theta, cover))
        across, half = self._across(look, r, theta)
        steepness = np.clip(across / half, -1, 1)
        # A leg is a half-pipe: its normal leans to the side, at right angles to its middle line.
        way = theta + now.angle + now.twist * r**2 + pi / 2 + np.arctan(_slope(look, r))
        normal = np.stack(
            [steepness * np.cos(way), steepness * np.sin(way), np.sqrt(1 - steepness**2)]
        )
        light = AMBIENT + (1 - AMBIENT) * np.clip(look.light @ normal, 0, 1)
        bands = 1 - 0.25 * (0.5 + 0.5 * np.cos(5 * 2 * pi * r)) ** 4
        colour = look.colours[0] + r.clip(0, 1)[:, None] * (look.colours[1] - look.colours[0])
        lit = (light * bands)[:, None] * colour
        layers[at, :3] += share[:, None] * (lit - layers[at, :3])
        layers[at, 3] = share
        return layers.reshape(*cover.shape, 4)

    def _across(self, look: Look, r: Floats, theta: Floats) -> tuple[Floats, Floats]:
        """Distance to the middle of the nearest leg, to either side, and half the leg's width."""
        sector = 2 * pi / self.fold
        beside = theta - _bend(look, r)
        beside = beside - sector * np.rint(beside / sector)
        half = look.width * (1 - 0.35 * r) * np.sqrt(np.clip(1 - r**10, 1e-4, 1))
        return r * beside / np.hypot(1, _slope(look, r)), half

    def _depth(self, look: Look, r: Floats, theta: Floats) -> Floats:
        """How deep inside the body, about, in half images; below 0 outside."""
        across, half = self._across(look, r, theta)
        return np.asarray(look.scale * np.minimum(half - np.abs(across), 1 - r))

    def _points(self, moment: Moment) -> Floats:
        """The centre, and the marks of the legs: (2, 1 + 2 n)."""
        leg = np.arange(self.fold) * 2 * pi / self.fold
        r = np.repeat([0.0, *MARKS.values()], [1, self.fold, self.fold])
        theta = np.concatenate([[0.0], *[leg] * len(MARKS)]) + _bend(moment.look, r)
        return _to_image(moment, r, theta)


def _look(generator: np.random.Generator, fold: int) -> Look:
    hue = generator.random()
    colours = [(hue, 0.75, 1.0), (hue + generator.uniform(0.12, 0.3), 0.8, 0.95), (hue, 0.2, 0.2)]
    toward = generator.uniform(0, 2 * pi)
    return Look(
        centre=generator.uniform(-0.12, 0.12, 2).astype(np.float32),
        scale=generator.uniform(0.58, 0.74),
        # More legs are thinner, or they would grow together.
        width=generator.uniform(0.16, 0.24) * min(1, 3 / fold) ** 0.5,
        knee=generator.uniform(0.25, 0.4),
        bend=generator.uniform(0.4, 0.75),
        light=np.array([0.6 * cos(toward), 0.6 * sin(toward), 0.8], np.float32),
        colours=np.array([colorsys.hsv_to_rgb(h % 1, s, v) for h, s, v in colours], np.float32)
        * 255,
    )


def _bend(look: Look, r: Floats) -> Floats:
    """The angle by which a leg's middle line is bent at r: none up to the knee, then ever more."""
    return np.asarray(look.bend * np.clip((r - look.knee) / (1 - look.knee), 0, None) ** 2)


def _slope(look: Look, r: Floats) -> Floats:
    """How far that line runs sideways for each step outwards."""
    beyond = np.clip(r - look.knee, 0, None)
    return np.asarray(2 * look.bend * r * beyond / (1 - look.knee) ** 2)


def _to_image(moment: Moment, r: Floats, theta: Floats) -> Floats:
    """Where points of the body, in its polar coordinates (...), lie in the image: (2, ...)."""
    turned = theta + moment.angle + moment.twist * r**2
    flat = r * np.stack([np.cos(turned), np.sin(turned)])
    axes = (2,) + (1,) * r.ndim
    carried = flat + moment.sag.reshape(axes) * r**2
    return np.asarray(moment.look.centre.reshape(axes) + moment.look.scale * carried)


def _to_body(moment: Moment, points: Floats) -> tuple[Floats, Floats]:
    """The body's polar coordinates at points (2, ...) of the image, in closed form.

    Along the sag's direction u and across it s, the body's own u₀ and s₀ satisfy u = u₀ + a r²,
    s = s₀, r² = u₀² + s₀², where a is the length of the sag: a quadratic equation in u₀.
    """
    x, y = (points - moment.look.centre.reshape(2, *[1] * (points.ndim - 1))) / moment.look.scale
    a = float(np.hypot(*moment.sag))
    ex, ey = moment.sag / a if a else (1.0, 0.0)
    across = ex * y - ey * x
    rest = ex * x + ey * y - a * across**2
    along = 2 * rest / (1 + np.sqrt(np.maximum(1 + 4 * a * rest, 0)))
    r = np.hypot(along, across)
    turned = np.arctan2(across, along) + np.arctan2(ey, ex)
    return r, turned - moment.angle - moment.twist * r**2


class Rotor(World, name="rotor"):
    """A soft body with n like legs, held at its centre, under random gravity; exact flow.

    Every clip has its own angle, spin, place, size, leg shape, colours and light. The points are
    the centre and each leg's middle and tip; which leg is the first one is not to be seen.

    Args:
        size: side of the images in pixels.
        fold: number of legs n: the body looks the same when it is turned by 1/n of a full turn.
        frames: frames of a clip.
        train: number of training clips.
        val: number of validation clips.
        test: number of test clips.
        seed: another seed draws other bodies and motions.

    Raises:
        ValueError: images below 16 pixels, fewer than 2 or more than 12 legs, clips below 2
            frames, a negative number.
    """

    def __init__(
        self,
        size: int = 80,
        fold: int = 3,
        frames: int = 400,
        train: int = 200,
        val: int = 2,
        test: int = 5,
        seed: int = 0,
    ) -> None:
        if not 2 <= fold <= 12:
            raise ValueError(f"fold must be from 2 to 12, not {fold}")
        parts = [f"{part}_{leg + 1}" for part in MARKS for leg in range(fold)]
        self.point_names = ("centre", *parts)
        super().__init__(Body(size, fold, frames, seed), frames, train, val, test)
