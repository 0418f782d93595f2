"""Points, warps, heat maps and symmetry: plain tensor mathematics.

Convention: points are (x, y) in [-1, 1], ±1 being the outer edges of the border pixels; see
``points.py``.
"""

from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.geometry.flow import FlowWarp
from landmark_lab.geometry.tps import ThinPlateBasis, TpsWarp
from landmark_lab.geometry.warp import ComposedWarp, IdentityWarp, InverseWarp, Warp

__all__ = [
    "AffineWarp",
    "ComposedWarp",
    "FlowWarp",
    "IdentityWarp",
    "InverseWarp",
    "ThinPlateBasis",
    "TpsWarp",
    "Warp",
]
