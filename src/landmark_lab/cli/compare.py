"""landmark-lab compare"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landmark_lab.cli.options import PluginOption, load_plugins
from landmark_lab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.table import Table

    from landmark_lab.cli.scored import Scored
    from landmark_lab.data.results import Predictions
    from landmark_lab.evaluation.comparison import Comparison
    from landmark_lab.roles import Protocol


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run folders, or files of predictions; all are compared with the first.",
            show_default=False,
        ),
    ],
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            "--protocol",
            metavar="PROTOCOL[,KEY=VALUE]...",
            help="May be repeated; by default the protocols that the runs have in common.",
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(metavar="N", help="Resamples of the images.")] = 10_000,
    plugin: PluginOption = None,
) -> None:
    """Say whether one run is better than another, by a paired bootstrap.

    Both are scored on the same test images. A difference whose interval does not hold zero would
    hardly come from other test images of the same kind. It says nothing about other seeds of the
    training: for these, give the experiment `seeds` and run `landmark-lab reproduce`.

    Example: landmark-lab compare runs/faces/k10/001 runs/faces/k30/001
    """
    load_plugins(plugin)
    if len(runs) < 2:
        raise ConfigError("which runs? At least two are compared", got=str(runs[0]))
    if resamples < 1:
        raise ConfigError(f"{resamples} resamples", where="--resamples", allowed="at least 1")

    from rich.console import Console

    from landmark_lab.cli.scored import scored
    from landmark_lab.evaluation import comparison, full_label

    found = [scored(path) for path in runs]
    chosen, left_out = _protocols(found, protocol or ())
    first, *others = [_load(run) for run in found]
    tables = []
    refused: list[DataError] = []
    # All before the first line, so that an error is not the end of half a result.
    for one in chosen:
        try:
            for run in found:
                _check_version(run, one)
            compared = [comparison.compare(first, other, one, resamples) for other in others]
        except DataError as error:
            if protocol:
                raise
            refused.append(error)
            left_out[full_label(one)] = str(error)
        else:
            tables.append(_table(full_label(one), compared))
    if not tables:
        raise refused[0]
    for table in tables:
        Console().print(table)
    for number, path in enumerate(runs):
        typer.echo(f"{_letter(number)}: {path}")
    for name, reason in left_out.items():
        typer.echo(f"{name} was not compared, because {reason}")


def _protocols(
    found: "Sequence[Scored]", given: Sequence[str]
) -> "tuple[list[Protocol], dict[str, str]]":
    """The protocols that are given or that all runs have, and why the runs' others are left out."""
    from landmark_lab.cli.scored import protocols
    from landmark_lab.evaluation import full_label

    if given:
        return protocols(given, (), "compare"), {}
    with_own = [run for run in found if run.evaluate]
    if not with_own:
        return protocols((), (), "compare"), {}  # says that none is given
    every = [protocols((), run.evaluate, str(run.path)) for run in with_own]
    specs = [[protocol.spec for protocol in own] for own in every]
    common = [one for one in every[0] if all(one.spec in other for other in specs)]
    left_out = {
        full_label(one): "not all runs have it with these settings"
        for own in every
        for one in own
        if not all(one.spec in other for other in specs)
    }
    if not common:
        raise ConfigError(
            f"the runs have no protocol in common, only {', '.join(left_out)}",
            hint="choose one: --protocol forward_nme",
        )
    return common, left_out


def _check_version(run: "Scored", protocol: "Protocol") -> None:
    from landmark_lab.cli.scored import protocols
    from landmark_lab.data.results import read_results
    from landmark_lab.evaluation import labels
    from landmark_lab.evaluation.comparison import check_version

    if run.results is None or not run.results.is_file():
        return
    own = protocols((), run.evaluate, str(run.path)) if run.evaluate else []
    for label, one in zip(labels(own), own, strict=True):
        if one.spec == protocol.spec:
            check_version(read_results(run.results), label, one, str(run.results))


def _load(run: "Scored") -> "Predictions":
    from landmark_lab.evaluation import load_predictions

    return load_predictions(run.predictions, checkpoint=run.checkpoint, data=run.data)


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else f"run {number + 1}"


def _table(protocol: str, compared: "Sequence[Comparison]") -> "Table":
    """The runs under one protocol, a line each; the first one is what they are compared with."""
    from rich.markup import escape
    from rich.table import Table

    unit = compared[0].unit + (", higher is better" if compared[0].higher_is_better else "")
    table = Table(
        title=f"{escape(protocol)}\n[dim]{escape(unit)}[/dim]", title_justify="left", min_width=60
    )
    table.add_column("run")
    for name in ("value", "A minus run", "95 % interval", "A is better", "images"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row("A", f"{compared[0].first:.2f}")
    for number, found in enumerate(compared, start=1):
        table.add_row(
            _letter(number),
            f"{found.second:.2f}",
            f"{found.difference:+.2f}",
            f"{found.low:+.2f} to {found.high:+.2f}",
            f"{100 * found.first_better:.1f} %",
            str(found.images),
        )
    return table
