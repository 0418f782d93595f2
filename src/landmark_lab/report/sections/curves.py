"""Cumulative error curves: over images, and over the best annotated points and landmarks."""

import numpy as np
import torch
from numpy.typing import NDArray

from landmark_lab.evaluation.protocols.backward_nme import BackwardNme
from landmark_lab.metrics.cumulative import area_under_curve, best_means, failure_rate
from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Beside,
    Block,
    Cell,
    Chart,
    Charts,
    Section,
    Table,
    number,
)
from landmark_lab.report.context import Context
from landmark_lab.report.regressed import Regressed
from landmark_lab.report.sections.results import reference_name

_COLOURS: dict[str, charts.Colour] = {
    "trained": "accent",
    "centroid_scale": "third",
    "centroid": "second",
    "untrained": "fourth",
    "mean_shape": "muted",
}


def curves(context: Context) -> Section | None:
    """Cumulative error curves of the trained method and of what it is compared with."""
    found = context.regressed
    if found is None:
        return None
    errors = {name: np.sort(e[~np.isnan(e)]) for name, e in found.per_image.items()}
    if not len(errors["trained"]):
        return None
    shown = [name for name in _COLOURS if name in errors]
    # Beyond what most images of this run and of the centroid reach, curves only crawl towards 1.
    end = float(max(np.quantile(errors[name], 0.98) for name in ("trained", "centroid")))
    svg = charts.lines(
        [_line(name, errors[name], end) for name in shown],
        "error of an image, %",
        "share of the test images",
        x_range=(0, end),
        y_range=(0, 1.02),
    )
    medians = "; ".join(f"{_name(name)} {number(float(np.median(errors[name])))}" for name in shown)
    chart = Chart(svg, "Cumulative error", f"Cumulative error curves; median errors: {medians}")
    table = Table(
        ["", "#Median", "#Mean", "#Failures", "#Area"],
        [_row(name, errors[name], found.failure) for name in shown],
        f"Error of an image, %; failures: share of the images above {found.failure:g} %; area: "
        f"below the curve up to {found.failure:g} %, of 1",
    )
    lead = (
        "The further up and to the left, the better: the curve says which share of the test images "
        f"has an error of at most x, in per cent of {found.test.divisor}."
    )
    blocks: list[Block] = [Beside([Charts([chart]), table]), Charts([_best(context, found)])]
    return Section("curves", "Error curves", lead, blocks)


def _best(context: Context, found: Regressed) -> Chart:
    """The mean error of the n best points, forward, and of the n best landmarks, backward."""
    masked = np.ma.masked_invalid(found.errors)
    errors = {"annotated points, forward": masked.mean(0).filled(np.nan)}
    for name, protocol in context.protocols.items():
        if isinstance(protocol, BackwardNme) and name in context.scores:
            rows = context.scores[name]["per_landmark"]
            each = [np.nan if row["error"] is None else row["error"] for row in rows]
            errors["landmarks, backward"] = np.array(each)
            break
    means = {name: best_means(torch.from_numpy(each)).numpy() for name, each in errors.items()}
    colours: tuple[charts.Colour, ...] = ("accent", "second")
    svg = charts.lines(
        [
            charts.Line(np.arange(1.0, len(each) + 1), each, name, colour)
            for (name, each), colour in zip(means.items(), colours, strict=False)
        ],
        "number of the best ones",
        "mean error, %",
    )
    alt = "; ".join(
        f"{name}: best {number(float(each[0]))}, all {len(each)} {number(float(each[-1]))}"
        for name, each in means.items()
    )
    return Chart(svg, "Mean error of the n best points", alt)


def _name(name: str) -> str:
    return "this run" if name == "trained" else reference_name(name)


def _line(name: str, errors: NDArray[np.float64], end: float) -> charts.Line:
    share = np.arange(1, len(errors) + 1) / len(errors)
    x = np.concatenate([[0.0], errors, [max(end, errors[-1])]])
    y = np.concatenate([[0.0], share, [1.0]])
    return charts.Line(
        x, y, _name(name), _COLOURS[name], "-" if name == "trained" else "--", steps=True
    )


def _row(name: str, errors: NDArray[np.float64], failure: float) -> list[Cell]:
    tensor = torch.from_numpy(errors)
    failed = number(100 * float(failure_rate(tensor, failure)), " %")
    area = number(float(area_under_curve(tensor, failure)))
    middle = [Cell(number(float(value))) for value in (np.median(errors), errors.mean())]
    return [Cell(_name(name)), *middle, Cell(failed), Cell(area)]
