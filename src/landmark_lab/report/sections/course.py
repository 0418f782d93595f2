"""The landmarks in the course of the training, as the run drew them."""

import re
from pathlib import Path

from landmark_lab.files import read_image
from landmark_lab.report.blocks import Picture, Pictures, Section
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import data_uri

_SHOWN = 5


def course(context: Context) -> Section | None:
    """Some of the pictures of the latest stage that has any, from the first to the last."""
    drawn = _drawn(context)
    if not drawn:
        return None
    last = len(drawn) - 1
    chosen = sorted({round(i * last / (_SHOWN - 1)) for i in range(_SHOWN)})
    groups = []
    for step, file in (drawn[i] for i in chosen):
        sheet = read_image(file)
        ratio = sheet.shape[1] / sheet.shape[0]
        alt = f"Landmarks on validation images at step {step}"
        groups.append([Picture(data_uri(sheet), alt, label=f"Step {step:,}", ratio=ratio)])
    lead = (
        "The same validation images again and again. Landmarks should find their parts early and "
        "stay on them; if they still wander at the end, the training was too short."
    )
    return Section("course", "In the course of the training", lead, [Pictures(groups, size="full")])


def _drawn(context: Context) -> list[tuple[int, Path]]:
    """The steps and files of a stage's pictures, in order."""
    folder = context.run / "figures" / "training"
    for stage in reversed(context.experiment.stages):
        found = [
            (int(match[1]), file)
            for file in folder.glob("*.png")
            if (match := re.fullmatch(re.escape(stage) + r"-(\d+)\.png", file.name))
        ]
        if found:
            return sorted(found)
    return []
