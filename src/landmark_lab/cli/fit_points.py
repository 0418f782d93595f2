"""landmark-lab fit-points"""

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
from landmark_lab.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from landmark_lab.inference.point_errors import PointErrors

_REST = "rest"


def fit_points(
    checkpoint: CheckpointArgument,
    annotations: Annotated[
        Path,
        typer.Argument(
            metavar="ANNOTATIONS",
            help="A few annotated images: COCO keypoints JSON, DeepLabCut CSV, plain CSV, or a "
            "folder of .pts or .cat files.",
            show_default=False,
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the images lie, if not beside the annotations."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the points are kept; by default beside the checkpoint."
        ),
    ] = None,
    annotated: Annotated[
        int | None,
        typer.Option(metavar="N", help="Fit on so many of the images, chosen at random."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the choice and the warps.")] = 0,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="ANNOTATIONS|rest",
            help="Also measure the error in other annotated images: a file, or the rest of those "
            "that --annotated chose from.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier points.")] = False,
    copies: Annotated[
        int | None,
        typer.Option(metavar="N", help="Warped copies of each image; 20 by default."),
    ] = None,
    batch_size: BatchSizeOption = 32,
    device: DeviceOption = None,
    plugin: PluginOption = None,
) -> None:
    """Teach a trained method your own named points, from about ten annotated images.

    The points are a linear function of the discovered landmarks. The table shows how far they are
    from the annotation of images that were left out, beside the mean shape, which is what one gets
    without looking at the image.

    Example: landmark-lab fit-points runs/wings/001 wings.json --test more_wings.json

    With ten of the images, measured in the others: landmark-lab fit-points runs/mouse/001
    CollectedData.csv --annotated 10 --test rest

    Then: landmark-lab predict runs/mouse/001 mouse.mp4 --points FILE
    """
    load_plugins(plugin)
    if test == _REST and annotated is None:
        raise ConfigError("the rest of what?", where="--test rest", hint="set --annotated N")

    from rich.console import Console

    from landmark_lab.data.annotations import read
    from landmark_lab.inference import Predictor
    from landmark_lab.inference.annotated import (
        draw_images,
        find_images,
        load_annotated,
        reordered,
    )
    from landmark_lab.inference.fitting import fit_points as fit, measure_points
    from landmark_lab.inference.named_points import SUFFIX
    from landmark_lab.inference.pictures import compare

    given = read(annotations)
    files = find_images(given, annotations, images)
    others = None
    if annotated is not None:
        rows, rest = draw_images(given, annotated, seed)
        if test == _REST and not rest:
            raise ConfigError("no annotated image is left", where="--test rest")
        if test == _REST:
            others = given.take(rest), [files[row] for row in rest]
        given, files = given.take(rows), [files[row] for row in rows]
    if test is not None and test != _REST:
        path = Path(test)
        read_test = reordered(read(path), given.names)
        found = find_images(read_test, path, images)
        seen = {file.resolve() for file in files}
        fresh = [row for row, file in enumerate(found) if file.resolve() not in seen]
        if not fresh:
            raise ConfigError(
                "names no image but those that the points are fitted on", where=f"--test {test}"
            )
        if len(fresh) < len(found):
            typer.echo(f"--test: {len(found) - len(fresh)} images that it is fitted on left out")
        others = read_test.take(fresh), [found[row] for row in fresh]

    predictor = Predictor(checkpoint, device=device, batch_size=batch_size)
    target = out or predictor.checkpoint.with_suffix(SUFFIX)
    _check_target(target, overwrite)
    fitted = load_annotated(given, files, predictor.preprocess)
    tested = None if others is None else load_annotated(*others, predictor.preprocess)
    points, errors = fit(predictor, fitted, copies, seed)
    points.save(target)

    console = Console(width=max(Console().width, 100))
    _show(console, errors, f"Errors in the {len(fitted)} images, each when it is left out")
    if tested is not None:
        errors, _ = measure_points(predictor, points, fitted, tested)
        _show(console, errors, f"Errors in {len(tested)} other images")
    picture = target.with_name(target.name.removesuffix(".npz") + ".png")
    compare(picture, tested or fitted, errors)
    typer.echo(f"picture: {picture} (rings: annotation)")
    typer.echo(f"now: landmark-lab predict {checkpoint} IMAGES --points {target}")


def _check_target(target: Path, overwrite: bool) -> None:
    """Find out now that the points have no place.

    Raises:
        ConfigError: it is no name for points, or taken.
    """
    from landmark_lab.inference.named_points import SUFFIX

    if not target.name.endswith(SUFFIX):
        raise ConfigError(
            f"{target.name} is no name for points",
            where="--out",
            allowed=f"names ending in {SUFFIX}",
        )
    if target.exists() and not overwrite:
        raise ConfigError(
            "exists already", where=str(target), hint="choose another --out, or --overwrite"
        )


def _show(console: "Console", errors: "PointErrors", title: str) -> None:
    from landmark_lab.inference.point_errors import table, verdict

    console.print(table(errors, title))
    better, line = verdict(errors)
    colour = None if better else typer.colors.YELLOW
    typer.secho(line if better else f"warning: {line}", fg=colour)
