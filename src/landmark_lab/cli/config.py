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

    Nothing is loaded or trained; every default is filled in.

    Example: landmark-lab config experiments/demo.yaml method.backbone=hourglass
    """
    given = check_overrides(overrides, ("--row", "--plugin", "--help"))
    load_plugins(plugin)

    from landmark_lab.completion import complete
    from landmark_lab.config import read, to_yaml

    chosen = complete(read(experiment, given, row))
    typer.echo(to_yaml(chosen.to_mapping()), nl=False)
