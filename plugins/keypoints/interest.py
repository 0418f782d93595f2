"""What the detectors of interest points share: scales, the object's box, an even spread.

Convention: points are (x, y) in [-1, 1]; pixels, (0, 0) being the centre of the top-left one, are
those of the image that a detector is given.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.data.keypoints import Detections
from landmark_lab.geometry.points import from_pixels, isotropic_extent
from landmark_lab.geometry.suppression import separated, spread
from landmark_lab.roles import KeypointDetector
from landmark_lab_plugins.keypoints.region import Floats, inside

Grey = NDArray[np.uint8]
Found = tuple[Floats, Floats, Floats]
"""Pixels (N, 2), scores (N,) and descriptors (N, D)."""


@dataclass(frozen=True, kw_only=True)
class InterestPoints(KeypointDetector):
    """A detector that looks for distinctive places, at several scales, and thins them out.

    Args:
        resolution: side in pixels, the longer one, to which an image is brought first, so that
            settings in pixels mean the same for images of any size.
        scales: the image is enlarged by each of these factors; what is found at all of them counts.
        apart: least distance of two keypoints, in pixels of ``resolution``; of closer ones the best
            is kept, whichever scale it comes from.
        count: at most so many keypoints, spread evenly over the image by adaptive non-maximal
            suppression (Brown, Szeliski, Winder, CVPR 2005); None keeps all.
        robustness: how much better a point must be to suppress another one: score < robustness ·
            score of the other.
        within_box: leave out what lies outside the object's box, where the data has one.

    Raises:
        ValueError: a setting is out of its range.
    """

    resolution: int = 256
    scales: tuple[float, ...] = (1.0,)
    apart: float = 4.0
    count: int | None = 30
    robustness: float = 0.9
    within_box: bool = True

    def __post_init__(self) -> None:
        if self.resolution < 16:
            raise ValueError(f"resolution must be at least 16 pixels, not {self.resolution}")
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ValueError(f"scales must be numbers from 0.1 to 10, not {list(self.scales)}")
        if self.apart < 0:
            raise ValueError(f"apart must not be negative, not {self.apart}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")
        if not 0 < self.robustness <= 1:
            raise ValueError(f"robustness must be above 0, up to 1, not {self.robustness}")

    @property
    def content(self) -> str:
        """The release of OpenCV: another one may find other points."""
        return f"opencv {cv2.__version__}"

    @abstractmethod
    def find(self, grey: Grey) -> Found:
        """All keypoints of one grey image (H, W), in any order; scores are positive."""

    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: Floats | None = None,
        box: Floats | None = None,
    ) -> Detections:
        """See :class:`~landmark_lab.roles.KeypointDetector`; the best keypoint comes first."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.uint8, copy=False)
        found = joined([self._at(grey, scale) for scale in self.scales])
        found = found.take(inside(found.points, box if self.within_box else None))
        height, width = grey.shape
        half = torch.tensor(isotropic_extent((height, width))) * self.resolution / 2
        pixels, scores = torch.from_numpy(found.points) * half, torch.from_numpy(found.scores)
        rows = separated(pixels, scores, self.apart).nonzero()[:, 0]
        most = len(rows) if self.count is None else self.count
        rows = rows[spread(pixels[rows], scores[rows], most, self.robustness)]
        return found.take(rows.numpy())

    def _at(self, grey: Grey, scale: float) -> Detections:
        factor = self.resolution * scale / max(grey.shape)
        height, width = (max(round(side * factor), 1) for side in grey.shape)
        how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        pixels, scores, descriptors = self.find(
            cv2.resize(grey, (width, height), interpolation=how).astype(np.uint8, copy=False)
        )
        points = from_pixels(torch.from_numpy(pixels), height, width).numpy()
        return Detections(points, scores, descriptors)


def joined(found: list[Detections]) -> Detections:
    """All rows of detections with descriptors."""
    return Detections(
        np.concatenate([one.points for one in found]),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.descriptors for one in found if one.descriptors is not None]),
    )


def opencv(keypoints: Sequence[cv2.KeyPoint]) -> tuple[Floats, Floats]:
    """Pixels (N, 2) and responses (N,) of OpenCV's keypoints."""
    rows = [(*keypoint.pt, keypoint.response) for keypoint in keypoints]
    table = np.array(rows, dtype=np.float32).reshape(-1, 3)
    return table[:, :2], table[:, 2]
