"""The rounds of self-training: what each one learned from, and how it changed.

D. Mallis, PhD thesis, University of Nottingham 2023,
figures 4.3 and 5.4.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab.data.rounds import RoundRecord, looked_at
from landmark_lab.metrics.detection import detection_counts, detection_scores
from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Block,
    Chart,
    Charts,
    Mark,
    Picture,
    Pictures,
    Section,
    plural,
)
from landmark_lab.report.context import Column, Context
from landmark_lab.report.frames import seen

_ROUNDS = 4  # of which keypoints are shown
_IMAGES = 5
_COUNTED = 150  # annotated images of which precision and recall are made
_TICKS = 12  # rounds, up to which each has its number below a chart
_PIXELS, _SIDE = 10, 256  # "10 px in images of 256" (sections 2.5 and 5.4.2)
_NEAR = 2 * _PIXELS / _SIDE


def rounds(context: Context) -> Section | None:
    """Curves over the rounds, and the keypoints of some on the same training images."""
    if not context.rounds:
        return None
    blocks: list[Block] = []
    for stage, records in context.rounds.items():
        title = f"Stage {stage}" if len(context.rounds) > 1 else ""
        if len(records) > 1:
            blocks.append(Charts(_curves(context, stage, records), "small", title))
        if context.data is not None:
            blocks += _keypoints(context, stage, records)
    lead = (
        "Pseudo-labels of the training images, renewed in rounds. Keypoints should gather on parts "
        "of the object and keep their colour, which is their cluster; white ones have none. Fewer "
        "and fewer keypoints, or one cluster that takes all, is a collapse."
    )
    return Section("rounds", "Rounds", lead, blocks)


def _curves(context: Context, stage: str, records: list[RoundRecord]) -> list[Chart]:
    """Keypoints and clusters, what stayed, precision and recall, by the number of the round."""
    numbers = np.array([record.number for record in records], dtype=np.float64)
    images = max(len(looked_at(records)), 1)
    drawn = [
        _chart(numbers, {"": [len(r.table) / images for r in records]}, "keypoints in an image"),
    ]
    clusters = [float((record.counts > 0).sum()) for record in records]
    if any(clusters):
        drawn.append(_chart(numbers, {"": clusters}, "clusters"))
    logged = context.logs.get(stage, {})
    shares = {
        word: _at(logged["round/number"], logged[f"round/{name}"])
        for name, word in (("stayed", "same place"), ("agreement", "same cluster"))
        if f"round/{name}" in logged
    }
    if shares:
        x = logged["round/number"][1]
        drawn.append(_chart(x, shares, "agreement with the round before", share=True))
    scores = _scores(context, records)
    if scores is not None:
        columns = {"precision": list(scores[:, 0]), "recall": list(scores[:, 1])}
        drawn.append(
            _chart(numbers, columns, "keypoints at annotated points", True, _said(context))
        )
    return drawn


def _said(context: Context) -> str:
    """What precision and recall are of."""
    assert context.data is not None
    points = plural(len(context.data.point_names), "annotated point")
    return (
        f"Precision: keypoints within {_PIXELS} px of one of the {points}, in images of {_SIDE}; "
        f"recall: points with a keypoint that near. All points count, in at most {_COUNTED} images."
    )


def _at(rounds: Column, column: Column) -> list[float]:
    """The values that were logged with the numbers of the rounds, NaN where none was."""
    values = dict(zip(column[0].tolist(), column[1].tolist(), strict=True))
    return [values.get(step, np.nan) for step in rounds[0].tolist()]


def _chart(
    x: NDArray[np.float64],
    columns: dict[str, list[float]],
    title: str,
    share: bool = False,
    caption: str = "",
) -> Chart:
    colours: tuple[charts.Colour, ...] = ("accent", "second")
    drawn = [
        charts.Line(x, np.array(values), name, colour, dots=True)
        for (name, values), colour in zip(columns.items(), colours, strict=False)
    ]
    ticks = x.tolist() if len(x) <= _TICKS else None
    top = (0, 1.02) if share else None
    svg = charts.lines(drawn, "round", y_range=top, x_ticks=ticks, small=True)
    ends = ", ".join(f"{line.label or title} ends at {line.y[-1]:.3g}" for line in drawn)
    return Chart(svg, title, f"By rounds: {ends}", caption)


def _scores(context: Context, records: list[RoundRecord]) -> NDArray[np.float64] | None:
    """(R, 3) precision, recall and F of each round, where training images are annotated."""
    if context.data is None or not context.data.point_names:
        return None
    images = context.images("train")
    some = torch.from_numpy(_spread(looked_at(records), _COUNTED))
    points = torch.from_numpy(np.stack([seen(images[i]) for i in some.tolist()]))
    if points.isnan().all():
        return None
    scores = [
        detection_scores(detection_counts(record.table.padded(some)[0].double(), points, _NEAR))
        for record in records
    ]
    return torch.stack(scores).numpy()


def _keypoints(context: Context, stage: str, records: list[RoundRecord]) -> list[Block]:
    """The keypoints of some rounds on the same images."""
    last = len(records) - 1
    chosen = sorted({round(i * last / (_ROUNDS - 1)) for i in range(_ROUNDS)})
    having = records[-1].table.counts().nonzero()[:, 0].numpy()
    index = torch.from_numpy(_spread(having, _IMAGES))
    blocks: list[Block] = []
    for record in (records[i] for i in chosen):
        points, labels, _, found = record.table.padded(index)
        pictures = [
            [
                Picture(
                    context.picture("train", image),
                    f"Keypoints of round {record.number} on training image {image}",
                    marks(points[row][found[row]], labels[row][found[row]], first(context, stage)),
                )
            ]
            for row, image in enumerate(index.tolist())
        ]
        title = f"{stage.capitalize()}, round {record.number}, from step {record.step:,} on"
        if record.clustered:
            title += f", clustered by {record.clustered}"
        blocks.append(Pictures(pictures, size="medium", title=title))
    return blocks


def _spread(images: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most so many of some images, from all over them."""
    places = np.linspace(0, len(images) - 1, min(count, len(images)))
    return images[places.round().astype(np.int64)]


def first(context: Context, stage: str) -> int:
    """The number of the colour of cluster 0 of a stage.

    Those of the last stage are its landmarks; those of the others have colours of their own.
    """
    return 0 if stage == context.stage.name else context.landmarks


def marks(points: Tensor, labels: Tensor, start: int) -> list[Mark]:
    """A dot for each keypoint (N, 2) in the colour of its label (N,), white for -1."""
    return [
        Mark("dot", x, y, role="truth", size=2.6)
        if label < 0
        else Mark("dot", x, y, start + label, size=3.2)
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True)
    ]
