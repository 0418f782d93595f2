"""The roles of the laboratory: what a method, a backbone, a data set, ... must offer.

How each family of methods uses these contracts:

- *factorized landmarks*: ``Pair.warp`` relates two warped views; offers ``Landmarks``.
- *unordered keypoints with re-clustering rounds*: offers ``Keypoints``, then ``Landmarks``; its
  pseudo-labels are a table looked up by ``Sample.index``; rounds are Lightning hooks.
- *dense embeddings*: ``Pair.warp`` may be a flow, ``Warp.valid`` masks it; offers ``Embedding``.
- *image decoders on unpaired images*: ``Pair.warp`` is None (pairings ``same`` and ``random``);
  a ``PerceptualNetwork`` is a part of the method; offers ``Landmarks``.
- *matching and flow without landmarks*: offers ``Correspondence``; a dense flow is the
  correspondence of all pixel centres.

Convention: points are (x, y) in [-1, 1], see ``geometry/points.py``.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol as Structural, Self, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from landmark_lab.data.batch import LoadedBatch, Pair, Sample
from landmark_lab.data.exports import Exports
from landmark_lab.data.keypoints import Detections
from landmark_lab.data.preprocess import Preprocess
from landmark_lab.data.results import Predictions, Score
from landmark_lab.data.sampling import (
    Images,
    LoaderSettings,
    fixed_loader,
    training_loader,
    training_rows,
)
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.geometry.symmetry import check_flip
from landmark_lab.geometry.warp import Warp
from landmark_lab.plugin import Plugin
from landmark_lab.seeding import BatchDraw

Split = Literal["train", "val", "test"]

# --- what a trained method can do ----------------------------------------------------------------


@runtime_checkable
class Landmarks(Structural):
    """Finds the same K landmarks in every image."""

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, K, 2) and scores (B, K); score 0 means not found, the point is then NaN."""
        ...


@runtime_checkable
class Keypoints(Structural):
    """Finds an unordered set of points."""

    def keypoints(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points (B, N, 2), scores (B, N) and labels (B, N), -1 for none.

        An image with fewer keypoints than N has NaN points of score 0 and label -1, anywhere.
        """
        ...


@runtime_checkable
class Embedding(Structural):
    """Gives every pixel a vector."""

    layers: Sequence[str]

    def embedding(self, images: Tensor, layer: str | None = None) -> Tensor:
        """Vectors (B, C, h, w) of a layer, the method's own choice by default."""
        ...

    def similarity(self, source: Tensor, target: Tensor) -> Tensor:
        """Similarity (B, N, M) of vectors (B, N, C) and (B, M, C)."""
        ...


@runtime_checkable
class Reflection(Structural):
    """Knows how its embedding changes when an image is mirrored.

    Attributes:
        mirror: whether it does, as it is set.
    """

    mirror: bool

    def reflect(self, vectors: Tensor) -> Tensor:
        """From vectors (..., C) of points to those of their left-right partners."""
        ...


@runtime_checkable
class Symmetry(Structural):
    """Knows which symmetries an object has.

    Attributes:
        turns: the number of symmetries that images leave open, the identity included.
    """

    @property
    def turns(self) -> int: ...

    def symmetry(self, images: Tensor) -> Tensor:
        """How far cells (B, h, w) are from what the symmetries leave in place, in [0, 1]."""
        ...


@runtime_checkable
class Correspondence(Structural):
    """Carries points of one image over to another."""

    def correspond(self, source: Tensor, target: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """For points (B, N, 2) of the source images: points in the target, and scores (B, N)."""
        ...


# --- parts ---------------------------------------------------------------------------------------


class WarpGenerator(Plugin, role="warps"):
    """Draws random warps for a batch."""

    @abstractmethod
    def draw(self, draw: BatchDraw, size: tuple[int, int]) -> tuple[Warp, Warp]:
        """Draw two batches of warps on ``draw.device``.

        Args:
            draw: the random numbers, for ``draw.count`` images.
            size: (height, width) of the images.

        Returns:
            The view (image -> source) and the warp proper (source -> target), one-to-one maps.
        """


class Backbone(Plugin, nn.Module, role="backbone"):
    """A network that turns images into feature maps; heads belong to methods.

    Attributes:
        channels: channels of each map, fine to coarse.
        strides: input pixels per map pixel.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1], normalised inside, to maps, fine to coarse."""


class PerceptualNetwork(Plugin, nn.Module, role="perceptual"):
    """A fixed network in whose features two images are compared."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) in [0, 1] to the compared features."""


class KeypointDetector(Plugin, role="keypoints"):
    """A generic detector of interest points, without training on the data.

    The result is a function of the settings, the arguments and ``version``: it is kept on disk.

    Attributes:
        version: changed whenever the same image would give other keypoints.
        needs: fields of a Sample, besides image and index, that the data must provide.
        draws: whether it uses random numbers.
        cure: what to change where it finds nothing; part of the error.
    """

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset()
    draws: ClassVar[bool] = False
    cure: ClassVar[str] = ""

    @property
    def content(self) -> str:
        """What the settings do not say: a file's checksum, a library's release; empty by default.

        Raises:
            DataError: there is no such file.
        """
        return ""

    def prepare(self) -> None:
        """Load what the detection needs; called once, before the first image.

        Raises:
            LandmarkLabError: it is not there.
        """

    @abstractmethod
    def detect(
        self,
        image: NDArray[np.uint8],
        generator: np.random.Generator,
        annotated: NDArray[np.float32] | None = None,
        box: NDArray[np.float32] | None = None,
    ) -> Detections:
        """Find the keypoints of one image; several threads may do so at once.

        Args:
            image: (H, W, 3), RGB.
            generator: of all random numbers.
            annotated: (P, 2) annotated points, NaN where unknown; None if the data has none.
            box: (4,) x0, y0, x1, y1 of the object, in the units of points; None if unknown.
        """


class OpticalFlow(Plugin, role="flow"):
    """Estimates how the pixels of one frame of a video move until another.

    The result is a function of the settings, the two frames and ``version``: it is kept on disk.
    What is hidden, or was estimated wrongly, is found out by going forward and back: see
    ``data/flow.py``.

    Attributes:
        version: changed whenever the same frames would give another flow.
        resolution: side in pixels, at most, of the squares to which frames are brought first;
            pixels in the settings are pixels of these.
        tolerance: how far a pixel that goes there and back may end from where it began, in pixels.
    """

    version: ClassVar[int] = 1
    resolution: int = 256
    tolerance: float = 0.7

    @abstractmethod
    def estimate(self, source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        """How far each pixel moves, (H, W, 2), x and y in pixels; several threads may ask at once.

        Args:
            source: (H, W, 3), RGB.
            target: (H, W, 3), an earlier or a later frame.
        """


class Optimiser(Plugin, role="optimiser"):
    """Makes the optimiser of a method's trainable parameters."""

    @abstractmethod
    def configure(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""


class Schedule(Plugin, role="schedule"):
    """Changes the learning rate in the course of a training."""

    @abstractmethod
    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        """Lightning's scheduler configuration for a training of this length, or None."""


class Pairing(Plugin, role="pairing"):
    """Turns loaded images into pairs.

    Attributes:
        needs: fields of a Sample that the data must provide.
        drops: fields of a Sample that the data may provide, but the pairs do not have.
        provides_warp: whether ``Pair.warp`` is known.
        mirrors: whether some of the sources are mirrored left-right, and the warp with them.
    """

    needs: frozenset[str] = frozenset()
    drops: frozenset[str] = frozenset()
    provides_warp: ClassVar[bool] = False
    mirrors: bool = False

    def members(self, images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
        """Which images to load for the item ``index``: by default the image itself."""
        return (index,)

    def rows(self, images: Images) -> NDArray[np.int64]:
        """The images that are items, rising: by default all.

        Raises:
            DataError: no pair can be made of any.
        """
        return np.arange(len(images))

    def sources(self, images: Images) -> NDArray[np.int64]:
        """Of the items, rising, those that are the source of their pair: by default all.

        Raises:
            DataError: no pair can be made of any.
        """
        return self.rows(images)

    @abstractmethod
    def pair(self, members: tuple[Sample, ...], draw: BatchDraw) -> Pair:
        """Make the pairs of a batch on the device; images are float in [0, 1]."""


class Protocol(Plugin, role="protocol"):
    """A named, versioned way to score exported predictions; see ``evaluation/``.

    A protocol reads nothing but the predictions: neither images nor the method. Scoring the same
    file again gives the same score.

    Attributes:
        version: changed whenever the same predictions would get another score.
    """

    version: ClassVar[int]

    @property
    def exports(self) -> Exports:
        """What the predictions have to hold for it: by default the landmarks."""
        return Exports(landmarks=True)

    def check_data(self, data: "ImageData") -> None:
        """Refuse data that it cannot score, before any work starts.

        Raises:
            ConfigError: what to change.
        """

    @abstractmethod
    def score(self, predictions: Predictions, untrained: Predictions | None = None) -> Score:
        """Score predictions.

        Args:
            predictions: what the method found.
            untrained: what the same method finds in the same images before any training, for
                comparison.

        Raises:
            DataError: the predictions lack something that the protocol needs.
        """


# --- data ----------------------------------------------------------------------------------------


class ImageData(Plugin, LightningDataModule, role="data"):
    """A data set. A subclass implements ``images(split)`` and states what it provides.

    Attributes:
        point_names: names of the annotated points, empty if there are none.
        flip: the permutation that mirroring an image applies to its points (an involution).
        normaliser: the pair of points whose distance normalises an error; None: the box.
        preprocess: how files become square images; None if the data draws them itself.
    """

    point_names: tuple[str, ...] = ()
    flip: tuple[int, ...] | None = None
    normaliser: tuple[int, int] | None = None
    preprocess: Preprocess | None = None
    _pairing: Pairing | None = None
    _loader = LoaderSettings()
    _seed = 0
    _only_annotated = False

    @property
    @abstractmethod
    def provides(self) -> frozenset[str]:
        """The fields of a Sample, besides image and index, that this data has."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Side of the square images in pixels."""

    @abstractmethod
    def images(self, split: Split) -> Images:
        """The images of a split; an empty one if there is none.

        Raises:
            DataError: something on the disk is missing or unusable.
        """

    def prepare_training(
        self,
        pairing: Pairing,
        loader: LoaderSettings,
        seed: int,
        method: "Method | None" = None,
    ) -> None:
        """Say how the images are loaded and paired, and who learns from them.

        Raises:
            ConfigError: the pairing or the method needs something that this data does not have, or
                the pairing does not pass on what the method needs.
        """
        for part in (pairing, method):
            missing = frozenset() if part is None else part.needs - self.provides
            if part is not None and missing:
                raise ConfigError(
                    f"the {part.role} '{part.plugin_name}' needs {', '.join(sorted(missing))}, "
                    f"which the data '{self.plugin_name}' does not have",
                    where=part.role,
                    allowed=self.provides or f"{part.role}s that need nothing",
                )
        needs = frozenset() if method is None else method.needs
        if method is not None and needs & pairing.drops:
            raise ConfigError(
                f"the method '{method.plugin_name}' needs {', '.join(sorted(needs))}, which the "
                f"pairing '{pairing.plugin_name}' leaves out as it is set",
                where="pairing",
                hint="for example 'pairing: {name: synthetic, annotation: true}'",
            )
        self._pairing, self._loader, self._seed = pairing, loader, seed
        self._only_annotated = "points" in needs

    def training_rows(self) -> NDArray[np.int64]:
        """Positions of the images that are trained on: all, or as many as the loader is told.

        Only images of which the pairing can make pairs; of a method that needs points, only those
        that have some.

        Raises:
            DataError: there are too few.
        """
        images = self._some_images("train")
        paired = None
        if self._pairing is not None:
            # The sources of all items are items. Those of some items need not be among these; but
            # what is looked up by a source (pseudo-labels) is known of the images trained on alone.
            some = self._loader.images is not None
            paired = self._pairing.sources(images) if some else self._pairing.rows(images)
        return training_rows(images, self._loader.images, self._seed, self._only_annotated, paired)

    def validation_rows(self) -> NDArray[np.int64]:
        """Positions of the validation images of which the pairing makes pairs; none without them.

        Raises:
            DataError: there are images, but no pair can be made of any.
        """
        images = self.images("val")
        if len(images) == 0:
            return np.arange(0)
        try:
            return self._paired.rows(images)
        except DataError as error:
            raise DataError(f"the split 'val': {error}") from error

    def train_dataloader(self) -> DataLoader[Any]:
        """Items of the training split; resumes where the trainer's progress says."""
        rank, world = self._process()
        return training_loader(
            self._some_images("train"),
            self._paired.members,
            self._loader,
            self._seed,
            rank,
            world,
            self._progress,
            self.training_rows(),
        )

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Items of the validation split, always the same; none if there is no such split."""
        images = self.images("val")
        if len(images) == 0:
            return []
        rank, world = self._process()
        return fixed_loader(
            images,
            self._paired.members,
            self._loader,
            self._seed,
            rank,
            world,
            self.validation_rows(),
        )

    def samples(self, split: Split, rows: NDArray[np.int64] | None = None) -> DataLoader[Any]:
        """Every image of a split once, in order, alone; or some images, by their rising indices."""
        rank, world = self._process()
        return fixed_loader(
            self._some_images(split), _itself, self._loader, self._seed, rank, world, rows
        )

    @property
    def draw_seed(self) -> int:
        """The experiment's seed, from which whatever happens in a training is drawn."""
        return self._seed

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a loaded batch into a Pair (training, validation) or a Sample (prediction)."""
        if not isinstance(batch, LoadedBatch):
            return batch
        members = tuple(member.with_float_image() for member in batch.members)
        trainer = self.trainer
        if self._pairing is None or trainer is None or trainer.predicting or trainer.testing:
            return members[0]
        purpose = "pair" if trainer.training else "validation pair"
        rows = (batch.first, 1, len(members[0]))
        draw = BatchDraw(
            self._seed,
            purpose,
            batch.epoch,
            batch.batch,
            batch.total,
            rows,
            members[0].image.device,
        )
        return self._pairing.pair(members, draw)

    def check_annotation(self) -> None:
        """Check the flip permutation and the normaliser against the points.

        Raises:
            DataError: the permutation is not an involution or a point does not exist.
        """
        if self.flip is not None:
            check_flip(self.flip, len(self.point_names), where=f"data.{self.plugin_name}")
        for point in self.normaliser or ():
            if not 0 <= point < len(self.point_names):
                raise DataError(
                    f"the normaliser names point {point}; there are {len(self.point_names)} points",
                    where="normaliser",
                )

    @property
    def _paired(self) -> Pairing:
        if self._pairing is None:
            raise ConfigError("training needs a pairing", where="pairing")
        return self._pairing

    def _some_images(self, split: Split) -> Images:
        images = self.images(split)
        if len(images) == 0:
            raise DataError(f"the data '{self.plugin_name}' has no images in the split '{split}'")
        return images

    def _process(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _progress(self, batches: int) -> tuple[int, int]:
        """(epoch, batches done in it), as the trainer counts them, also after a resume."""
        if self.trainer is None:
            return 0, 0
        epoch = self.trainer.current_epoch
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        full = done >= limited(batches, self.trainer.limit_train_batches)
        return (epoch + 1, 0) if full else (epoch, done)


def limited(batches: int, limit: int | float | None) -> int:
    """Batches of an epoch under the trainer's ``limit_train_batches``, a number or a share."""
    if limit is None:
        return batches
    return int(batches * limit) if isinstance(limit, float) else min(batches, limit)


def _itself(images: Images, index: int, generator: np.random.Generator) -> Sequence[int]:
    return (index,)


# --- methods -------------------------------------------------------------------------------------


class Method(Plugin, LightningModule, role="method"):
    """A way to learn without labels: a loss, a network, and what it can find afterwards.

    A subclass builds its network from its parts, implements ``losses``, and offers one of the
    capabilities above. It has a parameter ``weights`` whose keys are the loss terms.

    Args:
        weights: weight of each loss term.
        optimiser: see ``optimisation.py``.
        schedule: see ``optimisation.py``.

    Attributes:
        needs: fields of a Sample, besides image and index, that it learns from. A method that needs
            the points is trained to predict them; it is judged by its end, not by the label-free
            criterion.
        needs_warp: whether the warp of a pair must be known.
        keeps_best: whether the weights that are best by the label-free criterion count, rather than
            the last ones.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    needs_warp: ClassVar[bool] = False
    keeps_best: ClassVar[bool] = True
    _frozen: tuple[nn.Module, ...] = ()
    cure: ClassVar[str] = ""
    """What usually helps when the landmarks collapse; part of the warning."""

    def __init__(
        self, weights: Mapping[str, float], optimiser: Optimiser, schedule: Schedule
    ) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.optimiser = optimiser
        self.schedule = schedule

    @property
    def settled(self) -> bool:
        """Whether what it finds can be judged already; not before a warm-up has ended."""
        return True

    @abstractmethod
    def losses(self, batch: Pair) -> dict[str, Tensor]:
        """The raw loss terms, scalars, with exactly the keys of ``weights``."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        """The weighted sum of the loss terms, every one logged."""
        return self._weighted(batch, "train")

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        """Log the same terms on the validation pairs."""
        self._weighted(batch, "val")

    def _weighted(self, batch: Pair, stage: str) -> Tensor:
        terms = self.losses(batch)
        if terms.keys() != self.weights.keys():
            raise ConfigError(
                f"the loss terms {sorted(terms)} and the weights {sorted(self.weights)} differ",
                where="method.weights",
            )
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        values = torch.stack([*terms.values(), total]).detach()
        if stage == "train" and torch.distributed.is_initialized():
            # One small reduction; Lightning's sync_dist would put a barrier behind every value.
            torch.distributed.all_reduce(values)
            values = values / torch.distributed.get_world_size()
        names = [f"{stage}/{name}" for name in (*terms, "loss")]
        logged = dict(zip(names, values, strict=True))
        size = len(batch.source)
        if stage == "val":
            self.log_dict(logged, batch_size=size, sync_dist=True)
        else:
            self.log_dict(logged, batch_size=size)
            self.log("loss", values[-1], prog_bar=True, logger=False, batch_size=size)
        return total

    def on_train_epoch_end(self) -> None:
        """Step the schedules that follow a logged value.

        Here and not in Lightning, which does it after the epoch's checkpoint was saved: a resumed
        run would miss the step.
        """
        if (self.current_epoch + 1) % (self.trainer.check_val_every_n_epoch or 1):
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                if config.monitor not in self.trainer.callback_metrics:
                    raise ConfigError(
                        f"the schedule follows '{config.monitor}', which was not logged",
                        where="method.schedule.monitor",
                        got=config.monitor,
                        allowed=list(self.trainer.callback_metrics),
                    )
                scheduler = cast("ReduceLROnPlateau", config.scheduler)
                scheduler.step(self.trainer.callback_metrics[config.monitor].item())

    def check_size(self, size: int) -> None:
        """Refuse images of a size that the method cannot work with, before anything is loaded.

        Args:
            size: side of the square images in pixels.

        Raises:
            ConfigError: what to change.
        """

    def check_pairs(self, pairing: Pairing, loader: LoaderSettings) -> None:
        """Refuse pairs or batches that the method cannot learn from, before anything is loaded.

        Raises:
            ConfigError: what to change.
        """

    def check_points(self, names: Sequence[str]) -> None:
        """Refuse annotated points that the method was not made for, before anything is loaded.

        Args:
            names: of the data's annotated points.

        Raises:
            ConfigError: what to change.
        """

    def freeze_parts(self, parts: Sequence[str]) -> None:
        """Keep parts as they are: no gradients, and evaluation mode throughout the training.

        What was frozen before stays so.

        Raises:
            ConfigError: there is no such part.
        """
        children = dict(self.named_modules())
        for part in parts:
            if part not in children:
                raise ConfigError(
                    f"the method '{self.plugin_name}' has no part '{part}'",
                    where="freeze",
                    got=part,
                    allowed=dict(self.named_children()),
                )
        self._frozen += tuple(children[part].requires_grad_(False) for part in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for the frozen parts."""
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def configure_optimizers(self) -> Any:
        """The optimiser of the parameters that are not frozen, and its schedule."""
        optimiser = self.optimiser.configure(p for p in self.parameters() if p.requires_grad)
        steps, epochs = self._planned()
        schedule = self.schedule.configure(optimiser, steps, epochs)
        if schedule is None:
            return optimiser
        return {"optimizer": optimiser, "lr_scheduler": dict(schedule)}

    def _planned(self) -> tuple[int, int]:
        """Optimiser steps and epochs of the training, 0 if it has no limit.

        Not the trainer's own estimate: it starts the loader, before a resumed run has told the
        loader where to start.
        """
        trainer = self.trainer
        batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
        batches = limited(batches, trainer.limit_train_batches)
        per_epoch = max(1, -(-batches // trainer.accumulate_grad_batches))
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else 0
        most = max(trainer.max_steps, 0)
        steps = per_epoch * epochs or most
        if most:
            steps = min(steps, most)
        return steps, epochs or -(-steps // per_epoch)


__all__ = [
    "Backbone",
    "Correspondence",
    "Embedding",
    "ImageData",
    "Images",
    "KeypointDetector",
    "Keypoints",
    "Landmarks",
    "LoadedBatch",
    "Method",
    "OpticalFlow",
    "Optimiser",
    "Pair",
    "Pairing",
    "PerceptualNetwork",
    "Predictions",
    "Protocol",
    "Reflection",
    "Sample",
    "Schedule",
    "Score",
    "Split",
    "Symmetry",
    "WarpGenerator",
]
