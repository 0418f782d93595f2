"""landmark-lab reproduce"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from landmark_lab.cli.options import (
    RUNS,
    ExperimentFile,
    Overrides,
    PluginOption,
    RowOption,
    RunsOption,
    check_overrides,
    load_plugins,
)

if TYPE_CHECKING:
    from rich.table import Table

    from landmark_lab.config import Experiment


def reproduce(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    row: RowOption = None,
    runs: RunsOption = RUNS,
    plugin: PluginOption = None,
) -> None:
    """Compare an experiment with the paper.

    Runs all rows and seeds, or one row, and prints the measured beside the reported numbers. They
    are also written into DIR/EXPERIMENT/reproduced-NNN.json. A row that fails is named at the end;
    the others are run all the same.

    Example: landmark-lab reproduce experiments/factorized/faces.yaml --row k10
    """
    given = check_overrides(overrides, ("--row", "--runs", "--plugin", "--help"))
    load_plugins(plugin)

    import torch
    from rich.console import Console

    from landmark_lab.completion import complete
    from landmark_lab.config import read
    from landmark_lab.errors import LandmarkLabError, RunError
    from landmark_lab.experiment import run
    from landmark_lab.files import write_json
    from landmark_lab.runs import process_rank

    base = read(experiment, given, row)
    names: Sequence[str | None] = [base.row] if base.row else [*base.rows] or [None]
    # All rows are checked before the first one is run.
    planned: list[list[Experiment]] = []
    for name in names:
        chosen = complete(read(experiment, given, name))
        seeds = chosen.seeds or (chosen.seed,)
        planned.append([complete(read(experiment, [*given, f"seed={s}"], name)) for s in seeds])
    finished: list[Row] = []
    failed: list[str] = []
    target = None
    for name, repeated in zip(names, planned, strict=True):
        try:
            folders = [run(one, runs, command=sys.argv) for one in repeated]
        except LandmarkLabError as error:
            # Processes that train together cannot tell whether the others failed, too.
            if name is None or len(planned) == 1 or torch.distributed.is_initialized():
                raise
            typer.secho(f"error: row {name}: {error}", fg=typer.colors.RED, err=True)
            failed.append(name)
            continue
        if process_rank() == 0:
            # After every row, because the next one may take days.
            scores = [measured(folder) for folder in folders]
            finished += summarised(repeated, folders, scores)
            target = target or _unused(runs / base.name)
            write_json(target, {"experiment": base.name, "rows": [asdict(row) for row in finished]})
            Console().print(comparison(base.summary or base.name, finished))
    if target is not None:
        typer.echo(f"summary: {target}")
    if failed:
        raise RunError(f"{len(failed)} of {len(planned)} rows failed: {', '.join(failed)}")


@dataclass(frozen=True)
class Row:
    """A row of a table of results under one protocol, over the seeds of its runs.

    Attributes:
        row: its name, or that of the experiment.
        protocol: what the result is called.
        reported: the published number, if there is one.
        measured: mean over the seeds; None if there is no number.
        deviation: standard deviation over the seeds; None for one seed.
        low, high: of a single run, its bootstrap interval over test images.
        difference: measured minus reported.
        values: of each seed.
        seeds: of the runs.
        runs: their folders.
    """

    row: str
    protocol: str
    reported: float | None
    measured: float | None
    deviation: float | None
    low: float | None
    high: float | None
    difference: float | None
    values: list[float | None]
    seeds: list[int]
    runs: list[str]


def summarised(
    repeated: "Sequence[Experiment]",
    folders: Sequence[Path],
    scores: "Sequence[Mapping[str, Mapping[str, float | None]]]",
) -> list[Row]:
    """The results of one row of the experiment.

    Args:
        repeated: the experiment with each seed.
        folders: the run of each.
        scores: what :func:`measured` says of each.
    """
    first = repeated[0]
    rows = []
    for protocol in scores[0]:
        values = [score[protocol]["value"] for score in scores]
        numbers = [value for value in values if value is not None]
        mean = statistics.fmean(numbers) if numbers else None
        reported = first.reported.get(protocol)
        alone = scores[0][protocol] if len(scores) == 1 else {}
        rows.append(
            Row(
                first.row or first.name,
                protocol,
                reported,
                mean,
                statistics.stdev(numbers) if len(numbers) > 1 else None,
                alone.get("low"),
                alone.get("high"),
                None if mean is None or reported is None else mean - reported,
                values,
                [one.seed for one in repeated],
                [str(folder) for folder in folders],
            )
        )
    return rows


def _unused(folder: Path) -> Path:
    """A file for the summary that does not exist yet: none is overwritten."""
    number = 1
    while (path := folder / f"reproduced-{number:03d}.json").exists():
        number += 1
    return path


def measured(run: Path) -> dict[str, dict[str, float | None]]:
    """The scores of a run: of each protocol its ``value``, ``low`` and ``high``.

    Raises:
        DataError: the run has no readable results.
    """
    from landmark_lab.data.results import read_results

    scores: Mapping[str, Mapping[str, float | None]] = read_results(run / "results.json")[
        "protocols"
    ]
    return {
        name: {key: score[key] for key in ("value", "low", "high")}
        for name, score in scores.items()
    }


def comparison(title: str, rows: Sequence[Row]) -> "Table":
    """Reported and measured numbers, a line for each row and protocol."""
    from rich.table import Table

    table = Table(title=title)
    table.add_column("row")
    table.add_column("protocol")
    table.add_column("reported", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("interval or deviation")
    table.add_column("difference", justify="right")
    for row in rows:
        spread = ""
        if row.deviation is not None:
            spread = f"± {row.deviation:.3g} over {len(row.values)} seeds"
        elif row.low is not None and row.high is not None:
            spread = f"{row.low:.4g} – {row.high:.4g}"
        table.add_row(
            row.row,
            row.protocol,
            "–" if row.reported is None else f"{row.reported:.4g}",
            "–" if row.measured is None else f"{row.measured:.4g}",
            spread,
            "–" if row.difference is None else f"{row.difference:+.3g}",
        )
    return table
