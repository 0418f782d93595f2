"""landmark-lab config"""

import typer

from landmark_lab.cli.options import (
    ExperimentFile,
    Overrides,
    PluginOption,
    RowOption,
    check_overrides,
    load_plugins,
)


def config(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    row: RowOption = None,
    plugin: PluginOption = None,
) -> None:
    """Check an experiment and show it in full.

    Every default is filled in, and methods and pairings are built once. Nothing is loaded or
    trained: whether the data is there and suits them turns out when a training begins.

    Example: landmark-lab config experiments/demo.yaml method.backbone=hourglass
    """
    given = check_overrides(overrides, ("--row", "--plugin", "--help"))
    load_plugins(plugin)

    from landmark_lab.completion import complete, try_out
    from landmark_lab.config import read, to_yaml

    chosen = complete(read(experiment, given, row))
    try_out(chosen)
    typer.echo(to_yaml(chosen.to_mapping()), nl=False)
