"""Warped copies of the training images, on which a regressor may be fitted too.

J. Thewlis, H. Bilen, A. Vedaldi, "Unsupervised Learning of Object Landmarks by Factorized Spatial
Embeddings", ICCV 2017, section 4.3, trains the regressor with warps as data augmentation; the dense
family does too, later work does not (the reason for 5.13 % against 3.24 % on MAFL with embedding
volume compression). The landmarks are found anew in every copy; the annotated points are carried
along by the warp.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from landmark_lab.data.batch import Sample
from landmark_lab.geometry.points import inside
from landmark_lab.geometry.warp import Warp
from landmark_lab.roles import WarpGenerator
from landmark_lab.seeding import BatchDraw

REGRESSOR_WARPS: dict[str, Any] = {
    "name": "tps_pair",
    "bend": [0.0005, 0.0],
    "bend_half": [0.0005, 0.0],
    "rotation": [2.0, 0.0],
    "scale": [0.02, 0.0],
    "translation": [0.02, 0.0],
}
"""The published warps of few-shot regressors, as views."""


@dataclass(frozen=True)
class Copies:
    """C warped copies of every image of a split.

    Attributes:
        views: C batches of maps from the N images to their copies.
    """

    views: tuple[Warp, ...]

    @classmethod
    def draw(
        cls, generator: WarpGenerator, copies: int, images: int, size: tuple[int, int], seed: int
    ) -> Copies:
        """Draw the generator's views, all images at once so that batches do not matter.

        Args:
            generator: of the warps.
            copies: how many of each image; the first ones are the same whatever the number.
            images: of the split.
            size: (height, width) of the images.
            seed: of the draws.
        """
        draws = (
            BatchDraw.single(seed, images, purpose=f"regressor augmentation {copy}")
            for copy in range(copies)
        )
        return cls(tuple(generator.draw(draw, size)[0] for draw in draws))

    def of(self, sample: Sample, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The copies of consecutive images.

        Args:
            sample: B images with annotated points; what surrounds the images is used if it is
                there.
            first: position of the first of them in the split.

        Yields:
            For each copy the images (B, 3, H, W), the points (B, P, 2) and their visibility (B, P):
            a point that leaves the image is no longer visible.
        """
        size = (sample.image.shape[2], sample.image.shape[3])
        shown = sample.image if sample.surroundings is None else sample.surroundings
        assert sample.points is not None
        for views in self.views:
            view = views[first : first + len(sample)].to(sample.image.device)
            points = view.to_target(sample.points)
            visible = inside(points)
            if sample.visible is not None:
                visible = visible & sample.visible
            yield view.apply(shown, "reflection", size=size), points, visible
