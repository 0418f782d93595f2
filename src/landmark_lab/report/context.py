"""What a report can be about: everything in a run folder, read when a section asks for it.

Nothing of it need be there: an unfinished run has no results, a copied one no data. What was looked
for and not found is kept in ``Context.missing``, in words, for the top of the page.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landmark_lab import checkpoint
from landmark_lab.config import Stage
from landmark_lab.data.results import Predictions, read_results
from landmark_lab.data.rounds import RoundRecord, read_round
from landmark_lab.errors import LandmarkLabError
from landmark_lab.evaluation import labels, load_predictions
from landmark_lab.files import read_json
from landmark_lab.plugin import build
from landmark_lab.report.frames import Frames, frames
from landmark_lab.report.pictures import SPLITS, Sharp, data_uri, sharp, sharpness, shrink
from landmark_lab.report.regressed import Regressed, regressed
from landmark_lab.roles import (
    Embedding,
    ImageData,
    Images,
    Landmarks,
    Method,
    Protocol,
    Split,
)
from landmark_lab.runs import COMMAND, ENVIRONMENT, recorded

_TYPICAL = 8  # images to choose from
_EMBEDDED = 12  # images whose vectors are shown
_TOGETHER = 16  # images of a pass through the network

_T = TypeVar("_T")
Floats = NDArray[np.float64]
Column = tuple[Floats, Floats]
"""Steps (N,) and values (N,) of a logged quantity."""


class Context:
    """A run folder.

    Args:
        run: the folder.

    Attributes:
        run: the folder.
        experiment: what it was made for.
        missing: what was looked for and not found, as sentences.

    Raises:
        RunError: it is no run folder.
        ConfigError: its configuration is damaged.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.experiment = recorded(run)
        self.missing: list[str] = []
        self._loaded: dict[tuple[Split, int], NDArray[np.uint8]] = {}

    # --- how far the run got ----------------------------------------------------------------------

    def done(self, stage: str) -> bool:
        """Whether a stage is finished."""
        return (self.run / "checkpoints" / stage / "done.ckpt").is_file()

    @cached_property
    def checkpoint(self) -> Path | None:
        """The best checkpoint of the latest stage that has any."""
        for stage in reversed(self.experiment.stages):
            for name in ("best", "done", "last"):
                path = self.run / "checkpoints" / stage / f"{name}.ckpt"
                if path.is_file():
                    return path
        self._miss("There is no checkpoint yet.")
        return None

    @cached_property
    def stage(self) -> Stage:
        """The stage of the checkpoint, or the first one."""
        stages = self.experiment.stages
        name = next(iter(stages)) if self.checkpoint is None else self.checkpoint.parent.name
        return stages[name]

    # --- what it wrote down -----------------------------------------------------------------------

    @cached_property
    def commands(self) -> list[str]:
        """The command lines that made the run and continued it."""
        file = self.run / COMMAND
        return file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []

    @cached_property
    def environment(self) -> Mapping[str, Any]:
        """Versions, devices and the state of the source code; empty if there is none."""
        read = self._try("the machine and the versions", lambda: read_json(self.run / ENVIRONMENT))
        return read if isinstance(read, Mapping) else {}

    @cached_property
    def scores(self) -> Mapping[str, Any]:
        """The results of the protocols by name; empty if there are none."""
        if not self.experiment.evaluate:
            return {}
        file = self.run / "results.json"
        if not file.is_file():
            self._miss("The run was not evaluated yet: there is no results.json.")
            return {}
        read = self._try("the results", lambda: read_results(file)["protocols"])
        return {} if read is None else read

    @property
    def first_scores(self) -> dict[str, Mapping[str, Any]]:
        """Of each protocol the first result that has a value, by the names of the results."""
        firsts: dict[str, str] = {}
        for name, score in self.scores.items():
            if score["value"] is not None:
                firsts.setdefault(name.partition("(")[0], name)
        return {name: self.scores[name] for name in firsts.values()}

    @cached_property
    def logs(self) -> dict[str, dict[str, Column]]:
        """What was logged, by stage and name, e.g. ``logs["train"]["val/loss"]``."""
        read = {
            stage: _log(self.run / "metrics" / f"{stage}.csv") for stage in self.experiment.stages
        }
        if not any(read.values()):
            self._miss("Nothing was logged yet.")
        return {stage: columns for stage, columns in read.items() if columns}

    @cached_property
    def rounds(self) -> dict[str, list[RoundRecord]]:
        """What was written of the rounds of self-training, by stage, in order."""
        read: dict[str, list[RoundRecord]] = {}
        for stage in self.experiment.stages:
            files = sorted((self.run / "rounds" / stage).glob("*.npz"))
            records = [self._try("a round", partial(read_round, file)) for file in files]
            found = [record for record in records if record is not None]
            if found:
                read[stage] = found
        return read

    # --- what the method found --------------------------------------------------------------------

    @cached_property
    def predictions(self) -> Predictions | None:
        """What the trained method found in the images."""
        return self._predictions("best", "Predictions were not exported yet.")

    @cached_property
    def untrained(self) -> Predictions | None:
        """What the same method finds before any training."""
        return self._predictions("untrained")

    @cached_property
    def protocols(self) -> dict[str, Protocol]:
        """The experiment's protocols, by the names of their results."""
        specs = self.experiment.evaluate
        built = self._try(
            "the protocols", lambda: [build(Protocol, spec, "evaluate") for spec in specs]
        )
        return {} if built is None else dict(zip(labels(built), built, strict=True))

    @cached_property
    def regressed(self) -> Regressed | None:
        """The annotated points as they are regressed, where there are any."""
        if self.predictions is None:
            return None
        return regressed(self.protocols, self.predictions, self.untrained)

    @cached_property
    def method(self) -> Method | None:
        """The trained method, in evaluation mode on the CPU."""
        path = self.checkpoint
        return None if path is None else self._try("the method", lambda: checkpoint.load(path))

    @cached_property
    def finder(self) -> Landmarks | None:
        """The method, if it finds landmarks and there are images to find them in."""
        method = self.method
        if method is None or self.data is None:
            return None
        return method if isinstance(method, Landmarks) else None

    @cached_property
    def landmarks(self) -> int:
        """The number of landmarks; 0 for a method without."""
        if self.predictions is not None:
            return int(next(iter(self.predictions.splits.values())).landmarks.shape[1])
        if self.finder is None:
            return 0
        for split in SPLITS:
            if len(self.images(split)):
                return int(self.find(self.image(split, 0)[None]).shape[1])
        return 0

    @torch.no_grad()
    def find(self, images: NDArray[np.uint8]) -> Floats:
        """The landmarks (B, K, 2) that the method finds in images (B, H, W, 3) of any square size.

        They are shrunk to the size that the method knows; NaN where not found.
        """
        assert self.finder is not None
        points, score = self.finder.landmarks(self.pixels(images))
        found: Floats = points.double().masked_fill((score == 0)[..., None], torch.nan).numpy()
        return found

    def pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """Images (B, H, W, 3) of any square size as the method takes them: (B, 3, h, w)."""
        small = np.stack([shrink(image, self.size) for image in images])
        return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255

    @cached_property
    def embedder(self) -> Embedding | None:
        """The method, if it gives pixels vectors and there are images to give them to."""
        method = self.method
        if method is None or self.data is None:
            return None
        return method if isinstance(method, Embedding) else None

    @torch.no_grad()
    def embed(self, images: NDArray[np.uint8]) -> Tensor:
        """The vectors (B, C, h, w), float32, of images (B, H, W, 3) of any square size."""
        assert self.embedder is not None
        pixels = self.pixels(images)
        parts = [pixels[i : i + _TOGETHER] for i in range(0, len(pixels), _TOGETHER)]
        return torch.cat([self.embedder.embedding(part).float() for part in parts])

    @cached_property
    def frames(self) -> Frames | None:
        """The vectors of a few images from all over a split, where there are any."""
        if self.embedder is None:
            return None
        split = next((name for name in SPLITS if len(self.images(name))), None)
        if split is None:
            return None
        index = self.spread(split, _EMBEDDED)
        rows = [self.images(split)[i] for i in index.tolist()]
        vectors = self.embed(np.stack([row["image"] for row in rows]))
        return frames(self.embedder, split, index, rows, vectors)

    def spread(self, split: Split, count: int) -> NDArray[np.int64]:
        """The positions of at most so many images at equal distances in a split."""
        last = len(self.images(split)) - 1
        return np.unique(np.linspace(0, last, count).round().astype(np.int64))

    # --- the pictures -----------------------------------------------------------------------------

    @cached_property
    def _sharp(self) -> Sharp | None:
        return self._try("pictures", lambda: sharp(self.stage.data))

    @property
    def data(self) -> ImageData | None:
        """The data of the stage, its images larger than the method's where that is possible."""
        return None if self._sharp is None else self._sharp.data

    @property
    def size(self) -> int:
        """Side in pixels of the images that the method sees; only where there is data."""
        assert self._sharp is not None
        return self._sharp.size

    def images(self, split: Split) -> Images:
        """The images of a split; only where there is data."""
        assert self.data is not None
        return self.data.images(split)

    def image(self, split: Split, index: int) -> NDArray[np.uint8]:
        """An image (H, W, 3), loaded once; only where there is data."""
        if (split, index) not in self._loaded:
            self._loaded[split, index] = self.images(split)[index]["image"]
        return self._loaded[split, index]

    def picture(self, split: Split, index: int) -> str | None:
        """An image as a data URI; None where the data is not there any more."""
        if self.data is None:
            return None
        return self._try("pictures", lambda: data_uri(self.image(split, index)))

    def typical(self, split: Split, index: NDArray[np.int64], points: NDArray[np.floating]) -> int:
        """The row of an image that stands for all.

        Args:
            split: of the images.
            index: (N,) their positions in the split.
            points: (N, A, 2) landmarks or annotated points, NaN where unknown.

        Returns:
            The row of the sharpest image among those whose points are closest to the medians over
            all images.
        """
        known = np.isfinite(points).all(-1)
        middle = np.nanmedian(np.where(known.any(0)[..., None], points, 0), axis=0)
        distance = np.where(known, np.linalg.norm(np.nan_to_num(points) - middle, axis=-1), 1.0)
        rows = distance.mean(1).argsort(kind="stable")[:_TYPICAL].tolist()
        if self.data is None:
            return int(rows[0])
        return int(max(rows, key=lambda row: sharpness(self.image(split, int(index[row])))))

    # --- what is not there ------------------------------------------------------------------------

    def _predictions(self, name: str, otherwise: str = "") -> Predictions | None:
        file = self.run / "predictions" / f"{name}.npz"
        if not file.is_file():
            if self.experiment.evaluate:
                self._miss(otherwise)
            return None
        return self._try("the predictions", lambda: load_predictions(file))

    def _try(self, what: str, read: Callable[[], _T]) -> _T | None:
        """What was read, or None and a line in ``missing``."""
        try:
            return read()
        except LandmarkLabError as error:
            self._miss(f"Without {what}: {error}.")
            return None

    def _miss(self, sentence: str) -> None:
        if sentence and sentence not in self.missing:
            self.missing.append(sentence)


def _log(file: Path) -> dict[str, Column]:
    """The columns of a table of the log, without rows that a crash cut off."""
    if not file.is_file():
        return {}
    rows: dict[str, list[tuple[float, float]]] = {}
    with file.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            for name, text in row.items():
                if name in ("epoch", "step", None) or not text:
                    continue
                try:
                    rows.setdefault(name, []).append((float(row["step"]), float(text)))
                except (TypeError, ValueError):
                    continue
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in rows.items()}
