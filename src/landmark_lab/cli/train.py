"""landmark-lab train"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from landmark_lab.cli.options import (
    RUNS,
    Overrides,
    PluginOption,
    RowOption,
    RunsOption,
    check_overrides,
    load_plugins,
)
from landmark_lab.errors import ConfigError

_OPTIONS = ("--row", "--seed", "--resume", "--runs", "--plugin", "--help")


def train(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="The experiment file; not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    row: RowOption = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The same as seed=N.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The folder of an interrupted run, to be continued."),
    ] = None,
    runs: RunsOption = RUNS,
    plugin: PluginOption = None,
) -> None:
    """Train an experiment and evaluate it.

    The last line is the folder of the run; a run never overwrites another one.

    Example: landmark-lab train experiments/demo.yaml method.landmarks=20 trainer.max_epochs=5

    To continue: landmark-lab train --resume runs/demo/001
    """
    given = check_overrides([*([experiment] if experiment else []), *(overrides or [])], _OPTIONS)
    files = [number for number, text in enumerate(given) if not _is_override(text)]
    path = Path(given.pop(files[0])) if files else None
    if path is None and resume is None:
        raise ConfigError(
            "which experiment?", hint="for example: landmark-lab train experiments/demo.yaml"
        )
    load_plugins(plugin)

    from landmark_lab.completion import complete
    from landmark_lab.config import read
    from landmark_lab.experiment import run
    from landmark_lab.runs import CONFIG, open_run, process_rank

    if seed is not None:
        given.append(f"seed={seed}")
    if resume is not None:
        path = path or open_run(resume) / CONFIG
    assert path is not None
    chosen = complete(read(path, given, row))
    if resume is not None:
        open_run(resume, chosen)
    folder = run(chosen, runs, resume=resume, command=sys.argv)
    if process_rank() == 0:
        for picture in sorted(folder.glob("figures/*.png")):
            typer.echo(f"picture: {picture}")
        if (folder / "report.html").is_file():
            typer.echo(f"report: {folder / 'report.html'}")
        typer.echo(f"run: {folder}")


def _is_override(text: str) -> bool:
    return "=" in text and not Path(text).is_file()
