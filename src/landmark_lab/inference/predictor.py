"""Landmarks of new images from a checkpoint alone.

The checkpoint's card holds all that is needed: the method's spec, and how the images of its data
became squares. Neither the experiment file nor the training data is read.

Convention: results are pixels of the images given, (0, 0) being the centre of the top-left pixel;
inside, points are (x, y) in [-1, 1] of the square images, see ``geometry/points.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab import checkpoint as checkpoints
from landmark_lab.checkpoint import Card
from landmark_lab.data.images import SMALLEST
from landmark_lab.data.preprocess import Placement, Preprocess
from landmark_lab.errors import CheckpointError, ConfigError, DataError
from landmark_lab.inference.named_points import load_points
from landmark_lab.plugin import build_settings
from landmark_lab.roles import Landmarks
from landmark_lab.runs import recorded

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)


class Predictor:
    """Finds the landmarks of a trained method in images of any size.

    ::

        predictor = Predictor("runs/faces/001")
        points, score = predictor([image])

    Args:
        checkpoint: a checkpoint file or a finished run folder, see :func:`find_checkpoint`.
        points: a file of named points that was fitted to this checkpoint: these are returned in
            place of the landmarks.
        device: where the method runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None takes a GPU if
            there is one.
        batch_size: how many images go through the network at a time.

    Attributes:
        checkpoint: the file.
        card: what it says about itself.
        preprocess: how images become squares: as in the training. Data that draws its own images
            has no such thing, and new ones are letterboxed to the size of the drawn ones.
        method: the method, in evaluation mode.
        points: the named points, or None.
        names: of the K landmarks or named points.
        skeleton: pairs of them to join in drawings.

    Raises:
        DataError: the named points are unusable, or of another checkpoint.
        CheckpointError: the file is missing, damaged or unsafe, or its method finds no landmarks.
        ConfigError: the method's plugin is not installed, or there is no such device.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        points: str | Path | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"a batch of {batch_size} images", where="batch size")
        self.checkpoint = find_checkpoint(checkpoint)
        self.card, _ = checkpoints.read(self.checkpoint)
        self.preprocess = _preprocess(self.card, self.checkpoint)
        self.method = checkpoints.load(self.checkpoint).to(_device(device))
        self.batch_size = batch_size
        self.points = None if points is None else load_points(points, self.checkpoint)
        if self.points is None:
            side = self.preprocess.size
            count = self.on_squares(torch.zeros(1, 3, side, side))[1].shape[1]
            digits = len(str(count - 1))
            self.names = tuple(f"landmark_{k:0{digits}d}" for k in range(count))
            if "points" in self.method.needs:  # its landmarks are the annotated points
                self.names = tuple(self.card.point_names)
            self.skeleton: tuple[tuple[int, int], ...] = ()
        else:
            self.names = tuple(self.points.card.names)
            self.skeleton = tuple((i, j) for i, j in self.points.card.skeleton)

    def __call__(
        self, images: Sequence[Image], boxes: Sequence[Floats | None] | None = None
    ) -> tuple[Floats, Floats]:
        """Find the landmarks, or the named points.

        Args:
            images: N images (H, W, 3) uint8 RGB, of any sizes.
            boxes: the object of each image, [x0, y0, x1, y1] in pixels, or None; used only by a
                method that was trained on such boxes (``preprocess.box_margin``).

        Returns:
            Points (N, K, 2) in pixels of each image, NaN where not found; and scores (N, K), 0
            where not found: the method's own, or those of the named points.

        Raises:
            DataError: an image is not (H, W, 3) uint8, is tiny, or a box lies outside it.
        """
        points = np.full((len(images), len(self.names), 2), np.nan)
        score = np.zeros((len(images), len(self.names)))
        for first in range(0, len(images), self.batch_size):
            rows = slice(first, first + self.batch_size)
            squares, places = self.squares(images[rows], None if boxes is None else boxes[rows])
            found, certain = (part.cpu().double().numpy() for part in self.on_squares(squares))
            if self.points is not None:
                found, certain = self.points(found, certain)
            score[rows] = certain
            points[rows] = [p.to_original(own) for p, own in zip(places, found, strict=True)]
        return points, score

    def squares(
        self, images: Sequence[Image], boxes: Sequence[Floats | None] | None = None
    ) -> tuple[Tensor, list[Placement]]:
        """The images as the method sees them; see :meth:`__call__`.

        Returns:
            Squares (N, 3, size, size) in [0, 1], and where each image lies on its square.
        """
        made: list[Image] = []
        places: list[Placement] = []
        for number, image in enumerate(images):
            _check(image, number)
            square, place = self.preprocess(image, None if boxes is None else boxes[number])
            made.append(square)
            places.append(place)
        pixels = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)
        return pixels.float().div_(255), places

    @torch.no_grad()
    def on_squares(self, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks of squares (N, 3, size, size) in [0, 1].

        Returns:
            Points (N, K, 2) in [-1, 1], NaN where not found; scores (N, K), 0 where not found.

        Raises:
            CheckpointError: the method finds no landmarks.
        """
        if not isinstance(self.method, Landmarks):
            raise CheckpointError(
                f"the method '{self.method.plugin_name}' finds no landmarks",
                where=str(self.checkpoint),
                allowed="a checkpoint of a method with landmarks",
            )
        points, score = self.method.landmarks(squares.to(self.method.device))
        points, score = points.float(), score.float()
        lost = (score == 0) | points.isnan().any(-1)
        return points.masked_fill(lost[..., None], torch.nan), score.masked_fill(lost, 0)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that a path means.

    Args:
        path: the file itself; or a run folder, of which the last stage's best checkpoint is taken,
            or its final one if the stage had no criterion.

    Raises:
        CheckpointError: there is no such file, or the run's last stage is not finished.
        RunError: the folder is not a run folder.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError("there is no such checkpoint or run folder", where=str(path))
    stage = list(recorded(path).stages)[-1]
    folder = path / "checkpoints" / stage
    if (folder / "done.ckpt").is_file():
        best = folder / "best.ckpt"
        return best if best.is_file() else folder / "done.ckpt"
    made = sorted(path.glob("checkpoints/*/*.ckpt"))
    raise CheckpointError(
        f"the run has not finished its last stage '{stage}'",
        where=str(path),
        hint=f"continue it, or name one of its checkpoints: {', '.join(map(str, made))}"
        if made
        else "it has no checkpoints yet",
    )


def _preprocess(card: Card, path: Path) -> Preprocess:
    if card.preprocess is not None:
        return build_settings(Preprocess, card.preprocess, f"{path}: preprocess")
    _log.warning(
        "the method was trained on images that the data '%s' draws itself; new ones are "
        "letterboxed to %d pixels",
        card.data.get("name"),
        card.size,
    )
    return Preprocess(size=card.size)


def _device(wanted: torch.device | str | None) -> torch.device:
    if wanted is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("it computes nothing that predictions could be made of")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"cannot be used ({str(error).splitlines()[0]})",
            where=f"device '{wanted}'",
            allowed="cpu, cuda, cuda:N, mps",
        ) from error
    return device


def _check(image: Image, number: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DataError(
            f"is an array {image.shape} of {image.dtype}",
            where=f"image {number}",
            allowed="(height, width, 3) of uint8, RGB",
        )
    if min(image.shape[:2]) < SMALLEST:
        raise DataError(
            f"is too small ({image.shape[1]} x {image.shape[0]} pixels)",
            where=f"image {number}",
            allowed=f"at least {SMALLEST} x {SMALLEST} pixels",
        )
