"""landmark-lab reproduce"""

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

    Runs all rows and seeds, or one row, and prints the measured beside the reported numbers.

    Example: landmark-lab reproduce experiments/factorized/faces.yaml --row k10
    """
    given = check_overrides(overrides, ("--row", "--runs", "--plugin", "--help"))
    load_plugins(plugin)

    from rich.console import Console

    from landmark_lab.completion import complete
    from landmark_lab.config import read
    from landmark_lab.experiment import run
    from landmark_lab.runs import process_rank

    base = read(experiment, given, row)
    names: Sequence[str | None] = [base.row] if base.row else [*base.rows] or [None]
    # All rows are checked before the first one is run.
    planned: list[list[Experiment]] = []
    for name in names:
        chosen = complete(read(experiment, given, name))
        seeds = chosen.seeds or (chosen.seed,)
        planned.append([complete(read(experiment, [*given, f"seed={s}"], name)) for s in seeds])
    finished = []
    for repeated in planned:
        folders = [run(one, runs, command=sys.argv) for one in repeated]
        finished.append((repeated[0], [measured(folder) for folder in folders]))
        if process_rank() == 0:
            # After every row, because the next one may take days.
            Console().print(comparison(finished))


def measured(run: Path) -> dict[str, dict[str, float]]:
    """The scores of a run: of each protocol its ``value``, ``low`` and ``high``.

    Raises:
        DataError: the run has no readable results.
    """
    from landmark_lab.files import read_json

    scores: Mapping[str, Mapping[str, float]] = read_json(run / "results.json")["protocols"]
    return {
        name: {key: score[key] for key in ("value", "low", "high")}
        for name, score in scores.items()
    }


def comparison(
    finished: "Sequence[tuple[Experiment, Sequence[Mapping[str, Mapping[str, float]]]]]",
) -> "Table":
    """Reported and measured numbers, a line for each row and protocol.

    Args:
        finished: each row's experiment, and the scores of its runs, one a seed.
    """
    from rich.table import Table

    table = Table(title=finished[0][0].summary or finished[0][0].name)
    table.add_column("row")
    table.add_column("protocol")
    table.add_column("reported", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("interval or deviation")
    table.add_column("difference", justify="right")
    for experiment, scores in finished:
        for protocol in scores[0]:
            values = [score[protocol]["value"] for score in scores]
            mean = statistics.fmean(values)
            if len(values) > 1:
                spread = f"± {statistics.stdev(values):.3g} over {len(values)} seeds"
            else:
                spread = f"{scores[0][protocol]['low']:.4g} – {scores[0][protocol]['high']:.4g}"
            reported = experiment.reported.get(protocol)
            table.add_row(
                experiment.row or experiment.name,
                protocol,
                "–" if reported is None else f"{reported:.4g}",
                f"{mean:.4g}",
                spread,
                "–" if reported is None else f"{mean - reported:+.3g}",
            )
    return table
