"""Every random draw is a function of (seed, purpose, epoch or step, index).

Nothing here touches the global generators of Python, NumPy or torch, so the number of loader
workers, the number of processes and an interruption cannot change what is drawn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed, stable over processes and Python versions.

    Args:
        seed: the experiment's seed.
        purpose: what is drawn, e.g. ``"colour"``; different purposes are independent.
        index: epoch, step, image, ... as the draw needs.
    """
    text = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rng(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator for one draw; see :func:`seed_of`."""
    return np.random.default_rng(seed_of(seed, purpose, *index))


@dataclass(frozen=True)
class BatchDraw:
    """Random numbers for the rows of one batch that may be spread over processes.

    The numbers are drawn on the CPU for the *global* batch; this process keeps its rows and copies
    them to its device. Two processes with half a batch each therefore see exactly what one process
    with the whole batch sees, on any device.

    Args:
        seed: the experiment's seed.
        purpose: what is drawn.
        epoch: epoch of the batch.
        batch: number of the global batch in its epoch.
        total: rows of the global batch.
        rows: the rows of this process, as (first, step, count).
        device: where the numbers are needed.
    """

    seed: int
    purpose: str
    epoch: int
    batch: int
    total: int
    rows: tuple[int, int, int]
    device: Any = "cpu"
    _stream: list[torch.Generator] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def single(cls, seed: int, count: int, device: Any = "cpu", purpose: str = "draw") -> BatchDraw:
        """Draws for ``count`` rows in one process, e.g. for an evaluation with fixed warps."""
        return cls(seed, purpose, 0, 0, count, (0, 1, count), device)

    @property
    def count(self) -> int:
        """Rows of this process."""
        return self.rows[2]

    def child(self, purpose: str) -> BatchDraw:
        """An independent stream for the same rows."""
        return replace(self, purpose=f"{self.purpose}.{purpose}", _stream=[])

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers, ``(count, *shape)``; each call advances the stream."""
        import torch

        return self._keep(torch.randn(self.total, *shape, generator=self._generator()))

    def uniform(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), ``(count, *shape)``; each call advances the stream."""
        import torch

        return self._keep(torch.rand(self.total, *shape, generator=self._generator()))

    def _generator(self) -> torch.Generator:
        import torch

        if not self._stream:
            generator = torch.Generator()
            generator.manual_seed(seed_of(self.seed, self.purpose, self.epoch, self.batch))
            self._stream.append(generator)
        return self._stream[0]

    def _keep(self, values: torch.Tensor) -> torch.Tensor:
        first, step, count = self.rows
        kept = values[first : first + step * count : step]
        return kept.to(self.device, non_blocking=True)
