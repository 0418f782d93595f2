"""landmark-lab sweep"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landmark_lab.cli.options import (
    RUNS,
    Overrides,
    PluginOption,
    RunsOption,
    check_overrides,
    load_plugins,
)

if TYPE_CHECKING:
    from rich.table import Table

    from landmark_lab.sweep.file import Sweep
    from landmark_lab.sweep.running import Outcome


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="SWEEP", help="A W&B sweep file.", show_default=False)
    ],
    overrides: Overrides = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Runs; by default the file's run_cap.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the random search.")] = 0,
    runs: RunsOption = RUNS,
    plugin: PluginOption = None,
) -> None:
    """Run a sweep on this machine, without an account.

    Trains one combination of settings after the other, and ends with a table, the best first.
    Called again it goes on where it stopped.

    Example: landmark-lab sweep experiments/sweeps/factorized.yaml --count 4
    """
    given = check_overrides(overrides, ("--count", "--seed", "--runs", "--plugin", "--help"))
    load_plugins(plugin)

    from rich.console import Console

    from landmark_lab.sweep.running import TABLE, sweep as run_sweep

    options = [word for path in plugin or () for word in ("--plugin", str(path))]
    chosen, outcomes = run_sweep(file, runs, count, seed, given, options, typer.echo)
    Console().print(comparison(chosen, outcomes))
    typer.echo(f"table: {runs / chosen.name / TABLE}")
    if failed := sum(outcome.status == "failed" for outcome in outcomes):
        typer.secho(f"failed runs: {failed} of {len(outcomes)}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


def comparison(chosen: "Sweep", outcomes: "Sequence[Outcome]") -> "Table":
    """The runs of a sweep, the best first.

    Args:
        chosen: the sweep.
        outcomes: of its runs, in any order.
    """
    from rich.table import Table

    from landmark_lab.sweep.running import ranked

    table = Table(title=f"{chosen.name}: {chosen.goal} {chosen.metric}")
    for parameter in chosen.parameters:
        table.add_column(parameter.path, justify="right")
    table.add_column(chosen.metric, justify="right")
    table.add_column("run or error")
    for outcome in ranked(chosen, outcomes):
        values = [outcome.planned.values[parameter.path] for parameter in chosen.parameters]
        table.add_row(
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values),
            "–" if outcome.metric is None else f"{outcome.metric:.4g}",
            outcome.error or str(outcome.run),
        )
    return table
