"""Two processes cluster what one process clusters, bit for bit."""

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from landmark_lab.clustering.double import double_clustering
from landmark_lab.clustering.gathered import Rows, once_for_all
from landmark_lab.errors import DataError

IMAGES = 11


def keypoints(images: list[int]) -> Rows:
    """The keypoints of some images: 0 to 9 of each, the same in whichever process."""
    parts = []
    for image in images:
        generator = torch.Generator().manual_seed(image)
        count = 3 * image % 10
        parts.append(
            {
                "image": torch.full((count,), image),
                "points": torch.rand(count, 2, generator=generator),
                "descriptors": torch.randn(count, 6, generator=generator),
            }
        )
    none = {
        "image": torch.zeros(0, dtype=torch.long),
        "points": torch.zeros(0, 2),
        "descriptors": torch.zeros(0, 6),
    }
    return {name: torch.cat([part[name] for part in [none, *parts]]) for name in none}


def cluster(rows: Rows) -> dict[str, Any]:
    found = double_clustering(rows["descriptors"], rows["image"], 4, 8, seed=0, engine="torch")
    return {**rows, "labels": found.labels, "centroids": found.centroids_m, "engine": "torch"}


def refuse(rows: Rows) -> dict[str, Any]:
    raise DataError(f"{len(rows['image'])} keypoints are too few", where="round 3")


def refuse_oddly(rows: Rows) -> dict[str, Any]:
    class Odd(Exception):
        pass

    raise Odd("cannot be sent")


def take_long(rows: Rows) -> dict[str, Any]:
    time.sleep(4)
    return {"rows": len(rows["image"])}


def join(rank: int, store: str, timeout: timedelta) -> None:
    """Be one of two processes."""
    dist.init_process_group("gloo", f"file://{store}", timeout, rank=rank, world_size=2)


def work(rank: int, folder: str) -> dict[str, Any]:
    join(rank, f"{folder}/store", timedelta(minutes=5))
    found: dict[str, Any] = {}
    # In no order, and a sampler that pads repeats images 0 and 9.
    found["padded"] = once_for_all(
        cluster, **keypoints(([8, 2, 0, 6, 10, 4, 9], [1, 7, 3, 9, 5, 0])[rank])
    )
    # All images on the second process.
    found["one_sided"] = once_for_all(cluster, **keypoints(([], list(range(IMAGES)))[rank]))
    for function in (refuse, refuse_oddly):
        try:
            once_for_all(function, **keypoints([rank + 4]))
        except Exception as error:
            found[function.__name__] = error
    dist.destroy_process_group()
    join(rank, f"{folder}/impatient", timedelta(seconds=3))
    found["take_long"] = once_for_all(take_long, **keypoints([rank + 4]))
    dist.destroy_process_group()
    return found


def second(_: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.save(work(1, folder), f"{folder}/second.pt")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) if isinstance(value, Tensor) else value == other[name]
        for name, value in one.items()
    )


def test_two_processes_get_what_one_gets(tmp_path: Any) -> None:
    # This process is the first one: starting a process takes longer than all the rest.
    other = mp.spawn(second, (str(tmp_path),), nprocs=1, join=False)
    found = work(0, str(tmp_path))
    assert other.join()
    theirs = torch.load(tmp_path / "second.pt", weights_only=False)
    alone = once_for_all(cluster, **keypoints(list(range(IMAGES))))
    assert alone["image"].tolist() == sorted(alone["image"].tolist())
    for name in ("padded", "one_sided"):
        assert same(found[name], alone), name
        assert same(theirs[name], alone), name
    for one in (found, theirs):
        assert isinstance(one["refuse"], DataError)
        assert "round 3: 7 keypoints are too few" in str(one["refuse"])
        assert one["take_long"] == {"rows": 7}
    assert isinstance(theirs["refuse_oddly"], RuntimeError)
    assert str(theirs["refuse_oddly"]) == "Odd: cannot be sent"


def test_the_order_of_the_images_does_not_matter_but_that_within_one_does() -> None:
    alone = once_for_all(cluster, **keypoints([3, 4, 5]))
    assert same(once_for_all(cluster, **keypoints([5, 3, 4])), alone)


def test_refuses_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="columns of different lengths"):
        once_for_all(cluster, torch.arange(2), points=torch.zeros(3, 2))
