"""Errors of predicted points in annotated images, beside the guess that does not look at them.

Convention: pixels of the original images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.metrics.bootstrap import bootstrap_interval
from landmark_lab.metrics.paired import paired_difference

if TYPE_CHECKING:
    from rich.table import Table

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PointErrors:
    """How far predicted points lie from their annotation in N images.

    Attributes:
        names: of the P points.
        predicted: (N, P, 2) pixels.
        truth: (N, P, 2) pixels, NaN where unknown.
        mean_shape: (N, P, 2) pixels, the guess that does not look at the image: the mean of the
            annotated images that the prediction was made from.
        sides: (N,) the normaliser in pixels, NaN where unknown.
        divisor: what the normaliser is, in words.
    """

    names: tuple[str, ...]
    predicted: Floats
    truth: Floats
    mean_shape: Floats
    sides: Floats
    divisor: str

    @property
    def pixels(self) -> Floats:
        """(N, P) distances in pixels; NaN where a point is unknown or cannot be given."""
        distance: Floats = np.linalg.norm(self.predicted - self.truth, axis=-1)
        return distance

    @property
    def mean_shape_pixels(self) -> Floats:
        """(N, P) the same for the mean shape."""
        distance: Floats = np.linalg.norm(self.mean_shape - self.truth, axis=-1)
        return distance

    def percent(self, pixels: Floats) -> Floats:
        """Distances (N, P) in per cent of the normaliser."""
        return 100 * pixels / np.where(self.sides > 0, self.sides, np.nan)[:, None]


def image_means(values: Floats) -> Floats:
    """Means (N,) of each image's known values among (N, P); NaN where there is none."""
    return torch.from_numpy(values).nanmean(1).numpy()


def summary(values: Floats, names: Sequence[str]) -> dict[str, float | None]:
    """Means over images of each point's values (N, P), and of the images' own means: ``all``."""
    means = [*torch.from_numpy(values).nanmean(0).tolist()]
    means.append(torch.from_numpy(image_means(values)).nanmean().item())
    return {
        name: None if np.isnan(mean) else mean
        for name, mean in zip([*names, "all"], means, strict=True)
    }


def table(errors: PointErrors, title: str) -> Table:
    """The error of each point and of all, with 95 % bootstrap intervals over images."""
    from rich.table import Table

    printed = Table(title=title, caption=f"%: of {errors.divisor}", caption_justify="left")
    printed.add_column("point")
    printed.add_column("images", justify="right")
    for name in ("error", "mean shape"):
        for column in (f"{name}, px", "95 % interval", "%"):
            printed.add_column(column, justify="right")
    for point, name in enumerate(errors.names):
        printed.add_row(name, *_cells(errors, slice(point, point + 1)))
    printed.add_section()
    printed.add_row("all", *_cells(errors, slice(None)))
    return printed


def _cells(errors: PointErrors, points: slice) -> list[str]:
    """How many images show the points, and the errors' means, intervals and percentages."""
    cells: list[str] = []
    for pixels in (errors.pixels, errors.mean_shape_pixels):
        per_image = image_means(pixels[:, points])
        percent = image_means(errors.percent(pixels)[:, points])
        if not cells:
            cells.append(str(int((~np.isnan(per_image)).sum())))
        low, high = bootstrap_interval(per_image)
        cells.append(_number(per_image))
        cells.append("–" if np.isnan(low) else f"{low:.1f} – {high:.1f}")
        cells.append(_number(percent))
    return cells


def _number(values: Floats) -> str:
    kept = values[~np.isnan(values)]
    return f"{kept.mean():.1f}" if kept.size else "–"


def verdict(errors: PointErrors) -> tuple[bool, str]:
    """Whether the points are better than the mean shape in the same images, and a line about it.

    They are if the whole 95 % interval of the difference, a paired bootstrap over images, says so.
    """
    gained = paired_difference(image_means(errors.mean_shape_pixels), image_means(errors.pixels))
    interval = f"95 % interval {gained.low:.1f} to {gained.high:.1f}"
    if gained.low > 0:
        return True, f"better than the mean shape by {gained.difference:.1f} px ({interval})"
    return False, (
        f"not clearly better than the mean shape: by {gained.difference:.1f} px ({interval}); "
        "look with 'landmark-lab predict' whether the landmarks follow these points, and annotate "
        "more images or train other landmarks"
    )
