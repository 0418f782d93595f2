"""Pictures of the landmarks in the course of a training, on images that it does not learn from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

from landmark_lab.data.sampling import Images
from landmark_lab.figures import contact_sheet
from landmark_lab.files import read_image
from landmark_lab.geometry.points import to_pixels
from landmark_lab.roles import Landmarks

_COLUMNS = 8
_CELL = 96


@runtime_checkable
class LogsPictures(Protocol):
    """A logger that takes pictures."""

    def log_picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """Log a picture (H, W, 3) uint8."""
        ...


@dataclass(frozen=True)
class PictureSettings:
    """Which pictures are drawn during training.

    Args:
        every: epochs that validate from one picture to the next.
        images: number of validation images shown.
    """

    every: int = 1
    images: int = 16

    def __post_init__(self) -> None:
        if self.every < 1 or self.images < 1:
            raise ValueError("every and images must be at least 1")

    @property
    def bytes(self) -> int:
        """The size of a picture, about: photographs compress to two thirds."""
        return self.images * _CELL * _CELL * 3 * 2 // 3


class Pictures(Callback):
    """Draws the landmarks of the same validation images again and again.

    The same colour is the same landmark, in all pictures of the laboratory. Saved as files, and
    given to every logger that takes pictures.

    Args:
        images: the validation images.
        settings: how often, and how many.
        folder: where the pictures go, as ``STAGE-STEP.png``.
        stage: the stage's name.
    """

    def __init__(self, images: Images, settings: PictureSettings, folder: Path, stage: str) -> None:
        self.every = settings.every
        self.folder = folder
        self.stage = stage
        self._images = images
        # From everywhere in the split: neighbours may be frames of one video.
        count = min(settings.images, len(images))
        self._chosen = [i * len(images) // count for i in range(count)]
        self._shown: list[NDArray[np.uint8]] = []

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        validated = trainer.current_epoch // (trainer.check_val_every_n_epoch or 1)
        if validated % self.every or not isinstance(pl_module, Landmarks):
            return
        if not self._shown:
            self._shown = [self._images[i]["image"] for i in self._chosen]
        batch = torch.from_numpy(np.stack(self._shown)).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            points, _ = pl_module.landmarks(batch.to(pl_module.device))
        height, width = batch.shape[-2:]
        drawn = to_pixels(points.float().cpu(), height, width).numpy()
        path = self.folder / f"{self.stage}-{trainer.global_step:06d}.png"
        contact_sheet(path, self._shown, list(drawn), columns=_COLUMNS, cell=_CELL, radius=2)
        takers = [logger for logger in trainer.loggers if isinstance(logger, LogsPictures)]
        if takers:
            picture = read_image(path)
            for logger in takers:
                logger.log_picture("landmarks", picture, trainer.global_step)
