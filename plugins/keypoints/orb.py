"""ORB by OpenCV.

E. Rublee, V. Rabaud, K. Konolige, G. Bradski, "ORB: an efficient alternative to SIFT or SURF",
ICCV 2011: FAST corners on an image pyramid, ranked by Harris' measure, described by 256 comparisons
of brightness.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from landmark_lab_plugins.keypoints.interest import Found, Grey, InterestPoints, opencv

_BITS = 256
_LEVEL = 1.2  # ratio of two levels of the pyramid
_CANDIDATES = 5000


@dataclass(frozen=True, kw_only=True)
class Orb(InterestPoints, name="orb"):
    """ORB corners with their 256 bits as numbers 0 and 1, spread evenly.

    The squared Euclidean distance of two descriptors is their Hamming distance. The other settings
    are explained in ``keypoints/interest.py``.

    Args:
        brightness: least difference in grey value, 1 to 255, between a corner and the arc around
            it (the threshold of FAST).
        border: no corners closer to the border than this, in pixels; OpenCV's own 31 would leave
            out a fifth of an image of 256 pixels on either side.
        levels: of the pyramid, each 1.2 times smaller than the one before.
    """

    cure: ClassVar[str] = "a lower 'brightness' finds more"

    brightness: int = 20
    border: int = 8
    levels: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.brightness <= 255:
            raise ValueError(f"brightness must be between 1 and 255, not {self.brightness}")
        if self.border < 0:
            raise ValueError(f"border must not be negative, not {self.border}")
        if self.levels < 1:
            raise ValueError(f"levels must be at least 1, not {self.levels}")

    def find(self, grey: Grey) -> Found:
        """See :class:`InterestPoints`; the score is Harris' measure."""
        engine = cv2.ORB.create(
            nfeatures=_CANDIDATES,
            scaleFactor=_LEVEL,
            nlevels=self.levels,
            edgeThreshold=self.border,
            fastThreshold=self.brightness,
        )
        keypoints, described = engine.detectAndCompute(grey, None)
        pixels, scores = opencv(keypoints)
        # OpenCV multiplies a level's pixel numbers by 1.2 to its power. But a level's sides are
        # rounded, and its outer edges, not the centres of its first pixels, are the image's: that
        # puts points up to a pixel off.
        level = _LEVEL ** np.array([[keypoint.octave] for keypoint in keypoints]).reshape(-1, 1)
        sides = np.array(grey.shape[::-1])
        exact = (pixels / level + 0.5) * sides / np.rint(sides / level) - 0.5
        pixels = exact.astype(np.float32)
        # Of no keypoints OpenCV returns no descriptors at all.
        packed = np.asarray(described if len(keypoints) else np.zeros((0, _BITS // 8)), np.uint8)
        bits = np.unpackbits(packed, axis=1).astype(np.float32)
        corners = scores > 0  # the measure is negative on edges
        return pixels[corners], scores[corners], bits[corners]
