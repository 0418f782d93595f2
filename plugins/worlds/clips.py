"""Clips of frames that are drawn when they are asked for, with their exact forward flow.

A scene says how its things move and what a moment looks like. The motion of a clip is a function of
(seed, split, clip), a frame one of two successive moments of it; so no frame depends on the order
in which frames are drawn, on the number of workers or on the number of clips.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``; flows are in the same units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from landmark_lab.data.sampling import Images, Row
from landmark_lab.geometry.points import pixel_grid
from landmark_lab.roles import ImageData, Split

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Moment = TypeVar("Moment")

PROVIDES = frozenset({"points", "visible", "mask", "identity", "frame", "flow", "flow_visible"})
_SPLITS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
_FAR_APART = 10**9  # clips of a split: more than anybody asks for


class Drawing(NamedTuple):
    """A frame and what is known about it.

    Attributes:
        image: (size, size, 3) uint8.
        points: (P, 2), exact also where they are hidden or outside the image.
        visible: (P,) whether they are in the image and nothing hides them.
        mask: (1, size, size) the share of each pixel that shows the object.
        flow: (2, size, size) where what each pixel's centre shows moves until the next frame.
        flow_visible: (size, size) the pixels that show one surface, not the edge of one, and whose
            centre is seen in the next frame.
    """

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    visible: Bools
    mask: NDArray[np.float32]
    flow: NDArray[np.float32]
    flow_visible: Bools


class Scene(ABC, Generic[Moment]):
    """How things move and what they look like.

    Attributes:
        size: side of the images in pixels.
    """

    size: int

    @abstractmethod
    def motion(self, split: int, clip: int) -> Sequence[Moment]:
        """The moments of a clip: one for each frame, and one more for the last one's flow."""

    @abstractmethod
    def draw(self, now: Moment, after: Moment) -> Drawing:
        """Draw a moment, with the flow to the next."""


class Clips(Images, Generic[Moment]):
    """The frames of one split, clip after clip.

    Args:
        scene: what is drawn.
        split: whose clips.
        clips: number of clips.
        frames: frames of a clip.
    """

    def __init__(self, scene: Scene[Moment], split: Split, clips: int, frames: int) -> None:
        self.scene = scene
        self.split = _SPLITS[split]
        self.clips = clips
        self.frames = frames
        number = np.arange(clips * frames, dtype=np.int64)
        self.identity = self.split * _FAR_APART + number // frames
        self.frame = number % frames
        self._motions: dict[int, Sequence[Moment]] = {}

    def __len__(self) -> int:
        return self.clips * self.frames

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip, frame = divmod(int(index), self.frames)
        if clip not in self._motions:
            self._motions[clip] = self.scene.motion(self.split, clip)
        moments = self._motions[clip]
        drawing = self.scene.draw(moments[frame], moments[frame + 1])
        return {
            **drawing._asdict(),
            "identity": self.split * _FAR_APART + clip,
            "frame": frame,
        }


class World(ImageData):
    """Data that the project draws: clips of a scene, split by clip.

    Args:
        scene: what is drawn; its clips have ``frames`` frames.
        frames: frames of a clip.
        train: number of training clips.
        val: number of validation clips.
        test: number of test clips.

    Raises:
        ValueError: images below 16 pixels, clips below 2 frames, a negative number.
    """

    def __init__(self, scene: Scene[Any], frames: int, train: int, val: int, test: int) -> None:
        super().__init__()
        if scene.size < 16:
            raise ValueError(f"size must be at least 16, not {scene.size}")
        if frames < 2:
            raise ValueError(f"frames must be at least 2, not {frames}")
        if min(train, val, test) < 0:
            raise ValueError("train, val and test must not be negative")
        self.scene = scene
        self._frames = frames
        self._counts: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.check_annotation()

    @property
    def provides(self) -> frozenset[str]:
        """Everything: points, masks, the clip and the frame's place in it, the flow."""
        return PROVIDES

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.scene.size

    def images(self, split: Split) -> Images:
        """The frames of a split, drawn when they are asked for."""
        return Clips(self.scene, split, self._counts[split], self._frames)


def pixel_centres(size: int) -> NDArray[np.float32]:
    """The centres of the pixels of a square image as points, (2, size, size)."""
    grid: NDArray[np.float32] = pixel_grid(size, size).numpy().T.reshape(2, size, size)
    return np.ascontiguousarray(grid)


def inside(points: Floats) -> Bools:
    """Which points (2, ...) lie in the image."""
    return np.asarray((np.abs(points) <= 1).all(axis=0))
