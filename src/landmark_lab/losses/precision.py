"""Sums and coordinates in float32 or better, whatever precision the network runs in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """The values in float32, or in their own type if that is more precise."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def without_autocast(values: Tensor) -> AbstractContextManager[object]:
    """A context in which matrix products keep the data type of their factors."""
    kind = values.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
