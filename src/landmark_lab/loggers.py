"""Where the values of a run go besides its CSV tables: the ``log`` section of an experiment.

::

    log:
      wandb: {project: faces}     # Weights & Biases; {} is enough
      tensorboard: true
      pictures: {every: 5}        # null: none
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_info

from landmark_lab.callbacks.pictures import PictureSettings
from landmark_lab.callbacks.wandb_log import About, WandbLog, WandbSettings, check_wandb, mode_of
from landmark_lab.config import Experiment
from landmark_lab.errors import require
from landmark_lab.plugin import build_settings, check_settings
from landmark_lab.runs import process_rank


@dataclass(frozen=True)
class LogSettings:
    """The ``log`` section.

    Args:
        wandb: settings of W&B, or None for no W&B.
        tensorboard: whether to write TensorBoard's event files.
        pictures: which pictures are drawn during training, or None for none.
    """

    wandb: WandbSettings | None = None
    tensorboard: bool = False
    pictures: PictureSettings | None = field(default_factory=PictureSettings)


def complete_log(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``log`` section, checked and with its defaults.

    What an agent of a W&B sweep starts logs to W&B, because the sweep needs its metric.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    if os.environ.get("WANDB_SWEEP_ID") and given.get("wandb") is None:
        given = {**given, "wandb": {}}
    return check_settings(LogSettings, given, "log")


class RunLog:
    """The loggers of a run, for all its stages; a context manager.

    Args:
        experiment: what runs, complete.

    Raises:
        MissingDependencyError: a logger's library is not installed.
        ConfigError: wandb refuses a setting.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self.settings = build_settings(LogSettings, experiment.log, "log")
        self._wandb: WandbLog | None = None
        self._folder = Path()
        if self.settings.tensorboard:
            purpose = "logging to TensorBoard (log.tensorboard)"
            require("tensorboard", purpose=purpose)
        if self.settings.wandb is not None:
            check_wandb(self.settings.wandb)

    def open(self, folder: Path) -> Self:
        """Start logging into a run folder.

        Raises:
            RunError: W&B cannot start.
        """
        self._folder = folder
        wandb = self.settings.wandb
        if wandb is not None and mode_of(wandb) != "disabled" and process_rank() == 0:
            self._wandb = WandbLog(folder, wandb, about(self._experiment, folder))
            rank_zero_info(f"W&B: {self._wandb.place}")
        return self

    def stage(self, name: str, first_step: int, until: int | None) -> list[Logger]:
        """The loggers of a stage.

        Args:
            name: of the stage.
            first_step: steps of the stages before it.
            until: the step from which the stage continues, or None.
        """
        loggers: list[Logger] = []
        if self.settings.tensorboard:
            # A step of an interrupted attempt that comes again is purged.
            top = self._folder / "tensorboard"
            loggers.append(TensorBoardWithPictures(top, name, version="", purge_step=until))
        if self._wandb is not None:
            self._wandb.offset = first_step
            loggers.append(self._wandb)
        return loggers

    def results(self, values: Mapping[str, float]) -> None:
        """Log what the run came to."""
        if self._wandb is not None:
            self._wandb.log_results(values)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._wandb is not None:
            self._wandb.close(failed=error is not None)


class TensorBoardWithPictures(TensorBoardLogger):
    """Lightning's, which takes no pictures itself."""

    def log_picture(self, name: str, picture: Any, step: int) -> None:
        """Log a picture (H, W, 3) uint8."""
        self.experiment.add_image(name, picture, step, dataformats="HWC")


def about(experiment: Experiment, folder: Path) -> About:
    """What W&B shows of a run: its name is that of its folder below the folder of all runs."""
    group = f"{experiment.name}/{experiment.row}" if experiment.row else experiment.name
    tags = [*([experiment.row] if experiment.row else []), f"seed {experiment.seed}"]
    return About(f"{group}/{folder.name}", group, tags, experiment.to_mapping())


def flat(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The scores of protocols as ``protocol`` and ``protocol/low``, ``protocol/high``."""
    values: dict[str, float] = {}
    for protocol, score in scores.items():
        names = {protocol: "value", f"{protocol}/low": "low", f"{protocol}/high": "high"}
        values |= {name: score[key] for name, key in names.items() if score.get(key) is not None}
    return values
