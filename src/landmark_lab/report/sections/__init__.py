"""The sections of a report, one a file: each is a function ``(Context) -> Section | None``.

None: the section does not apply to this run, and the page does not mention it. A new section is a
new file and a line in ``SECTIONS``; the blocks it is made of are in ``blocks.py``, charts are drawn
in ``charts.py``.
"""

from collections.abc import Callable

from landmark_lab.report.blocks import Section
from landmark_lab.report.context import Context
from landmark_lab.report.sections.clusters import clusters
from landmark_lab.report.sections.course import course
from landmark_lab.report.sections.curves import curves
from landmark_lab.report.sections.exchange import exchange
from landmark_lab.report.sections.few_shot import few_shot
from landmark_lab.report.sections.frame import frame
from landmark_lab.report.sections.health import health
from landmark_lab.report.sections.landmarks import landmarks
from landmark_lab.report.sections.losses import losses
from landmark_lab.report.sections.matches import matches
from landmark_lab.report.sections.pairs import pairs
from landmark_lab.report.sections.points import points
from landmark_lab.report.sections.predictions import predictions
from landmark_lab.report.sections.regressor import regressor
from landmark_lab.report.sections.results import results
from landmark_lab.report.sections.rounds import rounds
from landmark_lab.report.sections.rows import rows
from landmark_lab.report.sections.run import run
from landmark_lab.report.sections.symmetry import symmetry
from landmark_lab.report.sections.unfolded import unfolded

SECTIONS: tuple[Callable[[Context], Section | None], ...] = (
    run,
    results,
    landmarks,
    health,
    frame,
    unfolded,
    symmetry,
    matches,
    exchange,
    pairs,
    predictions,
    curves,
    points,
    few_shot,
    regressor,
    rounds,
    clusters,
    course,
    losses,
    rows,
)
