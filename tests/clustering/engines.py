"""What tests of both engines share."""

from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

NEEDS_FAISS = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
EITHER = pytest.mark.parametrize("engine", [pytest.param("faiss", marks=NEEDS_FAISS), "torch"])


def blobs(count: int, centres: int, dimensions: int = 16, noise: float = 0.5) -> Tensor:
    """Points around random centres, so broad that the clusters touch."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(centres, dimensions, generator=generator)
    which = torch.randint(centres, (count,), generator=generator)
    return centre[which] + noise * torch.randn(count, dimensions, generator=generator)
