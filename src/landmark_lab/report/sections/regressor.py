"""What the annotated points are made of: the weights of the regressor.

Thewlis, Bilen, Vedaldi 2017 ("Unsupervised Learning of Object Landmarks by Factorized Spatial
Embeddings"), section 4.2 and figure 7: of each annotated point, the absolute weights of the
landmarks, as shares of their sum. The paper draws shares from 0.2 on; with a regularised regressor
and many landmarks none may be so large, so here the largest of each point are drawn.
"""

import numpy as np
from numpy.typing import NDArray

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
)
from landmark_lab.report.context import Context

Floats = NDArray[np.float64]

_DRAWN = 2  # shares of each point, unless they are less than half of its largest
_LISTED = 3
_CROWD = 15  # landmarks from which marks are small


def regressor(context: Context) -> Section | None:
    """The shares as lines on a typical image, as a map of all, and in words."""
    found = context.regressed
    if found is None or found.map is None:
        return None
    shares = contributions(found.map.linear.weights)
    if not np.isfinite(shares).any():
        return None
    both = np.concatenate([found.test.points, found.test.landmarks], axis=1)
    row = context.typical(found.split, found.test.index, both)
    landmarks, points = found.test.landmarks[row], found.test.points[row]
    picture = Picture(
        context.picture(found.split, int(found.test.index[row])),
        "Lines from the landmarks to the annotated points that they contribute most to",
        _marks(shares, landmarks, points),
    )
    order = _in_order(shares)
    heat = charts.heat(shares[:, order], found.names, [str(k) for k in order], "landmark")
    chart = Chart(
        heat,
        "Share of every landmark in every annotated point",
        "Heat map of the shares of all landmarks in all annotated points; listed below",
        f"The darkest cell is {100 * np.nanmax(shares):.0f} %. Landmarks are sorted by the points "
        "that they contribute to.",
    )
    rows = [
        [Cell(name), *(_cell(k, of_point[k]) for k in np.argsort(-of_point)[:_LISTED].tolist())]
        for name, of_point in zip(found.names, shares, strict=True)
        if np.isfinite(of_point).all()
    ]
    caption = (
        f"Crosses: landmarks; rings: annotated points; lines: the largest shares of each point (at "
        f"most {_DRAWN}), the thicker, the larger."
    )
    listed = min(_LISTED, shares.shape[1])
    columns = ["Annotated point", "Largest share", "Second", "Third"][: listed + 1]
    lead = (
        "Each annotated point is a linear function of all landmarks. A landmark's share is its "
        "part of the absolute weights. Good landmarks are used by the points near them; a large "
        "share far away is a landmark that stands in for a missing one."
    )
    blocks: list[Block] = [
        Beside([Pictures([[picture]], caption, "large"), Table(columns, rows)]),
        Charts([chart], "wide"),
    ]
    return Section("regressor", "What the annotated points are made of", lead, blocks)


def contributions(weights: Floats) -> Floats:
    """The share of each landmark in each annotated point.

    Args:
        weights: (2·K, 2·P) of a linear map in which x and y alternate.

    Returns:
        (P, K), rows that sum to 1; NaN for a point that was never known.
    """
    absolute = np.abs(weights)
    inputs, outputs = absolute.shape
    sums: Floats = absolute.reshape(inputs // 2, 2, outputs // 2, 2).sum((1, 3)).T
    with np.errstate(invalid="ignore"):
        shares: Floats = sums / sums.sum(1, keepdims=True)
    return shares


def _marks(shares: Floats, landmarks: Floats, points: Floats) -> list[Mark]:
    lines: list[Mark] = []
    largest = np.nanmax(shares)
    for of_point, (x, y) in zip(shares, points.tolist(), strict=True):
        if not np.isfinite(of_point).all():
            continue
        for k in np.argsort(-of_point)[:_DRAWN].tolist():
            if of_point[k] >= 0.5 * of_point.max():
                u, v = landmarks[k].tolist()
                size = 1.6 * float(of_point[k] / largest)
                lines.append(Mark("line", u, v, k, size=size, end=(x, y)))
    size = 3 if len(landmarks) <= _CROWD else 2.2
    rings = [Mark("ring", x, y, role="truth", size=1.8) for x, y in points.tolist()]
    crosses = [
        Mark("cross", u, v, k, label=str(k), size=size)
        for k, (u, v) in enumerate(landmarks.tolist())
    ]
    return [*lines, *rings, *crosses]


def _in_order(shares: Floats) -> NDArray[np.int64]:
    """The landmarks by the mean row of the points that they contribute to."""
    filled = np.nan_to_num(shares) ** 2
    rows = np.arange(len(filled))[:, None]
    return np.argsort((filled * rows).sum(0) / np.maximum(filled.sum(0), 1e-12), kind="stable")


def _cell(landmark: int, share: float) -> Cell:
    return Cell(f"{landmark}: {100 * share:.0f} %", landmark=landmark)
