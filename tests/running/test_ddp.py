"""Two processes compute what one process computes on the same global batch.

Batch norm differs by design (each process has its own statistics), so the backbone uses group norm.
"""

import os
import socket
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, LoadedBatch, Method, Pair, Pairing
from landmark_lab.seeding import BatchDraw

DATA = {"name": "toy_faces", "size": 32, "train": 16, "val": 8, "test": 4}
METHOD = {"name": "factorized", "landmarks": 3, "backbone": {"name": "simple", "norm": "group"}}
PAIRING = {"name": "synthetic"}


class _Placed:
    """What an ImageData asks its trainer: which process of how many, and how far it is."""

    training, predicting, testing = True, False, False

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.world_size = rank, world
        self.current_epoch = 0
        self.limit_train_batches = 1.0

    class _Loop:
        class epoch_loop:
            class batch_progress:
                class current:
                    ready = 0

    fit_loop = _Loop


def _pairs(rank: int, world: int, batch_size: int) -> list[Pair]:
    data = build(ImageData, DATA)
    loader = LoaderSettings(batch_size=batch_size)
    data.prepare_training(build(Pairing, PAIRING), loader, seed=3)
    data.trainer = _Placed(rank, world)  # type: ignore[assignment]
    return [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]


def _method() -> Method:
    torch.manual_seed(0)
    return build(Method, METHOD)


class _Loss(torch.nn.Module):
    """The weighted loss as a forward pass, so that DistributedDataParallel can wrap it."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, pair: Pair) -> Tensor:
        terms = self.method.losses(pair)
        return torch.stack([self.method.weights[k] * v for k, v in terms.items()]).sum()


def _train(loss: torch.nn.Module, method: Method, pairs: list[Pair]) -> list[float]:
    optimiser = torch.optim.SGD(method.parameters(), lr=1e-4)
    losses = []
    for pair in pairs:
        optimiser.zero_grad()
        value = loss(pair)
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    return losses


def _worker(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    method = _method()
    pairs = _pairs(rank, 2, batch_size=4)
    losses = _train(DistributedDataParallel(_Loss(method)), method, pairs)
    values = torch.tensor(losses)
    dist.all_reduce(values)
    points, _ = method.eval().landmarks(pairs[0].source.image)  # type: ignore[operator]
    gathered = [torch.empty_like(points) for _ in range(2)]
    dist.all_gather(gathered, points.contiguous())
    if rank == 0:
        gradients = {n: p.grad for n, p in method.named_parameters()}
        torch.save(
            {
                "losses": values / 2,
                "gradients": gradients,
                "points": torch.cat(gathered),
                "state": method.state_dict(),
            },
            Path(folder) / "two.pt",
        )
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, (port, str(tmp_path)), nprocs=2)
    two: dict[str, Any] = torch.load(tmp_path / "two.pt", weights_only=True)

    method = _method()
    pairs = _pairs(0, 1, batch_size=8)
    losses = _train(_Loss(method), method, pairs)

    torch.testing.assert_close(two["losses"], torch.tensor(losses), rtol=1e-4, atol=1e-5)
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(two["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-4)
    points, score = method.eval().landmarks(pairs[0].source.image)  # type: ignore[operator]
    torch.testing.assert_close(two["points"], points, rtol=1e-3, atol=1e-4)
    assert score.shape == points.shape[:2]


def test_the_processes_share_every_random_draw() -> None:
    whole = BatchDraw(0, "x", 1, 2, total=6, rows=(0, 1, 6))
    halves = [BatchDraw(0, "x", 1, 2, total=6, rows=(first, 1, 3)) for first in (0, 3)]
    for shape in ((), (2, 3)):
        expected = whole.normal(*shape)
        torch.testing.assert_close(torch.cat([h.normal(*shape) for h in halves]), expected)
    assert not torch.equal(whole.normal(3), whole.child("y").normal(3))


def test_loaded_batches_know_their_place() -> None:
    batches: list[LoadedBatch] = []
    for rank in (0, 1):
        data = build(ImageData, DATA)
        data.prepare_training(build(Pairing, PAIRING), LoaderSettings(batch_size=4), seed=3)
        data.trainer = _Placed(rank, 2)  # type: ignore[assignment]
        batches += list(data.train_dataloader())
    assert [(b.batch, b.first, b.total) for b in batches] == [
        (0, 0, 8),
        (1, 0, 8),
        (0, 4, 8),
        (1, 4, 8),
    ]
    seen = torch.cat([b.members[0].index for b in batches])
    assert sorted(seen.tolist()) == list(range(16))
