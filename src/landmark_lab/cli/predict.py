"""landmark-lab predict"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from landmark_lab.cli.options import (
    BatchSizeOption,
    CheckpointArgument,
    DeviceOption,
    PluginOption,
    load_plugins,
)

if TYPE_CHECKING:
    from landmark_lab.inference.prediction import Outcome

OUT = Path("predictions")
_FORMATS = "csv,coco,deeplabcut"


def predict(
    checkpoint: CheckpointArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...",
            help="Images, videos, folders of them, or patterns such as 'frames/*.png'.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where everything is written.")] = OUT,
    points: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own named points, from 'fit-points', in place of the landmarks.",
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", metavar="LIST", help="Which tables.")
    ] = _FORMATS,
    draw: Annotated[
        bool, typer.Option(help="Draw the points on copies of the images and videos.")
    ] = True,
    every: Annotated[int, typer.Option(metavar="N", help="Take every n-th frame of a video.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier files.")] = False,
    batch_size: BatchSizeOption = 32,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Find the landmarks, or your own named points, in new images and videos.

    Needs nothing but the checkpoint. All coordinates are pixels of the original images, from (0, 0)
    at the centre of the top-left pixel.

    Example: landmark-lab predict runs/faces/001 photographs/

    A video, with your own points: landmark-lab predict runs/mouse/001 mouse.mp4 --points
    mouse.points.npz --out mouse_predicted

    Into the folder --out go points.csv (file, frame, point, x, y, score; a row a point), coco.json
    (COCO keypoints), deeplabcut.csv (and deeplabcut/NAME.csv for each video), and drawn/. What
    cannot be read is named and left out, and the exit status is then 1.
    """
    load_plugins(plugin)

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from landmark_lab.inference import Predictor
    from landmark_lab.inference.inputs import expected_frames, find_sources
    from landmark_lab.inference.prediction import predict_files

    sources = find_sources(images, without=out)
    predictor = Predictor(checkpoint, points, device, batch_size)
    columns = ("predicting", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=expected_frames(sources, max(every, 1)))
        outcome = predict_files(
            predictor,
            sources,
            out,
            formats=[name.strip() for name in formats.split(",")],
            draw=draw,
            every=every,
            overwrite=overwrite,
            on_progress=lambda done: bar.update(task, completed=done),
        )
    _report(outcome, len(predictor.names), out)


def _report(outcome: "Outcome", points: int, out: Path) -> None:
    for problem in outcome.problems:
        typer.secho(f"left out: {problem}", fg=typer.colors.YELLOW, err=True)
    left_out = f", {len(outcome.problems)} left out" if outcome.problems else ""
    typer.echo(f"{points} points in {outcome.frames} images and frames{left_out}: {out}")
    if outcome.interrupted:
        typer.secho("interrupted: the rest is missing", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(130)
    if outcome.problems:
        raise typer.Exit(1)
