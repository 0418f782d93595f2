"""Which annotated points are hard: the error of each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from landmark_lab.metrics.references import mean_shape
from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Beside,
    Block,
    Cell,
    Chart,
    Charts,
    Mark,
    Picture,
    Pictures,
    Section,
    Table,
    number,
)
from landmark_lab.report.context import Context
from landmark_lab.report.regressed import Regressed


def points(context: Context) -> Section | None:
    """The mean error of each annotated point, as a chart and as circles to scale."""
    found = context.regressed
    if found is None or np.isnan(found.errors).all():
        return None
    masked = np.ma.masked_invalid(found.errors)
    errors = masked.mean(0).filled(np.nan)
    mean = float(masked.mean())
    svg = charts.bars(found.names, errors, f"% of {_short(found.test.divisor)}", mean, "mean")
    worst, best = (found.names[int(i)] for i in (np.nanargmax(errors), np.nanargmin(errors)))
    alt = f"Error of every annotated point: worst {worst}, best {best}, mean {number(mean)} %"
    blocks: list[Block] = [
        Charts([Chart(svg, "Error of each annotated point", alt)], "wide"),
        Beside([_to_scale(context, found), _table(found.names, errors)]),
    ]
    lead = (
        f"Best: {best} ({number(float(np.nanmin(errors)))} %); worst: {worst} "
        f"({number(float(np.nanmax(errors)))} %). The circles are drawn to scale: their radius is "
        "the mean distance between the method's point and the annotated one."
    )
    return Section("points", "Error of each point", lead, blocks)


def _table(names: Sequence[str], errors: NDArray[np.float64]) -> Table:
    """The points, the hardest first."""
    order = np.argsort(-np.nan_to_num(errors), kind="stable").tolist()
    rows = [[Cell(names[i]), Cell(number(float(errors[i]), " %"))] for i in order]
    return Table(["Annotated point", "#Error"], rows, "The hardest first")


def _to_scale(context: Context, found: Regressed) -> Pictures:
    """Circles with the mean error as radius, around the annotated points of a typical image."""
    row = context.typical(found.split, found.test.index, found.test.points)
    shape = found.test.points[row]
    shape = np.where(np.isnan(shape), mean_shape(found.test.points), shape)
    # The errors are relative to each image's normaliser: shown relative to this one's.
    scale = found.test.normaliser[row]
    radii = np.ma.masked_invalid(found.errors).mean(0).filled(np.nan) / 100 * scale * 100
    drawn = []
    for (x, y), radius in zip(shape.tolist(), radii.tolist(), strict=True):
        if np.isfinite(radius):
            drawn += [
                Mark("ring", x, y, size=radius),
                Mark("dot", x, y, role="truth", size=1.2),
            ]
    picture = Picture(
        context.picture(found.split, int(found.test.index[row])),
        "The annotated points of a typical image with circles of the size of their mean error",
        drawn,
    )
    return Pictures([[picture]], size="large")


def _short(divisor: str) -> str:
    return divisor if len(divisor) < 30 else "the normaliser"
