"""The command line: one short module a command.

The modules import what they need inside their functions, so that ``--help`` does not wait for
torch.
"""

import os
from typing import Annotated

import typer

from landmark_lab import __version__
from landmark_lab.cli.compare import compare
from landmark_lab.cli.config import config
from landmark_lab.cli.doctor import doctor
from landmark_lab.cli.evaluate import evaluate
from landmark_lab.cli.export import export
from landmark_lab.cli.fit_points import fit_points
from landmark_lab.cli.list import list_plugins
from landmark_lab.cli.predict import predict
from landmark_lab.cli.report import report
from landmark_lab.cli.reproduce import reproduce
from landmark_lab.cli.sweep import sweep
from landmark_lab.cli.train import train
from landmark_lab.errors import LandmarkLabError

DEBUG_VARIABLE = "LANDMARK_LAB_DEBUG"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Overrides may be written as options, which only the experiment file knows.
_WITH_OVERRIDES = {"ignore_unknown_options": True}
app.command(context_settings=_WITH_OVERRIDES)(train)
app.command(context_settings=_WITH_OVERRIDES)(reproduce)
app.command(context_settings=_WITH_OVERRIDES)(sweep)
app.command()(predict)
app.command("fit-points")(fit_points)
app.command()(evaluate)
app.command()(compare)
app.command()(report)
app.command()(export)
app.command(context_settings=_WITH_OVERRIDES)(config)
app.command("list")(list_plugins)
app.command()(doctor)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _landmark_lab(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Discover the landmarks of objects in images without labels, and compare methods that do.

    Start with: landmark-lab train experiments/demo.yaml
    """


def main() -> None:
    """Run a command; an error that the user can mend is one red line, not a traceback."""
    try:
        app()
    except LandmarkLabError as error:
        if os.environ.get(DEBUG_VARIABLE):
            raise
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from error
