"""Contrastive learning of keypoint descriptors, with clusters as labels.

D. Mallis, PhD thesis. With f the descriptors, y the clusters and
m the margin, a pair costs

    [same y] ‖f − f'‖² + [different y] max(0, m − ‖f − f'‖²).

Which pairs are formed: keypoints of one cluster are positive, across images and across augmented
views of one image; without clusters (the warm-up, section 6.1.5) only the views of one keypoint
are. Negative are keypoints of different clusters in any image (equations 5.3 and 6.2), or of the
same image alone (equation 6.3): with many clusters a landmark, two clusters may be one landmark,
but an image shows a landmark once. Locations in the background are negatives of the keypoints of
their image.

Deviations. The printed negative term is max(0, m − d²); the published code squares the hinge of the
distance, max(0, m − d)², as contrastive losses usually have it. The default is the code's: the
margin 0.8 and the published figures belong to it. The printed one is ``hinge="printed"``. Positive
and negative pairs have equal weight, half each, however many there are of either.

Pairs are enumerated, not built: no N × N matrix exists, memory is linear in the rows and in the
pairs that are used, and there is neither a loop over pairs nor a wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from landmark_lab.geometry.points import inside
from landmark_lab.losses.precision import precise

BACKGROUND = -1
"""The keypoint number of a location that shows no keypoint."""


@dataclass(frozen=True)
class Described:
    """N descriptors, and of what each one is.

    Attributes:
        vectors: (N, D), normalised or not.
        image: (N,) int64: which image, in which a landmark is one place; all views of an image have
            its number, but not its mirror image, where left is right.
        keypoint: (N,) int64: which keypoint; the same one in another view has the same number,
            ``BACKGROUND`` is none. At least 0 otherwise.
        label: (N,) int64: its cluster, −1 where there is none.
        found: (N,) boolean: whether the row counts at all.
    """

    vectors: Tensor
    image: Tensor
    keypoint: Tensor
    label: Tensor
    found: Tensor

    @classmethod
    def keypoints(
        cls, vectors: Tensor, points: Tensor, labels: Tensor, image: Tensor | None = None
    ) -> Described:
        """The keypoints of one view of B images.

        Args:
            vectors: (B, M, D).
            points: (B, M, 2) in the view. NaN or outside: the keypoint is not seen in it. Keypoint
                m of image b must be the same in all views that are joined.
            labels: (B, M) clusters, −1 where there is none.
            image: (B,) int64 numbers of the images; by default from 0 on.
        """
        images, count = labels.shape
        number = torch.arange(images * count, device=vectors.device)
        return cls._of(vectors, points, number, labels.reshape(-1), image)

    @classmethod
    def background(cls, vectors: Tensor, points: Tensor, image: Tensor | None = None) -> Described:
        """Locations of one view of B images that show no keypoint; see ``background_points``.

        Args:
            vectors: (B, R, D).
            points: (B, R, 2); NaN or outside the image: none.
            image: (B,) int64 numbers of the images; by default from 0 on.
        """
        none = torch.full((points[..., 0].numel(),), BACKGROUND, device=vectors.device)
        return cls._of(vectors, points, none, torch.full_like(none, -1), image)

    @classmethod
    def joined(cls, parts: Sequence[Described]) -> Described:
        """The views of the same B images as one."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    @classmethod
    def _of(
        cls,
        vectors: Tensor,
        points: Tensor,
        keypoint: Tensor,
        label: Tensor,
        image: Tensor | None,
    ) -> Described:
        images, count = points.shape[:2]
        if image is None:
            image = torch.arange(images, device=vectors.device)
        found = inside(points).reshape(-1)
        return cls(vectors.flatten(0, 1), image.repeat_interleave(count), keypoint, label, found)


@dataclass(frozen=True)
class Contrastive:
    """The contrastive loss, and which pairs it is made of.

    Args:
        margin: m; above 0. Between normalised descriptors the distance is at most 2.
        hinge: ``squared``: max(0, m − d)²; ``printed``: max(0, m − d²).
        positives: ``cluster``: keypoints of one cluster, and the views of a keypoint that has none;
            ``keypoint``: only the views of a keypoint, which is learning by equivariance.
        negatives: ``image``: different keypoints of the same image, equation 6.3; ``cluster``:
            keypoints of different clusters in any image, equation 5.3. A keypoint without a cluster
            is not told apart from those of other images.
    """

    margin: float = 0.8
    hinge: Literal["squared", "printed"] = "squared"
    positives: Literal["cluster", "keypoint"] = "cluster"
    negatives: Literal["image", "cluster"] = "image"

    def __post_init__(self) -> None:
        if not 0 < self.margin < float("inf"):
            raise ValueError(f"margin {self.margin}; allowed: finite, above 0")

    def __call__(self, rows: Described, uniform: Tensor) -> Tensor:
        """The loss of a process's batch: half the mean over either kind of pairs.

        All pairs count where there are no more than P of a kind; otherwise P of them, drawn evenly.
        Pairs are formed within the process's own batch.

        Args:
            rows: descriptors of all views of B images.
            uniform: (2, P) random numbers in [0, 1), for the positive and for the negative pairs.
                The published code uses at most 5,000 pairs.

        Returns:
            A scalar, at least float32; what has no pair contributes 0.
        """
        positive, negative = self.pairs(rows, uniform)
        vectors = precise(rows.vectors)
        near = _mean(_squares(vectors, positive), positive.weight)
        apart = _mean(self._hinge(_squares(vectors, negative)), negative.weight)
        return (near + apart) / 2

    @torch.no_grad()
    def pairs(self, rows: Described, uniform: Tensor) -> tuple[Pairs, Pairs]:
        """The positive and the negative pairs that the loss takes; see ``__call__``."""
        own = rows.found & (rows.keypoint != BACKGROUND)
        # A keypoint without a cluster is its own: below −1, where no cluster's number is.
        single = -2 - rows.keypoint
        cluster = torch.where(rows.label >= 0, rows.label, single)
        alike = cluster if self.positives == "cluster" else single
        positive = _within_groups(alike, own, own, uniform[0])

        within = rows.image if self.negatives == "image" else torch.zeros_like(rows.image)
        negative = _within_groups(within, rows.found, own, uniform[1])
        one, other = negative.first, negative.second
        # The views of a keypoint are alike whatever their clusters (a mirrored view has others).
        different = (cluster[one] != cluster[other]) & (rows.keypoint[one] != rows.keypoint[other])
        clustered = (rows.label[one] >= 0) & (rows.label[other] >= 0)
        known = clustered | (rows.image[one] == rows.image[other])
        return positive, negative._replace(weight=negative.weight * (different & known))

    def _hinge(self, squares: Tensor) -> Tensor:
        if self.hinge == "printed":
            return (self.margin - squares).clamp_min(0)
        # Equal descriptors have no direction to part in: the clamp gives them no gradient, not NaN.
        distance = squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
        return (self.margin - distance).clamp_min(0).square()


class Pairs(NamedTuple):
    """Pairs of rows.

    Attributes:
        first: (P,) int64, rows.
        second: (P,) int64, rows.
        weight: (P,) float: of how many pairs this one is drawn; 0: it is none.
    """

    first: Tensor
    second: Tensor
    weight: Tensor


@torch.no_grad()
def background_points(points: Tensor, uniform: Tensor, distance: float = 6 * 2 / 64) -> Tensor:
    """Random locations that are no keypoint's.

    Args:
        points: (B, M, 2) all keypoints of the images, NaN where there is none.
        uniform: (B, R, 2) random numbers in [0, 1), R locations an image.
        distance: locations closer than this to a keypoint are dropped; in points, by default six
            cells of a map of 64.

    Returns:
        (B, R, 2), NaN where dropped.
    """
    places = uniform * 2 - 1
    apart = (places[:, :, None] - points[:, None]).norm(dim=-1)
    close = (apart < distance).any(-1)  # false for NaN
    return torch.where(close[..., None], torch.nan, places)


def _within_groups(group: Tensor, counts: Tensor, partner: Tensor, uniform: Tensor) -> Pairs:
    """At most P of the unordered pairs of rows of one group.

    With the rows of a group in a line, partners first, a row is paired with the partners before it.
    The pairs of all groups are thereby numbered 0 … T − 1. These numbers are cut into P equal
    ranges, and one is drawn from each: all of them where T ≤ P, else P different ones.

    Args:
        group: (N,) int64, the group of each row.
        counts: (N,) boolean, the rows that are paired.
        partner: (N,) boolean, the rows with which rows are paired: a pair has at least one.
        uniform: (P,) random numbers.
    """
    rows, size = len(group), len(uniform)
    if rows == 0:
        return Pairs(group, group, uniform[:0])
    # Rows that do not count go to the end, where they are paired with nothing.
    order = torch.argsort(partner.logical_not().to(torch.int8), stable=True)
    order = order[torch.argsort(group[order], stable=True)]
    order = order[torch.argsort(counts[order].logical_not().to(torch.int8), stable=True)]
    sorted_group, sorted_counts, sorted_partner = group[order], counts[order], partner[order]

    place = torch.arange(rows, device=group.device)
    begins = torch.ones_like(sorted_counts)
    begins[1:] = sorted_group[1:] != sorted_group[:-1]
    begins[1:] |= sorted_counts[1:] != sorted_counts[:-1]
    start = torch.where(begins, place, 0).cummax(0).values
    # How many partners stand before a row in its group.
    partners = (sorted_partner & sorted_counts).long()
    before = partners.cumsum(0) - partners
    before = (before - before[start]) * sorted_counts
    ends = before.cumsum(0)
    total = ends[-1]

    ranges = torch.arange(size + 1, device=group.device) * total // max(size, 1)
    low, length = ranges[:-1], ranges.diff()
    number = low + torch.minimum((uniform * length).long(), (length - 1).clamp_min(0))
    later = torch.searchsorted(ends, number, right=True).clamp_max(rows - 1)
    earlier = start[later] + number - (ends - before)[later]
    return Pairs(order[later], order[earlier.clamp(0, rows - 1)], length.to(uniform.dtype))


def _squares(vectors: Tensor, pairs: Pairs) -> Tensor:
    """The squared distances (P,); a difference, which does not cancel as ‖f‖² − 2 f·f' + ‖f'‖²."""
    first, second = vectors.index_select(0, pairs.first), vectors.index_select(0, pairs.second)
    return (first - second).square().sum(-1)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1)
