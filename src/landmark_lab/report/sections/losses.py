"""What was logged in the course of the training."""

import numpy as np

from landmark_lab.report import charts
from landmark_lab.report.blocks import Block, Chart, Charts, Section
from landmark_lab.report.context import Column, Context

_SMOOTHED = 25  # points of the smoothed line
# The ratio from which a logarithmic axis shows more.
_WIDE = 8.0
_WORDS = {
    "criterion": "label-free criterion: 0 perfect, 1 lost",
    "equivariance": "equivariance error in [-1, 1] units",
    "spread": "mean spread over images, same units",
    "distinct": "number of different landmarks",
}


def losses(context: Context) -> Section | None:
    """A small chart for every logged quantity, training and validation together, stage by stage."""
    if not context.logs:
        return None
    blocks: list[Block] = []
    for stage, columns in context.logs.items():
        quantities = list(dict.fromkeys(name.partition("/")[2] or name for name in columns))
        # The total first, then its terms, then what is only measured.
        quantities.sort(key=lambda name: (name != "loss", f"train/{name}" not in columns))
        drawn = [_chart(name, columns, stage) for name in quantities]
        title = f"Stage {stage}" if len(context.experiment.stages) > 1 else ""
        blocks.append(Charts([chart for chart in drawn if chart is not None], "small", title))
    lead = (
        "Loss terms are raw, before their weights; the loss is their weighted sum. Thin: every "
        "logged step; thick: smoothed; dashed: validation."
    )
    return Section("losses", "Losses", lead, blocks)


def _chart(name: str, columns: dict[str, Column], stage: str) -> Chart | None:
    drawn = []
    values = []
    for source in ("train", "val", ""):
        column = columns.get(f"{source}/{name}" if source else name)
        if column is None:
            continue
        steps, logged = column
        values.append(logged[np.isfinite(logged)])
        if source == "val":
            drawn.append(
                charts.Line(steps, logged, "validation", "second", "--", dots=len(steps) < 30)
            )
        else:
            drawn += [
                charts.Line(steps, logged, faint=True),
                charts.Line(*_smooth(steps, logged), label=source and "training"),
            ]
    known = np.concatenate(values) if values else np.empty(0)
    if known.size == 0:
        return None
    log = bool(known.min() > 0 and known.max() / known.min() > _WIDE)
    if len(drawn) == 1:
        drawn[0] = charts.Line(drawn[0].x, drawn[0].y, "", "second", "-", dots=drawn[0].dots)
    svg = charts.lines(drawn, "step", log_y=log, small=True)
    ends = ", ".join(f"{line.label or name} ends at {line.y[-1]:.3g}" for line in drawn)
    alt = f"{name} of the stage {stage} over the steps: {ends}"
    return Chart(svg, name.replace("_", " "), alt, _WORDS.get(name, ""))


def _smooth(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring points."""
    width = max(len(steps) // _SMOOTHED, 1)
    whole = len(steps) // width * width
    groups = steps[:whole].reshape(-1, width), values[:whole].reshape(-1, width)
    return groups[0].mean(1), groups[1].mean(1)
