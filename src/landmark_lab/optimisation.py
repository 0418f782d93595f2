"""Optimisers and learning-rate schedules, as torch offers them."""

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from landmark_lab.errors import ConfigError
from landmark_lab.roles import Optimiser, Schedule


class Adam(Optimiser, name="adam"):
    """Adam, with weight decay added to the gradient (as papers before AdamW mean it).

    Args:
        lr: learning rate.
        weight_decay: weight decay.
        betas: decay of the running mean and of the running square.
        amsgrad: keep the maximum of the running square.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        amsgrad: bool = False,
    ) -> None:
        self.lr, self.weight_decay, self.betas, self.amsgrad = lr, weight_decay, betas, amsgrad

    def configure(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            parameters,
            lr=self.lr,
            weight_decay=self.weight_decay,
            betas=self.betas,
            amsgrad=self.amsgrad,
        )


class AdamW(Optimiser, name="adamw"):
    """Adam with decoupled weight decay.

    Args:
        lr: learning rate.
        weight_decay: weight decay.
        betas: decay of the running mean and of the running square.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas

    def configure(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, lr=self.lr, weight_decay=self.weight_decay, betas=self.betas
        )


class Sgd(Optimiser, name="sgd"):
    """Stochastic gradient descent with momentum.

    Args:
        lr: learning rate.
        momentum: momentum.
        weight_decay: weight decay.
    """

    def __init__(self, lr: float = 1e-2, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay

    def configure(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )


class RmsProp(Optimiser, name="rmsprop"):
    """RMSprop, with weight decay added to the gradient.

    Args:
        lr: learning rate.
        weight_decay: weight decay.
        decay: of the running mean of the squared gradient.
        momentum: momentum.
    """

    def __init__(
        self,
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        decay: float = 0.99,
        momentum: float = 0.0,
    ) -> None:
        self.lr, self.weight_decay = lr, weight_decay
        self.decay, self.momentum = decay, momentum

    def configure(self, parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            parameters,
            lr=self.lr,
            alpha=self.decay,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
        )


class Constant(Schedule, name="constant"):
    """The learning rate stays as it is."""

    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        return None


class Cosine(Schedule, name="cosine"):
    """A linear warm-up, then half a cosine down to a share of the learning rate.

    Args:
        warmup: steps of the warm-up.
        floor: the final learning rate as a share of the first.
    """

    def __init__(self, warmup: int = 0, floor: float = 0.0) -> None:
        self.warmup, self.floor = warmup, floor

    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        if steps < 1:
            raise ConfigError(
                "the schedule 'cosine' needs to know how long the training is",
                where="trainer",
                allowed="max_steps or max_epochs; or the schedule 'constant'",
            )

        def factor(step: int) -> float:
            if step < self.warmup:
                return (step + 1) / self.warmup
            done = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))

        return {
            "scheduler": lr_scheduler.LambdaLR(optimiser, factor),
            "interval": "step",
        }


class Steps(Schedule, name="steps"):
    """The learning rate is multiplied at given epochs.

    Args:
        epochs: after which epochs.
        factor: by how much.
    """

    def __init__(self, epochs: tuple[int, ...], factor: float = 0.1) -> None:
        self.epochs, self.factor = epochs, factor

    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        return {
            "scheduler": lr_scheduler.MultiStepLR(optimiser, list(self.epochs), self.factor),
            "interval": "epoch",
        }


class Drops(Schedule, name="drops"):
    """The learning rate is multiplied after given numbers of optimiser steps.

    Args:
        steps: after which steps; those that a training does not reach are without effect.
        factor: by how much.
    """

    def __init__(self, steps: tuple[int, ...], factor: float = 0.1) -> None:
        self.steps, self.factor = steps, factor

    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        return {
            "scheduler": lr_scheduler.MultiStepLR(optimiser, list(self.steps), self.factor),
            "interval": "step",
        }


class Plateau(Schedule, name="plateau"):
    """The learning rate is multiplied when a logged value no longer falls.

    Args:
        monitor: the logged value.
        patience: epochs without improvement before the learning rate falls.
        factor: by how much.
    """

    def __init__(self, monitor: str = "val/loss", patience: int = 5, factor: float = 0.1) -> None:
        self.monitor, self.patience, self.factor = monitor, patience, factor

    def configure(
        self, optimiser: torch.optim.Optimizer, steps: int, epochs: int
    ) -> Mapping[str, Any] | None:
        return {
            "scheduler": lr_scheduler.ReduceLROnPlateau(
                optimiser, patience=self.patience, factor=self.factor
            ),
            "monitor": self.monitor,
            # The method steps it, see Method.on_train_epoch_end; Lightning never does.
            "frequency": sys.maxsize,
        }
