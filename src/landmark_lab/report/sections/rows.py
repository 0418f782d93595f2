"""The other rows of the experiment's table, if they were run beside this one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from landmark_lab.data.results import read_results
from landmark_lab.errors import LandmarkLabError
from landmark_lab.report.blocks import Cell, Section, Table, number
from landmark_lab.report.context import Context


def rows(context: Context) -> Section | None:
    """The first results of the neighbouring runs: other rows, other seeds."""
    if not context.scores:
        return None
    neighbours = [*_neighbours(context)]
    names = list(context.scores)[:4]
    table = []
    for label, found in neighbours:
        values = [found["protocols"].get(name, {}) for name in names]
        table.append([Cell(label), *(Cell(_value(value)) for value in values)])
    if not table:
        return None
    own = [Cell("this run"), *(Cell(_value(context.scores[name])) for name in names)]
    columns = ["Run", *(f"#{name}" for name in names)]
    lead = "Measured values with their 95 % intervals; each run has its own report."
    return Section("rows", "Runs beside this one", lead, [Table(columns, [own, *table])])


def _neighbours(context: Context) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and results of the runs of the same experiment in the same folder of runs."""
    run = context.run.resolve()
    row = context.experiment.row
    top = run.parent.parent if row else run.parent
    if row and run.parent.name != row:  # the folder was moved: there is no telling
        return
    files = sorted(top.glob("*/*/results.json" if row else "*/results.json"))
    for file in files:
        if file.parent == run:
            continue
        try:
            found = read_results(file)
        except LandmarkLabError:
            continue  # of another program, or being written
        yield str(Path(*file.parent.relative_to(top).parts)), found


def _value(score: Mapping[str, Any]) -> str:
    if score.get("value") is None:
        return "–"
    if score.get("low") is None:
        return number(score["value"])
    return f"{number(score['value'])} ({number(score['low'])} – {number(score['high'])})"
