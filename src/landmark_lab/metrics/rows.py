"""The state that the torchmetrics shells share: one row an image, each image once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The rows of all processes, in order; a process may have none.

    Torchmetrics' own gathering gives a process without rows a tensor of another type and rank,
    which the collective then waits for in vain.

    Args:
        rows: (n, ...), n may differ between processes.
        group: process group; all processes by default.

    Returns:
        The tensors of the processes that have rows; this process's own if none has.
    """
    parts: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(parts, rows.cpu(), group=group)
    return [part.to(rows.device) for part in parts if len(part)] or [rows]


def first_of_each(index: Tensor) -> Tensor:
    """Positions of the first row of each image, in the order of the images.

    Args:
        index: (n,) which image each row is about.

    Returns:
        (distinct images,) int64.
    """
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered[1:] != ordered[:-1]
    return order[new]


class RowMetric(Metric):
    """A metric that keeps one row an image until the end.

    Sums would be smaller, but an image that a distributed sampler repeats to fill its last batch
    would count twice, and a spread over images is not a sum. A row is a few numbers a landmark.

    Args:
        columns: names of the values kept for every image.
        settings: torchmetrics' own.
    """

    full_state_update = False

    def __init__(self, columns: tuple[str, ...], **settings: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_rows, **settings})
        self.columns = columns
        for name in ("index", *columns):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, index: Tensor, **values: Tensor) -> None:
        """Add the rows of a batch.

        Args:
            index: (B,) which image of the split each row is about.
            values: (B, ...) for every column.
        """
        self.index.append(index.detach())  # type: ignore[union-attr, operator]
        for name in self.columns:
            getattr(self, name).append(values[name].detach())

    def rows(self) -> dict[str, Tensor]:
        """Every column, each image once, in the order of the images.

        Raises:
            ValueError: no image was seen by any process.
        """
        index = _whole(self.index)
        if len(index) == 0:
            raise ValueError(f"{type(self).__name__} has seen no images")
        once = first_of_each(index)
        return {name: _whole(getattr(self, name))[once] for name in self.columns}


def _whole(state: Any) -> Tensor:
    """A state as one tensor: a list before the processes are synchronised, a tensor after."""
    if isinstance(state, Tensor):
        return state
    return torch.cat(state) if state else torch.empty(0)


__all__ = ["RowMetric", "first_of_each", "gather_rows"]
