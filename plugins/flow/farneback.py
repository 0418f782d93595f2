"""Optical flow by polynomial expansion.

G. Farnebäck, "Two-frame motion estimation based on polynomial expansion", SCIA 2003, as OpenCV
implements it. D. Mallis' thesis, §3.1.3 and 6.2.1, names it as what temporal supervision in the
literature is computed with.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from landmark_lab.roles import OpticalFlow
from landmark_lab_plugins.flow.opencv import check_flow_settings, grey


@dataclass(frozen=True)
class Farneback(OpticalFlow, name="farneback"):
    """Farnebäck's dense flow (OpenCV): smooth, fills flat areas; blurs the edges of motion.

    Args:
        window: side in pixels of the area whose motion is taken to be alike; a larger one is
            surer and blurs more.
        levels: of the image pyramid, each half as large as the one before; the smallest has at
            least 32 pixels.
        iterations: at each level.
        neighbourhood: 5 or 7, side in pixels of what one polynomial describes; 7 is smoother.
        resolution: side in pixels of the squares to which frames are brought first; frames that
            have fewer pixels keep theirs.
        tolerance: how far a pixel that goes there and back may end from where it began, in pixels;
            a tenth of its way is added.

    Raises:
        ValueError: a setting is out of its range.
    """

    window: int = 15
    levels: int = 5
    iterations: int = 3
    neighbourhood: int = 5
    resolution: int = 256
    tolerance: float = 0.7

    def __post_init__(self) -> None:
        check_flow_settings(self)
        if self.window < 3 or self.levels < 1 or self.iterations < 1:
            raise ValueError(
                f"window {self.window}, levels {self.levels}, iterations {self.iterations}; "
                "allowed: window at least 3, the others 1"
            )
        if self.neighbourhood not in (5, 7):
            raise ValueError(f"neighbourhood {self.neighbourhood}; allowed: 5, 7")

    def estimate(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`~landmark_lab.roles.OpticalFlow`."""
        start = np.zeros((*source.shape[:2], 2), np.float32)
        # The width of the polynomials' weights that OpenCV recommends for each neighbourhood.
        spread = 1.1 if self.neighbourhood == 5 else 1.5
        flow = cv2.calcOpticalFlowFarneback(
            grey(source),
            grey(target),
            start,
            pyr_scale=0.5,
            levels=self.levels,
            winsize=self.window,
            iterations=self.iterations,
            poly_n=self.neighbourhood,
            poly_sigma=spread,
            flags=0,
        )
        return np.asarray(flow, np.float32)
