"""Putting the keypoints of all images in the order of one template.

D. Mallis, "Unsupervised Landmark Discovery via Self-Training Correspondence", PhD thesis, 2023,
section 4.2.4. How an image is aligned is in ``clustering/template.py``; here is where the template
comes from, which images can be used, and what becomes of mirror images.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from landmark_lab.clustering.template import (
    MISSING,
    Alignment,
    align_all,
    central_image,
    check_settings,
    check_template,
    template_of,
)
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.sampling import Images
from landmark_lab.errors import DataError

# So few file names are listed in a message.
_NAMED = 20


@dataclass(frozen=True)
class Template:
    """What all images are aligned with, and how.

    Args:
        points: the template's K points, (x, y) in [-1, 1].
        image: or the training image whose K surest keypoints it is: its position, or its file's
            name. Without either the image to which most others can be aligned.
        least: share of the K points, rounded to whole ones, that an image must have keypoints for;
            above 0. Keypoints by chance can reach a half of a small template's points; a larger
            share keeps such images out, and many good ones.
        reach, outliers, start, stretch, affine: see ``clustering.template.align``.
    """

    points: tuple[tuple[float, float], ...] = ()
    image: int | str | None = None
    least: float = 0.5
    reach: float = 0.1
    outliers: float = 0.4
    start: float = 0.15
    stretch: float = 2.0
    affine: bool = True

    def __post_init__(self) -> None:
        if self.points and self.image is not None:
            raise ValueError("a template has either points or an image")
        if self.points:
            check_template(torch.tensor(self.points), "points")
        if not 0 < self.least <= 1:
            raise ValueError(f"least {self.least}; allowed: above 0, to 1")
        check_settings(self.reach, self.outliers, self.start, self.stretch)

    def ordered(
        self, found: KeypointTable, count: int, image: int | None = None, mirror: bool = True
    ) -> KeypointTable:
        """The keypoints in the template's order, of the images that could be aligned.

        Args:
            found: keypoints with scores.
            count: K, points of the template.
            image: the position of ``self.image``, see :func:`position_of`.
            mirror: whether to align the mirrored keypoints, too.

        Returns:
            K rows for each image that has enough keypoints of the template: where it lacks one, the
            moved template's point with the score 0. Labels are the template's points, mirrored
            labels those of the same keypoints in the mirror image, -1 where unknown.

        Raises:
            DataError: no image has K keypoints to be the template, or none can be aligned.
        """
        template = self._points(found, count, image)
        own = self._aligned(found.points, found, template)
        least = max(1, round(self.least * count))
        kept = (own.matched >= least).nonzero()[:, 0]
        if not len(kept):
            raise DataError(
                f"no image has keypoints for {least} of the template's {count} points",
                where="template",
                hint="another template, a larger reach, a smaller least",
            )
        rank_zero_info(
            f"{len(kept)} of {int((found.counts() > 0).sum())} images have keypoints for {least} "
            f"and more of the template's {count} points, {own.matched[kept].double().mean():.1f} "
            "on average"
        )
        rows = own.rows[kept].flatten()
        seen = rows != MISSING
        mirrored = torch.full((len(found),), MISSING)
        if mirror:
            flipped = found.points * found.points.new_tensor([-1.0, 1.0])
            theirs = self._aligned(flipped, found, template).rows
            known = theirs != MISSING
            mirrored[theirs[known]] = torch.arange(count).expand_as(theirs)[known]
        return KeypointTable.of(
            found.images,
            kept.repeat_interleave(count),
            own.points[kept].flatten(0, 1),
            torch.where(seen, found.scores[rows], 0),
            torch.arange(count).repeat(len(kept)),
            torch.where(seen, mirrored[rows], MISSING),
        )

    def _points(self, found: KeypointTable, count: int, image: int | None) -> Tensor:
        if self.points:
            return torch.tensor(self.points)
        keypoints = (found.points, found.scores, found.image)
        rich = (found.counts() >= count).nonzero()[:, 0]
        if image is not None and len(rich):
            chosen: int | None = int(rich[(rich - image).abs().argmin()])
            if chosen != image:
                rank_zero_warn(f"the image {image} has fewer than {count} keypoints")
        else:
            chosen = central_image(*keypoints, found.images, count, **self._settings)
        if chosen is None:
            raise DataError(
                f"no image has the {count} keypoints of a template; the most have {found.most}",
                where="template",
                hint="fewer landmarks, or a template of given points",
            )
        rank_zero_info(f"the template is the image {chosen}")
        return template_of(*keypoints, chosen, count)

    def _aligned(self, points: Tensor, found: KeypointTable, template: Tensor) -> Alignment:
        return align_all(points, found.image, found.images, template, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        names = ("reach", "outliers", "start", "stretch", "affine")
        return {name: getattr(self, name) for name in names}


def position_of(image: int | str, images: Images, where: str) -> int:
    """The position of an image, given as such or as the name of its file.

    Args:
        image: a position, or a file's name with as many of its folders as it takes.
        images: of a split.
        where: the setting, for the message.

    Raises:
        DataError: there is no such image, or several.
    """
    if isinstance(image, int):
        if not 0 <= image < len(images):
            raise DataError(
                f"there is no image {image}", where=where, allowed=f"0 to {len(images) - 1}"
            )
        return image
    names = [images.where(number) for number in range(len(images))]
    found = [number for number, name in enumerate(names) if f"/{name}".endswith(f"/{image}")]
    if len(found) != 1:
        raise DataError(
            f"{len(found) or 'no'} images are called '{image}'",
            where=where,
            got=image,
            allowed=[name.rpartition("/")[2] for name in names] if len(names) <= _NAMED else None,
            hint="give the file's name with its folder, or the image's position",
        )
    return found[0]
