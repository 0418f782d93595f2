"""landmark-lab export"""

from pathlib import Path
from typing import Annotated

import typer

from landmark_lab.cli.options import PluginOption, load_plugins


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT|RUN", help="A checkpoint or a finished run.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The new folder; 'export' in the run or beside the checkpoint."
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="FORMATS", help="torch, onnx or both.")
    ] = "torch,onnx",
    points: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Named points, as 'fit-points' wrote them."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Write a trained method as a folder that runs without the laboratory.

    The models take images of any size as they are and give landmarks, or your named points, in
    their pixels; the folder holds an example for each format, and a card with what goes in and out
    and the scores.

    Example: landmark-lab export runs/faces/001 --out faces --format onnx
    """
    load_plugins(plugin)

    from landmark_lab.export import export as write

    names = [name.strip() for name in formats.split(",") if name.strip()]
    done = write(checkpoint, out, names, points)
    for name, difference in done.difference.items():
        typer.echo(f"{name}: differs from 'predict' by at most {difference:.1e} of an image's side")
    typer.echo(f"export: {done.folder}")
