"""Rigid bodies in space: rotations, and convex solids seen in perspective.

Convention: in space x points to the right in the image, y down and z towards the viewer; points of
an image are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from landmark_lab_plugins.worlds.clips import Floats


def rotation(axis: Sequence[float], angle: float) -> Floats:
    """The matrix (3, 3) that turns by an angle in radians about an axis of length 1 (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


class Pose(NamedTuple):
    """Where a body is: its point q lies at ``turn @ q + place`` in space.

    Attributes:
        turn: (3, 3) rotation.
        place: (3,).
    """

    turn: Floats
    place: Floats

    def apply(self, points: Floats) -> Floats:
        """Points (3, N) of the body in space."""
        return np.asarray(self.turn @ points + self.place[:, None])

    def undo(self, points: Floats) -> Floats:
        """Points (3, N) of space on the body."""
        return np.asarray(self.turn.T @ (points - self.place[:, None]))


class Solid(NamedTuple):
    """A convex polyhedron: all q with ``normals @ q <= offsets``.

    Attributes:
        corners: (3, V).
        normals: (F, 3) outward unit vectors of its faces.
        offsets: (F,).
        colour: (3,) up to 255.
    """

    corners: Floats
    normals: Floats
    offsets: Floats
    colour: Floats


def solid(corners: Floats, colour: Sequence[float]) -> Solid:
    """The convex hull of corners (3, V)."""
    from scipy.spatial import ConvexHull

    # Qhull cuts the faces into triangles: each plane comes several times.
    planes = np.unique(ConvexHull(corners.T).equations.round(9), axis=0)
    return Solid(corners, planes[:, :3], -planes[:, 3], np.array(colour, np.float64))


class Hits(NamedTuple):
    """What N rays meet first.

    Attributes:
        depth: (N,) how far in front of the camera, infinite where there is nothing.
        solid: (N,) number of the solid, -1 where there is nothing.
        face: (N,) number of its face.
    """

    depth: Floats
    solid: NDArray[np.int64]
    face: NDArray[np.int64]


class Camera(NamedTuple):
    """A pinhole on the z axis that looks back along it.

    Attributes:
        distance: its z.
        focal: length of the image of a unit at distance 1, in half images.
    """

    distance: float
    focal: float

    def project(self, points: Floats) -> tuple[Floats, Floats]:
        """Where points (3, N) of space are seen, (2, N), and their depth (N,)."""
        depth = self.distance - points[2]
        return self.focal * points[:2] / depth, depth

    def at_depth(self, seen: Floats, depth: Floats) -> Floats:
        """The points (3, N) of space that are seen at (2, N) in a depth (N,)."""
        return np.concatenate([seen * (depth / self.focal), (self.distance - depth)[None]])


class View:
    """A body of convex solids in a pose, seen by a camera.

    Args:
        camera: that sees it.
        solids: the parts of the body.
        pose: of the body.
    """

    def __init__(self, camera: Camera, solids: Sequence[Solid], pose: Pose) -> None:
        self._solids = []
        eye = pose.undo(np.array([[0.0], [0.0], [camera.distance]]))
        lens = np.array([camera.focal, camera.focal, -1.0])
        for body in solids:
            outline, _ = camera.project(pose.apply(body.corners))
            ahead = body.offsets - (body.normals @ eye)[:, 0]
            # The inverse of the depth at which a ray crosses a plane is linear in (x, y, 1).
            planes = (body.normals @ pose.turn.T / (ahead[:, None] * lens)).astype(np.float32)
            towards = np.flatnonzero(ahead < 0)  # the faces that are turned to the camera
            self._solids.append((outline.min(1), outline.max(1), planes, towards, ahead >= 0))

    @property
    def outline(self) -> tuple[Floats, Floats]:
        """The least and the greatest point (2,) of the image that the body reaches."""
        low, high, *_ = zip(*self._solids, strict=True)
        return np.min(low, axis=0), np.max(high, axis=0)

    def cast(self, seen: Floats) -> Hits:
        """What the rays through points (2, N) of the image meet first.

        A ray enters a convex solid through the last of the faces that are turned to the camera,
        and leaves it through the first of those that are turned away.
        """
        x, y = seen = seen.astype(np.float32)
        nearness = np.zeros(len(x), np.float32)  # 1 / depth of what was met so far
        which, face = np.full((2, len(x)), -1)
        for number, (low, high, planes, towards, away) in enumerate(self._solids):
            (some,) = np.nonzero((x >= low[0]) & (x <= high[0]) & (y >= low[1]) & (y <= high[1]))
            if not len(some):
                continue
            crossing = planes[:, :2] @ seen[:, some] + planes[:, 2:]
            enter = crossing[towards].argmin(0)
            at = crossing[towards].min(0)
            met = at > np.maximum(crossing[away].max(0), nearness[some])
            chosen = some[met]
            nearness[chosen], which[chosen], face[chosen] = at[met], number, towards[enter[met]]
        with np.errstate(divide="ignore"):
            return Hits(1 / nearness, which, face)
