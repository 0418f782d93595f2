"""A GPU that is none, for tests of where things are computed on machines without one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class PretendedCuda(TorchFunctionMode):
    """Within it tensors can be sent to ``cuda``: they say that they are there, but stay.

    As on a GPU, tensors of two devices cannot be computed with, but for scalars and for indices on
    the CPU, and NumPy sees those on the CPU only.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute on the CPU, and keep account of where it would have been done."""
        options = dict(kwargs or {})
        if func == Tensor.device.__get__:  # type: ignore[attr-defined]
            return CUDA if _there(args[0]) else torch.device("cpu")
        if func == Tensor.is_cuda.__get__:  # type: ignore[attr-defined]
            return _there(args[0])
        if func is Tensor.to:
            return self._to(*args, **options)
        if func is Tensor.cpu:
            return _marked(args[0].clone(), False)
        given = list(_tensors((args, options)))
        if func is Tensor.numpy and _there(args[0]):
            raise TypeError("cannot convert a tensor on cuda:0 to NumPy")
        where = options.pop("device", None)
        asked = None if where is None else torch.device(where).type == "cuda"
        sized = given[:1] if func in _INDEXING else [tensor for tensor in given if tensor.ndim]
        if len({_there(tensor) for tensor in sized}) > 1:
            raise RuntimeError(f"{func.__name__} of tensors on cuda:0 and on the CPU")
        there = any(map(_there, given)) if asked is None else asked
        if func in _INDEXING:
            there = _there(args[0])
            if not there and any(_there(tensor) and tensor.ndim for tensor in given[1:]):
                raise RuntimeError("indices on cuda:0 of a tensor on the CPU")
        return _marked(func(*args, **options), there)

    def _to(self, tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        wanted = [*args, options.pop("device", None)]
        there = _there(tensor)
        for value in wanted:
            if isinstance(value, Tensor):
                there = _there(value)
            elif isinstance(value, str | torch.device):
                there = torch.device(value).type == "cuda"
        types = [value.dtype if isinstance(value, Tensor) else value for value in wanted]
        kept = [value for value in types if isinstance(value, torch.dtype)]
        moved = tensor.to(*kept, **options)
        return _marked(moved.clone() if moved is tensor else moved, there)


def _there(tensor: Tensor) -> bool:
    return getattr(tensor, "pretended", False)


def _marked(result: Any, there: bool) -> Any:
    for tensor in _tensors(result):
        tensor.pretended = there  # type: ignore[attr-defined]
    return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
