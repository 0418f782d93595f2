"""Something computed once, of the rows of all processes: clustering under DDP.

Every process has keypoints of its own share of the images. The first process gets them all, in the
order of the images and not of the processes, computes, and sends the result to every process. So
the result does not depend on the number of processes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Rows = dict[str, Tensor]

# How long the others wait for the first process; a training's own collectives, 30 minutes.
_PATIENCE = timedelta(days=7)


def once_for_all(
    function: Callable[[Rows], dict[str, Any]], image: Tensor, **columns: Tensor
) -> dict[str, Any]:
    """Call a function on the rows of all processes in the first one; its result in every process.

    An image whose rows several processes have (a sampler that fills its last batch repeats images)
    counts once. Without several processes this is a plain call, on the same sorted rows.

    To be called by all processes of the default group. If the function raises, all processes raise.
    It may take longer than that group waits for its members.

    Args:
        function: takes the rows, ``"image"`` among the columns, sorted by image and within an image
            as they were given; on the device of the first process's rows. Gives a dictionary of
            tensors and plain values, of any sizes.
        image: (n,) int64, image of each row; n differs between processes and may be 0.
        columns: (n, ...) more about each row; the same names in all processes.

    Returns:
        The function's result, tensors on the device of this process's rows.

    Raises:
        ValueError: columns of different lengths.
        Exception: what the function raised in the first process, in every process.
    """
    rows = {"image": image, **columns}
    lengths = {name: len(column) for name, column in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return function(_in_order([rows]))

    # A group on the CPU: descriptors of all images need not fit onto the first GPU once more.
    group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        return _in_first(function, rows, group)
    finally:
        dist.destroy_process_group(group)


def _in_first(function: Callable[[Rows], dict[str, Any]], rows: Rows, group: Any) -> dict[str, Any]:
    device, first = rows["image"].device, dist.get_rank() == 0
    parts: list[Any] | None = [None] * dist.get_world_size() if first else None
    sent = {name: column.detach().cpu() for name, column in rows.items()}
    dist.gather_object(sent, parts, group=group)
    outcome: list[Any] = [None]
    if parts is not None:
        try:
            whole = {name: column.to(device) for name, column in _in_order(parts).items()}
            outcome = [_moved(function(whole), torch.device("cpu"))]
        except Exception as error:
            # The others wait for a result: they must hear of this instead.
            dist.broadcast_object_list([_portable(error)], group=group)
            raise
    dist.broadcast_object_list(outcome, group=group)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return _moved(outcome[0], device)


def _in_order(parts: list[Rows]) -> Rows:
    """The rows of all processes by image; of each image those of the first process that has it."""
    if len(parts) == 1 and not (parts[0]["image"].diff() < 0).any():
        return parts[0]  # without copies: descriptors are large
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    sizes = torch.tensor([len(part["image"]) for part in parts])
    process = torch.arange(len(parts)).repeat_interleave(sizes).to(rows["image"].device)
    order = rows["image"].argsort(stable=True)
    _, which, counts = torch.unique_consecutive(
        rows["image"][order], return_inverse=True, return_counts=True
    )
    owner = process[order][counts.cumsum(0) - counts]
    order = order[process[order] == owner[which]]
    return {name: column[order] for name, column in rows.items()}


def _moved(result: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in result.items()
    }


def _portable(error: Exception) -> Exception:
    """The error, if it survives being sent, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
