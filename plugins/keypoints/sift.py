"""SIFT by OpenCV.

D. G. Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004. Descriptors are
RootSIFT: R. Arandjelović, A. Zisserman, "Three things everyone should know to improve object
retrieval", CVPR 2012; each is divided by its sum, then the square root is taken, so that it has
length 1 and Euclidean distances compare histograms by the Hellinger kernel.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from landmark_lab_plugins.keypoints.interest import Found, Grey, InterestPoints, opencv

_DEPTH = 128


@dataclass(frozen=True, kw_only=True)
class Sift(InterestPoints, name="sift"):
    """SIFT blobs with RootSIFT descriptors (128), spread evenly.

    A blob has a scale of its own, so further ``scales`` change little. The other settings are
    explained in ``keypoints/interest.py``.

    Args:
        contrast: least contrast of a blob, 0 to 1; Lowe's 0.03 is about 0.04 of OpenCV's.
        edge: largest ratio of the principal curvatures; a larger one keeps more points on edges.
    """

    cure: ClassVar[str] = "a lower 'contrast' finds more"

    contrast: float = 0.04
    edge: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.contrast <= 1:
            raise ValueError(f"contrast must be between 0 and 1, not {self.contrast}")
        if self.edge < 1:
            raise ValueError(f"edge must be at least 1, not {self.edge}")

    def find(self, grey: Grey) -> Found:
        """See :class:`InterestPoints`; the score is the contrast."""
        # Made anew, because several threads may detect; it holds no tables. The precise upscaling
        # puts a blob where it is: without it all lie a quarter of a pixel off.
        engine = cv2.SIFT.create(
            contrastThreshold=self.contrast,
            edgeThreshold=self.edge,
            enable_precise_upscale=True,
        )
        keypoints, described = engine.detectAndCompute(grey, None)
        pixels, scores = opencv(keypoints)
        # Of no keypoints OpenCV returns no descriptors at all.
        histograms = np.asarray(described if len(keypoints) else np.zeros((0, _DEPTH)), np.float32)
        total = np.maximum(histograms.sum(1, keepdims=True), 1e-12)
        return pixels, scores, np.sqrt(histograms / total)
