"""Arguments and options that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from landmark_lab.errors import ConfigError, nearest

ExperimentFile = Annotated[
    Path, typer.Argument(metavar="EXPERIMENT", help="The experiment file.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Changed settings; also --key=value.", show_default=False
    ),
]
RowOption = Annotated[
    str | None, typer.Option("--row", metavar="ROW", help="A row of the file's table.")
]
RunsOption = Annotated[
    Path, typer.Option("--runs", metavar="DIR", help="The folder of all run folders.")
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", metavar="PATH", help="A Python file or folder with plugins; may be repeated."
    ),
]

CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A checkpoint (*.ckpt), or a run folder: its last stage's best one.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps; by default a GPU if there is one."),
]
BatchSizeOption = Annotated[
    int, typer.Option(metavar="N", help="Images that go through the network at a time.")
]

RUNS = Path("runs")


def load_plugins(paths: Sequence[Path] | None) -> None:
    """Make the plugins of files that the user names known; needs no other library yet.

    Raises:
        ConfigError: there is no such file. (One that fails to import does not stop a command.)
    """
    from landmark_lab import user_plugins

    for path in paths or ():
        if not path.exists():
            raise ConfigError(f"there is no file or folder {path}", where="--plugin")
        user_plugins.announce(path)


def check_overrides(given: Sequence[str] | None, options: Sequence[str]) -> list[str]:
    """The overrides among the arguments, none of which may be a misspelt option.

    Args:
        given: what no option took.
        options: the command's options.

    Raises:
        ConfigError: an argument is neither an option nor an override.
    """
    for text in given or ():
        if text.startswith("-") and "=" not in text:
            close = nearest(text, options)
            raise ConfigError(
                f"there is no option {text}",
                allowed=[*options, "--key=value"],
                hint=f"did you mean {close}?" if close else None,
            )
    return list(given or ())
