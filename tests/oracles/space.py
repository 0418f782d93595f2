"""What a ray meets, one ray, solid and face at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landmark_lab_plugins.worlds.space import Camera, Pose, Solid

Floats = NDArray[np.floating]


def first_hit(camera: Camera, solids: Sequence[Solid], pose: Pose, seen: Floats) -> float:
    """Depth of what is seen at one point (2,) of the image; infinite for nothing.

    The ray is a line in space; each face's plane in space cuts off the part outside.
    """
    eye = np.array([0.0, 0.0, camera.distance])
    along = np.array([seen[0] / camera.focal, seen[1] / camera.focal, -1.0])
    nearest = np.inf
    for body in solids:
        begin, end = 0.0, np.inf
        for normal, offset in zip(body.normals, body.offsets, strict=True):
            outward = pose.turn @ normal
            height = outward @ (eye - pose.place) - offset  # of the camera over the face
            rise = outward @ along
            if rise < 0:
                begin = max(begin, -height / rise)
            elif rise > 0:
                end = min(end, -height / rise)
            elif height > 0:
                end = -np.inf
        if begin < end:
            nearest = min(nearest, begin)
    return nearest
