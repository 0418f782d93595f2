"""The few numbers that stand at the top of a report."""

from collections.abc import Iterator
from dataclasses import dataclass

from landmark_lab.report.blocks import number
from landmark_lab.report.context import Context
from landmark_lab.report.sections.results import reference_name


@dataclass(frozen=True)
class Tile:
    """A number that stands for the run.

    Attributes:
        label: what it is.
        value: the number with its unit.
        detail: what one must know beside it.
    """

    label: str
    value: str
    detail: str


def tiles(context: Context) -> Iterator[Tile]:
    """The number of landmarks, and the first result of each protocol."""
    if context.landmarks:
        yield Tile("landmarks", str(context.landmarks), f"method {context.stage.method['name']}")
    for name, score in context.first_scores.items():
        unit = {"%": " %", "pixels": " px"}.get(score["unit"].partition(" ")[0], "")
        detail = ""
        if score["low"] is not None:
            detail = f"{number(score['low'])} – {number(score['high'])}"
        # The untrained network may have frozen landmarks, which some protocols cannot tell.
        compared = {
            key: value
            for key, value in score["references"].items()
            if value is not None and key != "untrained"
        }
        if compared:
            best = max if score.get("higher_is_better") else min
            closest = best(compared, key=lambda key: compared[key])
            detail += f"; {reference_name(closest)} {number(compared[closest])}"
        label = name.partition("(")[0].replace("_", " ").replace("nme", "error")
        yield Tile(label, number(score["value"]) + unit, detail.removeprefix("; "))
