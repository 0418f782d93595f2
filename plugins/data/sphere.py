"""A textured sphere that turns right round, out of the image's plane.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised learning of object frames by dense equivariant image
labelling", NeurIPS 2017, section 4.2. The paper shows a sphere with a blue and an orange side and
gives no figures; what follows is chosen: the sphere spins about its own poles by 4 to 8 degrees a
frame, either way round; the poles lean and sway a little.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``. In space z points towards the
viewer, who looks in parallel. On the sphere the north pole is at y = -1, longitude 0 at z = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.seeding import rng
from landmark_lab_plugins.worlds.clips import Drawing, Floats, Scene, World, pixel_centres
from landmark_lab_plugins.worlds.space import rotation

RADIUS = 0.8
BACKGROUND = np.array([44, 46, 52], np.float32)
LIGHT = np.array([-0.4, -0.5, 0.77])
AMBIENT = 0.75  # share of the light that reaches a surface turned away from it
TILT = 25.0  # degrees that the poles lean at most
SPEED = (4.0, 8.0)  # degrees a frame
MARKS = ((90, 0), *product((45, 0, -45), range(0, 360, 45)), (-90, 0))  # latitude, longitude

_TEXTURE = (160, 320)  # latitudes, longitudes
_SPOTS = 90
_EDGE = 0.05  # radians from a spot's colour to what is around it
_WARM = np.array([[238, 128, 36], [252, 186, 72], [206, 72, 36], [255, 226, 160]], np.float32)
_COLD = np.array([[40, 84, 196], [64, 152, 226], [28, 44, 120], [150, 214, 240]], np.float32)
_OVERSAMPLING = 2


class Globe(Scene[NDArray[np.float32]]):
    """The sphere; a moment is its rotation (3, 3). See :class:`Sphere` for the arguments."""

    def __init__(self, size: int, frames: int, seed: int) -> None:
        self.size = size
        self.frames = frames
        self.seed = seed
        self._marks = directions(*np.radians(np.array(MARKS, np.float32).T))
        centres = pixel_centres(size)
        far = np.hypot(*centres)
        self._cover = np.clip((RADIUS - far) * size / 2 + 0.5, 0, 1)
        self._on = self._cover == 1
        self._front = _front(centres / RADIUS)
        fine = pixel_centres(size * _OVERSAMPLING) / RADIUS
        # Beyond the rim the colour of the rim, to be mixed with the background.
        self._fine = _front(fine / np.maximum(np.hypot(*fine), 1))
        diffuse = np.tensordot(LIGHT.astype(np.float32), self._fine, 1).clip(0)
        self._light = (AMBIENT + (1 - AMBIENT) * diffuse)[..., None]

    def motion(self, split: int, clip: int) -> Sequence[NDArray[np.float32]]:
        """Rotations from the sphere to space."""
        generator = rng(self.seed, "sphere", split, clip)
        first, lean, sway = generator.uniform(0, 2 * np.pi, 3)
        tilt = np.radians(TILT) * np.sqrt(generator.random())
        speed = np.radians(generator.uniform(*SPEED)) * generator.choice([-1, 1])
        period = generator.uniform(40, 80)  # frames of a sway
        moments = []
        for frame in range(self.frames + 1):
            angle = tilt * (0.8 + 0.2 * np.sin(2 * np.pi * frame / period + sway))
            pole = rotation((np.cos(lean), 0, np.sin(lean)), angle)
            spin = rotation((0, 1, 0), first + speed * frame)
            moments.append((pole @ spin).astype(np.float32))
        return moments

    def draw(self, now: NDArray[np.float32], after: NDArray[np.float32]) -> Drawing:
        """Draw the sphere over a plain background; see the base class."""
        lit = self._light * self._colours(np.tensordot(now.T, self._fine, 1))
        ball = cv2.resize(lit, (self.size, self.size), interpolation=cv2.INTER_AREA)
        image = BACKGROUND + self._cover[..., None] * (ball - BACKGROUND)
        moved = np.tensordot(after @ now.T, self._front, 1)
        flow = np.where(self._on, RADIUS * (moved - self._front)[:2], 0)
        marks = now @ self._marks
        return Drawing(
            image=np.rint(image).astype(np.uint8),
            points=RADIUS * marks[:2].T.astype(np.float32),
            visible=marks[2] > 0,
            mask=self._cover[None].astype(np.float32),
            flow=flow.astype(np.float32),
            # The background is at rest and never hidden.
            flow_visible=np.where(self._on, moved[2] > 0, self._cover == 0),
        )

    def _colours(self, surface: Floats) -> NDArray[np.float32]:
        """The texture at directions (3, H, W) of the sphere: (H, W, 3)."""
        latitude, longitude = coordinates(surface)
        row = (0.5 - latitude / np.pi) * _TEXTURE[0] - 0.5
        column = (longitude / (2 * np.pi) + 0.5) * _TEXTURE[1] - 0.5
        found = cv2.remap(self._texture, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        return np.asarray(found, dtype=np.float32)

    @cached_property
    def _texture(self) -> NDArray[np.float32]:
        """The colours by latitude (north first) and longitude (from -180 degrees): (H, W, 3)."""
        generator = rng(self.seed, "sphere texture")
        rows, columns = _TEXTURE
        latitude = np.pi / 2 - (np.arange(rows) + 0.5) * np.pi / rows
        longitude = (np.arange(columns) + 0.5) * 2 * np.pi / columns - np.pi
        place = directions(latitude[:, None], longitude[None]).astype(np.float32)
        warm = np.clip(4 * place[0] + 0.5, 0, 1)[..., None]  # the side towards x
        colour = _COLD[0] + warm * (_WARM[0] - _COLD[0])
        middles = generator.normal(size=(_SPOTS, 3)).astype(np.float32)
        for middle in middles / np.linalg.norm(middles, axis=1, keepdims=True):
            radius = generator.uniform(0.08, 0.3)
            beyond = np.tensordot(middle, place, 1) - np.cos(radius)
            share = np.clip(beyond / (_EDGE * np.sin(radius)) + 0.5, 0, 1)[..., None]
            shade = (_WARM if middle[0] > 0 else _COLD)[generator.integers(1, len(_WARM))]
            colour += share * (shade - colour)
        return np.asarray(colour, np.float32)


def directions(latitude: Floats, longitude: Floats) -> Floats:
    """Unit vectors (3, ...) of latitudes and longitudes in radians, which broadcast."""
    latitude, longitude = np.broadcast_arrays(latitude, longitude)
    along = np.cos(latitude)
    return np.stack([along * np.sin(longitude), -np.sin(latitude), along * np.cos(longitude)])


def coordinates(surface: Floats) -> tuple[Floats, Floats]:
    """Latitude and longitude in radians of unit vectors (3, ...)."""
    x, y, z = surface
    return np.arcsin(np.clip(-y, -1, 1)), np.arctan2(x, z)


def _front(flat: Floats) -> NDArray[np.float32]:
    """The visible points of the unit sphere over (2, H, W), on its rim beyond it: (3, H, W)."""
    height = np.sqrt(np.maximum(1 - (flat**2).sum(0), 0))
    return np.concatenate([flat, height[None]]).astype(np.float32)


class Sphere(World, name="sphere"):
    """A textured sphere that turns right round out of plane; exact flow, 26 points of its surface.

    The points are the poles and every 45 degrees of longitude on the equator and at 45 degrees
    north and south; on the far side they are invisible.

    Args:
        size: side of the images in pixels.
        frames: frames of a clip; a turn takes 45 to 90.
        train: number of training clips.
        val: number of validation clips.
        test: number of test clips.
        seed: another seed draws another texture and other motions.

    Raises:
        ValueError: images below 16 pixels, clips below 2 frames, a negative number.
    """

    point_names = tuple(f"latitude_{north}_longitude_{east}" for north, east in MARKS)

    def __init__(
        self,
        size: int = 80,
        frames: int = 120,
        train: int = 100,
        val: int = 2,
        test: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(Globe(size, frames, seed), frames, train, val, test)
