"""Have the landmarks collapsed? A traffic light, and what each landmark is worth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from landmark_lab.evaluation.common import listing
from landmark_lab.evaluation.protocols.equivariance import why_lost
from landmark_lab.metrics.collapse import Collapse, collapse
from landmark_lab.report import charts
from landmark_lab.report.blocks import (
    Beside,
    Block,
    Cell,
    Chart,
    Charts,
    Section,
    Table,
    Text,
    Tone,
    number,
    plural,
)
from landmark_lab.report.context import Context
from landmark_lab.report.pictures import SPLITS

_PER_CENT = 50.0  # of the image's side, from [-1, 1]
_NAMED = 12  # landmarks of a list
_FEW = 20  # images, below which a spread says little


def health(context: Context) -> Section | None:
    """The collapse indicators of the landmarks found."""
    if context.predictions is None or not context.landmarks:
        return None
    splits = context.predictions.splits
    split = next(name for name in SPLITS if name in splits)
    state = collapse(torch.from_numpy(splits[split].landmarks).double())
    measured = _measured(context.scores, len(state.spread))
    problems = _problems(state, measured)
    count = len(state.spread)
    lost = sum(map(len, why_lost(measured)))
    worst = max((len(problem.which) for problem in problems), default=0)
    verdict: tuple[Tone, str]
    if not problems:
        verdict = "good", f"Healthy: {plural(count, 'different landmark')}, all of which move."
    elif 2 * max(worst, lost) < count:
        verdict = "warn", "Look closer: some landmarks are worth little."
    else:
        verdict = "bad", "Collapsed or lost: at least half of the landmarks are worth little."
    blocks: list[Block] = [Text(verdict[1], verdict[0])]
    tone: Tone = "bad" if verdict[0] == "bad" else "warn"
    blocks += [
        Text(f"{one.what}: {listing(one.which, _NAMED)} ({len(one.which)} of {count}).", tone)
        for one in problems
    ]
    cure = getattr(context.method, "cure", "")
    if problems and cure:
        blocks.append(Text(f"What usually helps: {cure}."))
    if len(splits[split]) < _FEW:
        blocks.append(Text(f"Only {plural(len(splits[split]), 'image')}: too few to be sure."))
    table = _table(state, measured, problems)
    blocks.append(Beside([Charts([_chart(measured)]), table]) if measured else table)
    lead = (
        "A falling loss and a small equivariance error do not show whether landmarks froze, fell "
        "together or track nothing: their movement over images does."
    )
    return Section("health", "Health of the landmarks", lead, blocks)


def _measured(scores: Mapping[str, Any], count: int) -> list[Mapping[str, float]]:
    """Error, spread, separation and lostness of each landmark, if the run measured them."""
    for score in scores.values():
        rows: list[Mapping[str, float]] = score["per_landmark"]
        if len(rows) == count and rows and "lost" in rows[0]:
            return rows
    return []


@dataclass(frozen=True)
class _Problem:
    """Something that is wrong with some landmarks.

    Attributes:
        word: of one of them.
        what: several of them, as the beginning of a sentence.
        which: they are.
    """

    word: str
    what: str
    which: Sequence[int]


def _problems(state: Collapse, measured: Sequence[Mapping[str, float]]) -> list[_Problem]:
    own = torch.arange(len(state.same_as))
    repeated = (state.same_as != own) & ~state.lost
    kinds = (
        ("never found", "Never found", state.lost),
        ("still", "Hardly moving over images", state.constant),
        ("repeats another", "Repeating another landmark", repeated),
        ("in the middle", "In the middle of the image", state.at_centre),
    )
    found = [
        _Problem(word, what, torch.nonzero(which)[:, 0].tolist()) for word, what, which in kinds
    ]
    unseen, unmoved, crowded = why_lost(measured)
    again = [k for k in unseen if not state.lost[k]]
    found += [
        _Problem("not found again", "Never found in both an image and its warped copy", again),
        _Problem("error above spread", "Erring by more than they move over images", unmoved),
        _Problem("error above next one", "Nearer to another landmark than they err", crowded),
    ]
    return [problem for problem in found if problem.which]


def _chart(measured: Sequence[Mapping[str, float]]) -> Chart:
    error = _column(measured, "error")
    resolved = np.fmin(_column(measured, "spread"), _column(measured, "separation"))
    svg = charts.numbered(
        resolved,
        error,
        "tells apart, % of the side",
        "equivariance error, % of the side",
        ("lost", "useful"),
    )
    above = int((error > resolved).sum())
    alt = f"Equivariance error against what each landmark tells apart; {above} lie above the line"
    caption = (
        "A landmark tells positions apart that differ by less than it moves over images, and than "
        "its distance to the next landmark. Above the line its error is larger than that."
    )
    return Chart(svg, "Which landmarks can be trusted", alt, caption)


def _column(measured: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([np.nan if row[name] is None else row[name] for row in measured], dtype=float)


def _table(
    state: Collapse,
    measured: Sequence[Mapping[str, float]],
    problems: Sequence[_Problem],
) -> Table:
    rows = []
    for k, spread in enumerate((_PER_CENT * state.spread).tolist()):
        wrong = [problem.word for problem in problems if k in problem.which]
        cells = [Cell(str(k), landmark=k), Cell(number(spread))]
        if measured:
            row = measured[k]
            cells += [Cell(number(row[name])) for name in ("separation", "error", "lost")]
        cells.append(Cell(", ".join(wrong), "warn") if wrong else Cell("healthy", "good"))
        rows.append(cells)
    extra = ["#Next one", "#Error", "#Lost, 0 to 1"] if measured else []
    caption = "Per cent of the image's side; error: equivariance"
    return Table(["Landmark", "#Spread", *extra, "Verdict"], rows, caption)
