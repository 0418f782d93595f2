"""Correspondence by registration: the keypoints of every image are aligned with one template.

D. Mallis, "Unsupervised Landmark Discovery via Self-Training Correspondence", PhD thesis, 2023,
section 4.2.4. Coherent point drift (A. Myronenko, X. Song, TPAMI 2010; the library pycpd) moves
the template onto the keypoints of an image. It needs no correspondence and allows different numbers
of points and outliers. A linear assignment between the moved template and the keypoints, with
Euclidean distances as costs, then says which keypoint is which point of the template.

What the text leaves open, as it is settled here:

- The template is moved by a similarity first and, from there, by affine maps: one that starts as
  sure as the similarity ended, one that starts as unsure as it began. Of the three, the one stands
  whose assignment is the cheapest.
- A transformation that mirrors, or that changes a length by more than ``stretch``, is not believed.
  Without a believable similarity the image is not aligned. (Without this limit drift shrinks a
  template onto a few crowded keypoints.)
- The drift starts with a standard deviation of ``start`` and not with that of all points, and takes
  the share of keypoints that belong to no template point to lie evenly over the image. (With the
  library's own values the outliers of an image draw the template away from the object.)
- A distance above ``reach`` is no correspondence. Costs are capped there, so that a pair that
  is dropped afterwards cannot push aside one that is kept.
- A missing point is filled by the *moved* template: its place in this image as far as the others
  tell it. The place that it has in the template would be wrong wherever the object is not.

Drift is a local search from the upright template: it follows rotations up to about 60°.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from landmark_lab.errors import DataError, require
from landmark_lab.geometry.points import inside

MISSING = -1
"""The row of a template point without a keypoint."""

# Fewer points, of a template or an image, do not determine where the others would be.
FEWEST = 3

# Expectation and maximisation; with 20 points it settles after 20 to 60 of them.
_ITERATIONS = 150
_TOLERANCE = 1e-4

# Of the image, in half sides squared.
_AREA = 4.0

# Images that are tried as templates, and images that they are tried on.
_CANDIDATES, _JUDGED = 16, 48

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """The keypoints of images in the order of a template.

    Attributes:
        points: (..., K, 2) float32, matched keypoints, else the moved template; NaN throughout an
            image that could not be aligned.
        rows: (..., K) int64, which of the image's keypoints it is, -1 for none.
    """

    points: Tensor
    rows: Tensor

    @property
    def matched(self) -> Tensor:
        """Number of valid correspondences, (...)."""
        return (self.rows != MISSING).sum(-1)


def check_template(template: Tensor, where: str = "template") -> None:
    """Refuse points that nothing can be aligned with.

    Args:
        template: (K, 2).
        where: where it comes from, for the message.

    Raises:
        DataError: another shape, fewer than 3 points, points outside the image or not finite, or
            two points in one place.
    """
    if template.ndim != 2 or template.shape[1] != 2:
        raise DataError(
            f"the template has the shape {tuple(template.shape)}", where=where, allowed="(K, 2)"
        )
    if len(template) < FEWEST:
        raise DataError(
            f"a template of {len(template)} points says nothing about size and rotation",
            where=where,
            allowed=f"{FEWEST} points or more",
        )
    outside = (~inside(template)).nonzero()[:, 0].tolist()
    if outside:
        raise DataError(
            f"point {outside[0]} of the template, {template[outside[0]].tolist()}, lies outside "
            "the image",
            where=where,
            allowed="x and y in [-1, 1], the edges of the square image",
        )
    first, second = torch.triu_indices(len(template), len(template), 1)
    same = (template[first] == template[second]).all(-1).nonzero()[:, 0].tolist()
    if same:
        raise DataError(
            f"points {int(first[same[0]])} and {int(second[same[0]])} of the template are the same",
            where=where,
        )


def check_settings(reach: float, outliers: float, start: float, stretch: float) -> None:
    """Refuse settings with which :func:`align` makes no sense.

    Raises:
        ValueError: one is out of its range.
    """
    if not (reach > 0 and 0 <= outliers < 1 and start > 0 and stretch >= 1):
        raise ValueError(
            f"reach {reach}, outliers {outliers}, start {start}, stretch {stretch}; allowed: above "
            "0, 0 to below 1, above 0, 1 or more"
        )


def align(
    points: Tensor,
    template: Tensor,
    *,
    reach: float = 0.1,
    outliers: float = 0.4,
    start: float = 0.15,
    stretch: float = 2.0,
    affine: bool = True,
) -> Alignment:
    """Put the keypoints of one image in the order of a template.

    Args:
        points: (N, 2) keypoints, N may be 0.
        template: (K, 2), see :func:`check_template`.
        reach: the longest distance of a correspondence after the alignment, in half sides.
        outliers: the expected share of keypoints that belong to no template point, in [0, 1).
        start: how far off the template's points are expected to be at first, in half sides.
        stretch: the largest scale, along any direction, that the template may be moved by.
        affine: whether an affine map may follow the similarity.

    Returns:
        The K points and which keypoints they are.
    """
    check_settings(reach, outliers, start, stretch)
    keypoints = points.detach().cpu().double().numpy()
    places = template.detach().cpu().double().numpy()
    rows = torch.full((len(template),), MISSING, device=points.device)
    candidates = _drifts(keypoints, places, outliers, start, stretch, affine)
    if not candidates:
        return Alignment(torch.full_like(template, torch.nan, dtype=torch.float32), rows)
    moved = min(candidates, key=lambda one: _cost(one, keypoints, reach))
    which, keypoint = match(moved, keypoints, reach)
    moved[which] = keypoints[keypoint]
    rows[torch.from_numpy(which)] = torch.from_numpy(keypoint).to(rows)
    return Alignment(torch.from_numpy(moved).float().to(points.device), rows)


def align_all(
    points: Tensor, image: Tensor, images: int, template: Tensor, **settings: Any
) -> Alignment:
    """Align the keypoints of many images with one template.

    Args:
        points: (T, 2) keypoints of all images.
        image: (T,) the image of each, rising.
        images: how many images there are, N.
        template: (K, 2).
        settings: of :func:`align`.

    Returns:
        Points (N, K, 2) and rows (N, K) of ``points``.
    """
    starts = torch.searchsorted(image.cpu(), torch.arange(images + 1)).tolist()
    found = [align(points[first:end], template, **settings) for first, end in pairwise(starts)]
    if not found:
        return Alignment(template.new_empty(0, *template.shape), image.new_empty(0, len(template)))
    rows = torch.stack([one.rows for one in found])
    offsets = torch.tensor(starts[:-1], device=rows.device)[:, None]
    return Alignment(
        torch.stack([one.points for one in found]),
        torch.where(rows == MISSING, MISSING, rows + offsets),
    )


def template_of(points: Tensor, scores: Tensor, image: Tensor, number: int, count: int) -> Tensor:
    """The ``count`` surest keypoints (count, 2) of an image, or all of them if it has fewer.

    Args:
        points: (T, 2) keypoints of all images.
        scores: (T,) how sure they are.
        image: (T,) the image of each.
        number: of the image.
        count: points of the template.
    """
    rows = (image == number).nonzero()[:, 0]
    order = scores[rows].argsort(descending=True, stable=True)
    return points[rows[order[:count]]]


def central_image(
    points: Tensor, scores: Tensor, image: Tensor, images: int, count: int, **settings: Any
) -> int | None:
    """The image that makes the best template: most keypoints of others correspond to its own.

    Of all images, 16 are tried as templates for 48 others, evenly chosen.

    Args:
        points, scores, image: as in :func:`template_of`; ``image`` is rising.
        images: how many images there are, N.
        count: keypoints that a template has.
        settings: of :func:`align`.

    Returns:
        The image's number, or None if no image has so many keypoints.
    """
    counts = image.bincount(minlength=images)
    candidates = _evenly((counts >= count).nonzero()[:, 0], _CANDIDATES).tolist()
    judged = _evenly((counts >= FEWEST).nonzero()[:, 0], _JUDGED)
    chosen = torch.isin(image, judged)
    # Numbered anew, so that the others are not gone through.
    renumbered = torch.searchsorted(judged, image[chosen])

    def matched(number: int) -> int:
        template = template_of(points, scores, image, number, count)
        found = align_all(points[chosen], renumbered, len(judged), template, **settings)
        return int(found.matched.sum())

    return max(candidates, key=matched, default=None)


def match(template: _Array, points: _Array, reach: float) -> tuple[Any, Any]:
    """The one-to-one pairs of least total distance, a point without a partner costing ``reach``.

    Args:
        template: (K, 2).
        points: (N, 2).
        reach: the longest distance of a pair.

    Returns:
        The rows of the template and of the points that belong together.
    """
    distances = np.linalg.norm(template[:, None] - points, axis=-1)
    first, second = linear_sum_assignment(np.minimum(distances, reach))
    kept = distances[first, second] <= reach
    return first[kept], second[kept]


def _cost(template: _Array, points: _Array, reach: float) -> float:
    """What the cheapest pairs cost, the template's points without one included."""
    first, second = match(template, points, reach)
    within = np.linalg.norm(template[first] - points[second], axis=-1).sum()
    return float(within) + reach * (len(template) - len(first))


def _drifts(
    points: _Array, template: _Array, outliers: float, start: float, stretch: float, affine: bool
) -> list[_Array]:
    """The template (K, 2) moved onto the points (N, 2), by a similarity and by affine maps."""
    if len(points) < FEWEST:
        return []
    library = _pycpd()
    # The library's uniform component has the density 1/N, whatever the area that it stands for.
    odds = outliers / (1 - outliers) * len(points) / _AREA
    settings = {"w": odds / (1 + odds), "max_iterations": _ITERATIONS, "tolerance": _TOLERANCE}
    rigid = library.RigidRegistration(X=points, Y=template, sigma2=start**2, **settings)
    if not _registered(rigid) or not 1 / stretch <= rigid.s <= stretch:
        return []
    found: list[_Array] = [rigid.TY]
    for variance in (float(rigid.sigma2), start**2) if affine else ():
        free = library.AffineRegistration(X=points, Y=rigid.TY, sigma2=variance, **settings)
        if _registered(free) and _believable(rigid.s * free.B, stretch):
            found.append(free.TY)
    return found


def _registered(registration: Any) -> bool:
    """Whether a drift came to a finite end; points on a line or in one place do not let it."""
    try:
        with np.errstate(all="ignore"):
            registration.register()
    except np.linalg.LinAlgError:
        return False
    return bool(np.isfinite(registration.TY).all() and registration.sigma2 > 0)


def _believable(linear: _Array, stretch: float) -> bool:
    """Whether a linear map (2, 2) keeps orientation and, roughly, size along every direction."""
    scales = np.linalg.svd(linear, compute_uv=False)
    return bool(np.linalg.det(linear) > 0 and scales[1] >= 1 / stretch and scales[0] <= stretch)


def _pycpd() -> ModuleType:
    with warnings.catch_warnings():
        # Its source compares integers by `is`, which Python remarks on when it compiles it.
        warnings.simplefilter("ignore", SyntaxWarning)
        return require("pycpd", purpose="alignment with a template")


def _evenly(values: Tensor, most: int) -> Tensor:
    return values[torch.linspace(0, max(len(values) - 1, 0), min(len(values), most)).long()]
