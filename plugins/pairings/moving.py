"""A sample that goes through a warp with everything that is known about it.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from landmark_lab.data.batch import Sample
from landmark_lab.geometry.points import inside
from landmark_lab.geometry.warp import Padding, Warp


def moved(sample: Sample, warp: Warp, marks: Tensor | None, padding: Padding) -> Sample:
    """The sample as the target of a warp.

    A point that leaves the image becomes invisible; the box becomes the one around its moved
    corners; there is no flow any more.

    Args:
        sample: B images.
        warp: B maps from them.
        marks: where :func:`marks_of` the sample lie in the target, (B, N, 2).
        padding: what the images show beyond the edges of the original.
    """
    size = (sample.image.shape[2], sample.image.shape[3])
    if sample.surroundings is not None:
        image = warp.apply(sample.surroundings, padding, size=size)
        mask = None if sample.mask is None else warp.apply(sample.mask, padding)
    elif sample.mask is not None:
        # As a fourth channel: most of the work is finding where to sample.
        maps = warp.apply(torch.cat([sample.image, sample.mask], 1), padding)
        image, mask = maps[:, :3], maps[:, 3:]
    else:
        image, mask = warp.apply(sample.image, padding), None
    # A flow leads to the next frame of a video, not to the other view.
    still = replace(sample, surroundings=None, flow=None, flow_visible=None)
    result = replace(still, image=image, mask=mask)
    if marks is not None and sample.points is not None:
        result.points = marks[:, : sample.points.shape[1]]
        visible = inside(result.points)
        result.visible = visible if sample.visible is None else visible & sample.visible
    if marks is not None and sample.box is not None:
        corners = marks[:, -4:]
        result.box = torch.cat([corners.amin(1), corners.amax(1)], 1)
    return result


def marks_of(sample: Sample) -> Tensor | None:
    """All that moves as points, the annotated points and the corners of the box: (B, N, 2)."""
    marks = [] if sample.points is None else [sample.points]
    if sample.box is not None:
        x0, y0, x1, y1 = sample.box.unbind(1)
        corners = torch.stack([x0, y0, x1, y0, x1, y1, x0, y1], 1)
        marks.append(corners.reshape(-1, 4, 2))
    return torch.cat(marks, 1) if marks else None
