"""How few annotated images are enough."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from landmark_lab.report import charts
from landmark_lab.report.blocks import Beside, Cell, Chart, Charts, Section, Table, number
from landmark_lab.report.context import Context
from landmark_lab.report.sections.results import reference_name

_COLOURS: tuple[charts.Colour, ...] = ("accent", "fourth")
_LEVELS: dict[str, charts.Colour] = {"centroid": "second", "centroid_scale": "third"}
_EACH = "annotated="

Curve = dict[int, Mapping[str, Any]]
"""A result for each number of annotated images."""


def few_shot(context: Context) -> Section | None:
    """The forward error by the number of annotated images, where the run measured several."""
    curves = {name: curve for name, curve in _curves(context.scores).items() if len(curve) > 1}
    if not curves:
        return None
    drawn: list[charts.Line] = []
    counts = np.array(sorted({n for curve in curves.values() for n in curve}), dtype=np.float64)
    for (name, curve), colour in zip(curves.items(), _COLOURS, strict=False):
        images = np.array(sorted(curve), dtype=np.float64)
        values = np.array([curve[int(n)]["value"] for n in images])
        deviations = np.array([_deviation(curve[int(n)]) for n in images])
        drawn.append(charts.Line(images, values, name, colour, dots=True, error=deviations))
    score = next(score for name, score in context.scores.items() if _base(name) in curves)
    for name, colour in _LEVELS.items():
        level = score["references"].get(name)
        if level is not None:
            ends = counts[[0, -1]]
            drawn.append(charts.Line(ends, np.full(2, level), reference_name(name), colour, ":"))
    svg = charts.lines(drawn, "annotated images", "error, %", log_x=True, x_ticks=list(counts))
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{n} images {number(curve[n]['value'])}" for n in sorted(curve))
        for name, curve in curves.items()
    )
    chart = Chart(svg, "Error by the number of annotated images", alt)
    rows = [
        _row(f"{name}, {n:,}" if len(curves) > 1 else f"{n:,}", curve[n])
        for name, curve in curves.items()
        for n in sorted(curve)
    ]
    columns = ["Annotated images", "#Error", "#95 % interval", "#Deviation"]
    table = Table(columns, rows, f"Error, {score['unit']}")
    lead = (
        "The annotated images only fit the regressor from landmarks to named points. Bars: "
        "standard deviation over random choices of these images."
    )
    return Section("few-shot", "Few annotated images", lead, [Beside([Charts([chart]), table])])


def _curves(scores: Mapping[str, Any]) -> dict[str, Curve]:
    """The curves of all protocols: of one with a value for each number, or of one that came with
    several numbers."""
    curves: dict[str, Curve] = {}
    for name, score in scores.items():
        images = score["settings"].get("annotated")
        if not isinstance(images, int) or score.get("higher_is_better") or score["value"] is None:
            continue
        each = {k: v for k, v in score["values"].items() if k.startswith(_EACH)}
        for key, value in each.items():
            count = key.removeprefix(_EACH)
            curves.setdefault(_base(name), {})[images if count == "all" else int(count)] = value
        if not each:
            curves.setdefault(_base(name), {})[images] = score
    return curves


def _base(name: str) -> str:
    return name.partition("(")[0]


def _row(label: str, value: Mapping[str, Any]) -> list[Cell]:
    interval = f"{number(value['low'])} – {number(value['high'])}"
    deviation = number(_deviation(value))
    return [Cell(label), Cell(number(value["value"])), Cell(interval), Cell(deviation)]


def _deviation(value: Mapping[str, Any]) -> float:
    deviation = value.get("deviation")
    return np.nan if deviation is None else float(deviation)
