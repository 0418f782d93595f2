"""landmark-lab report"""

from pathlib import Path
from typing import Annotated

import typer

from landmark_lab.cli.options import PluginOption, load_plugins


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file; by default report.html in the run folder."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write the report of a run, finished or not.

    One file that needs no network: what was run, losses, landmarks, predictions, results. A run
    writes its own when it ends.

    Example: landmark-lab report runs/demo/001 --out demo.html
    """
    load_plugins(plugin)

    from landmark_lab.report import write_report

    typer.echo(f"report: {write_report(run, out)}")
