"""The results: numbers with intervals, what they have to be compared with, published ones."""

from collections.abc import Iterator, Mapping
from typing import Any

from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Facts,
    More,
    Section,
    Table,
    Text,
    number,
    plural,
)
from landmark_lab.report.context import Context

REFERENCES = {
    "mean_shape": ("mean shape", "the average annotated shape, whatever the image shows"),
    "centroid": (
        "true centroid",
        "the mean shape moved to the object's true middle: what a method gets that only tracks the "
        "middle",
    ),
    "centroid_scale": ("true centroid and scale", "the same, also resized to the true size"),
    "untrained": ("untrained", "the same network and the same protocol before any training"),
    "mean_position": ("mean position", "always answering a landmark's average position"),
    "still": ("still", "landmarks that stay where they were although the image was warped"),
    "no_motion": ("no motion", "points that stay where they were in the other image"),
    "no_reflection": ("no reflection", "looking for a point's own vector instead of its partner's"),
    "estimated_plane": (
        "estimated plane",
        "reflecting vectors in the plane that suits annotated training images best",
    ),
}
"""The name and the meaning of what a result is compared with."""


def results(context: Context) -> Section | None:
    """All protocols of the run."""
    if not context.scores:
        return None
    reported = context.experiment.reported
    columns = ["Protocol", "#Measured", "#95 % interval", *(["#Published"] if reported else [])]
    known = {key for score in context.scores.values() for key in score["references"]}
    columns.append("Compared with")
    rows = [row for name, score in context.scores.items() for row in _rows(name, score, reported)]
    blocks: list[Block] = [Charts([*_charts(context)]), Table(columns, rows)]
    for name, score in context.scores.items():
        blocks += [Text(f"{name}: {note}.", "warn") for note in score["notes"]]
    explained = [REFERENCES[key] for key in REFERENCES if key in known]
    blocks.append(Facts([(name.capitalize(), meaning) for name, meaning in explained]))
    settings = [
        (name, ", ".join(f"{key} {value}" for key, value in score["settings"].items()))
        for name, score in context.scores.items()
    ]
    blocks.append(More("Every choice that the numbers depend on", [Facts(settings)]))
    upward = [name for name, score in context.scores.items() if score.get("higher_is_better")]
    exception = f" (but for {', '.join(upward)})" if upward else ""
    lead = (
        f"Lower is better{exception}. Intervals are "
        "bootstrap intervals over test images, ± is the standard deviation over choices of "
        "annotated images. A number means nothing without those it is compared with."
    )
    return Section("results", "Results", lead, blocks)


def reference_name(key: str) -> str:
    """A reference in words."""
    return REFERENCES[key][0] if key in REFERENCES else key.replace("_", " ")


def _rows(
    name: str, score: Mapping[str, Any], reported: Mapping[str, float]
) -> Iterator[list[Cell]]:
    published = [Cell(number(reported.get(name)))] if reported else []
    # One column however many there are: each protocol has others.
    beside = ", ".join(
        f"{reference_name(key)} {number(value)}" for key, value in score["references"].items()
    )
    row = [_measured(score), Cell(_interval(score)), *published, Cell(beside)]
    detail = f"{score['unit']}; {plural(score['images'], 'image')}"
    yield [Cell(name, detail=detail), *row]
    for key, value in score["values"].items():
        cells = [_measured(value), Cell(_interval(value))]
        empty = [Cell("")] * (len(row) - 2)
        yield [Cell(key.replace("_", " "), sub=True), *cells, *empty]


def _measured(value: Mapping[str, Any]) -> Cell:
    """A number, and its standard deviation over choices of annotated images where there is one."""
    deviation = value.get("deviation")
    return Cell(
        number(value["value"]), detail="" if deviation is None else f"± {number(deviation)}"
    )


def _interval(value: Mapping[str, Any]) -> str:
    return "" if value["low"] is None else f"{number(value['low'])} – {number(value['high'])}"


def _charts(context: Context) -> Iterator[Chart]:
    """The first result of every protocol among what it is compared with."""
    for name, score in context.first_scores.items():
        bars = [("this run", score["value"], True)]
        if name in context.experiment.reported:
            bars.append(("published", context.experiment.reported[name], False))
        bars += [
            (reference_name(key), value, False)
            for key, value in score["references"].items()
            if value is not None
        ]
        bars.sort(key=lambda bar: bar[1], reverse=score.get("higher_is_better", False))
        own = next(i for i, (_, _, mine) in enumerate(bars) if mine)
        interval = None if score["low"] is None else (own, score["low"], score["high"])
        svg = charts.bars_across(
            [label for label, _, _ in bars],
            [value for _, value, _ in bars],
            [
                "accent" if mine else "fourth" if label == "published" else "pale"
                for label, _, mine in bars
            ],
            interval,
        )
        alt = "; ".join(f"{label} {number(value)}" for label, value, _ in bars)
        title = f"{name.partition('(')[0].replace('_', ' ')}, {score['unit']}"
        yield Chart(svg, title, f"Bars: {alt}")
