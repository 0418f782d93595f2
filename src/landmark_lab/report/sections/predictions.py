"""Regressed points beside annotated ones: the best, the median and the worst images."""

import numpy as np

from landmark_lab.report.blocks import Mark, Picture, Pictures, Section, number
from landmark_lab.report.context import Context
from landmark_lab.report.regressed import Regressed

_SHOWN = 5


def predictions(context: Context) -> Section | None:
    """Test images with regressed and annotated points, chosen by their error."""
    found = context.regressed
    if found is None or context.data is None:
        return None
    per_image = found.per_image["trained"]
    order = np.argsort(per_image, kind="stable")
    order = order[~np.isnan(per_image[order])]
    if not len(order):
        return None
    middle = max((len(order) - _SHOWN) // 2, 0)
    chosen = {
        "The best": order[:_SHOWN],
        "Around the median": order[middle : middle + _SHOWN],
        "The worst": order[::-1][:_SHOWN],
    }
    groups = [
        Pictures([[_picture(context, found, int(row))] for row in rows], size="medium", title=title)
        for title, rows in chosen.items()
    ]
    source = "the landmarks themselves" if found.map is None else "regressed from the landmarks"
    lead = (
        f"The points as the method gives them, {source} ({found.label}), beside the annotation. "
        "White: annotated; yellow: the method; lines: the error. Below each image its error in per "
        f"cent of {found.test.divisor}."
    )
    return Section("predictions", "Predictions and annotations", lead, groups)


def _picture(context: Context, found: Regressed, row: int) -> Picture:
    index = int(found.test.index[row])
    drawn = []
    size = 1.6 if len(found.names) > 20 else 2.8
    truth, guess = found.test.points[row].tolist(), found.points[row].tolist()
    for (x, y), (u, v) in zip(truth, guess, strict=True):
        drawn += [
            Mark("line", x, y, size=1.2, end=(u, v)),
            Mark("dot", x, y, role="truth", size=size),
            Mark("dot", u, v, size=size),
        ]
    error = number(float(found.per_image["trained"][row]), " %")
    source = context.picture(found.split, index)
    return Picture(source, f"{found.split} image {index}: error {error}", drawn, error)
