"""The table of all keypoints of a split."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from landmark_lab.data.keypoints import Detections, KeypointTable
from landmark_lab.errors import DataError
from landmark_lab.files import load_checkpoint, save_checkpoint

COLUMNS = ("image", "points", "scores", "labels", "mirrored", "descriptors")


def table(counts: tuple[int, ...] = (2, 0, 3, 1), depth: int | None = 4) -> KeypointTable:
    """Random keypoints, so many in each image, in shuffled order."""
    generator = torch.Generator().manual_seed(1)
    total = sum(counts)
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return KeypointTable.of(
        len(counts),
        image[torch.randperm(total, generator=generator)],
        torch.rand(total, 2, generator=generator) * 2 - 1,
        torch.rand(total, generator=generator),
        torch.arange(total),
        torch.arange(total) + 10,
        None if depth is None else torch.rand(total, depth, generator=generator),
    )


def same(one: KeypointTable, other: KeypointTable) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in COLUMNS]
    equal = [a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs]
    return one.images == other.images and all(equal)


def test_rows_are_sorted_by_image_and_keep_their_order_within_one() -> None:
    image = torch.tensor([2, 0, 2, 0])
    points = torch.arange(8.0).reshape(4, 2) / 8
    found = KeypointTable.of(3, image, points, torch.arange(4.0))
    assert found.image.tolist() == [0, 0, 2, 2]
    assert found.scores.tolist() == [1, 3, 0, 2]
    assert torch.equal(found.points, points[[1, 3, 0, 2]])
    assert found.labels.tolist() == found.mirrored.tolist() == [-1] * 4
    assert found.descriptors is None


def test_counts_include_images_without_keypoints() -> None:
    assert table((2, 0, 3, 1, 0)).counts().tolist() == [2, 0, 3, 1, 0]
    assert table((2, 0, 3, 1, 0)).most == 3


def test_a_batch_is_padded_to_the_largest_count_of_the_table() -> None:
    whole = table()
    index = torch.tensor([3, 1, 2, 3])
    points, labels, mirrored, found = whole.padded(index)
    assert points.shape == (4, 3, 2)
    assert found.sum(1).tolist() == [1, 0, 3, 1]
    for row, image in enumerate(index.tolist()):
        mine = whole.image == image
        assert torch.equal(points[row, found[row]], whole.points[mine])
        assert torch.equal(labels[row, found[row]], whole.labels[mine])
        assert torch.equal(mirrored[row, found[row]], whole.mirrored[mine])
    assert points[~found].isnan().all()
    assert (labels[~found] == -1).all()
    assert (mirrored[~found] == -1).all()


def test_a_table_without_rows_pads_to_nothing() -> None:
    empty = table((0, 0), depth=None)
    points, labels, _, found = empty.padded(torch.tensor([1, 0]))
    assert points.shape == (2, 0, 2)
    assert labels.shape == found.shape == (2, 0)


def test_select_keeps_rows_and_the_number_of_images() -> None:
    whole = table()
    keep = whole.scores > whole.scores.median()
    some = whole.select(keep)
    assert some.images == 4
    assert torch.equal(some.labels, whole.labels[keep])
    assert some.descriptors is not None
    assert whole.descriptors is not None
    assert torch.equal(some.descriptors, whole.descriptors[keep])
    rest = whole.select(~keep)
    assert sorted(KeypointTable.concat([some, rest]).labels.tolist()) == list(range(6))


def test_joining_the_shares_of_processes_gives_the_whole() -> None:
    whole = table()
    shares = [whole.select(whole.image % 2 == rank) for rank in (0, 1)]
    assert same(KeypointTable.concat(shares), whole)
    assert same(KeypointTable.concat(shares[::-1]), whole)


def test_joining_takes_tables_of_the_same_images_and_kind() -> None:
    with pytest.raises(DataError, match=r"\[3, 4\] images cannot be joined"):
        KeypointTable.concat([table(), table((1, 1, 1))])
    with pytest.raises(DataError, match="descriptors of one kind"):
        KeypointTable.concat([table(), table(depth=None)])
    none = table((0, 0, 0, 0), depth=None)
    assert same(KeypointTable.concat([none, table()]), table())  # nothing has no kind
    with pytest.raises(DataError, match="cannot be joined"):
        KeypointTable.concat([])


def test_detections_become_a_table() -> None:
    found = [
        Detections(np.zeros((2, 2), np.float32), np.ones(2, np.float32), np.eye(2, 5, dtype="f4")),
        Detections(np.zeros((0, 2), np.float32), np.zeros(0, np.float32)),
        Detections(np.ones((1, 2), np.float32), np.ones(1, np.float32), np.ones((1, 5), "f4")),
    ]
    whole = KeypointTable.from_detections(found)
    assert whole.counts().tolist() == [2, 0, 1]
    assert whole.descriptors is not None
    assert whole.descriptors.shape == (3, 5)
    assert KeypointTable.from_detections(found[1:2]).descriptors is None


def test_rows_of_detections_are_taken_together() -> None:
    one = Detections(
        np.arange(6, dtype="f4").reshape(3, 2), np.arange(3, dtype="f4"), np.eye(3, dtype="f4")
    )
    kept = one.take(np.array([2, 0]))
    assert kept.scores.tolist() == [2, 0]
    assert kept.points.tolist() == [[4, 5], [0, 1]]
    assert kept.descriptors is not None
    assert kept.descriptors.argmax(1).tolist() == [2, 0]


def test_a_checkpoint_holds_all_but_the_descriptors(tmp_path: Path) -> None:
    whole = table()
    save_checkpoint(whole.state(), tmp_path / "state.ckpt")
    back = KeypointTable.from_state(load_checkpoint(tmp_path / "state.ckpt"))
    assert same(back, whole.without_descriptors())


@pytest.mark.parametrize("depth", [None, 4])
def test_a_file_holds_everything(tmp_path: Path, depth: int | None) -> None:
    whole = table(depth=depth)
    whole.save(tmp_path / "deep" / "table.npz")
    assert same(KeypointTable.load(tmp_path / "deep" / "table.npz"), whole)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["table.npz"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    with pytest.raises(DataError, match=r"table\.npz: is no keypoint table"):
        KeypointTable.load(path)
    table().save(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"table\.npz: is no keypoint table"):
            KeypointTable.load(path)
    np.savez(path, images=3)
    with pytest.raises(DataError, match=r"table\.npz: is no keypoint table"):
        KeypointTable.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": torch.zeros(6, 3)}, r"'points' has the shape \(6, 3\); allowed: \(6, 2\)"),
        ({"scores": torch.zeros(5)}, r"'scores' has the shape \(5,\)"),
        ({"labels": torch.zeros(6)}, r"'labels' is torch.float32; allowed: torch.int64"),
        ({"descriptors": torch.zeros(6)}, r"'descriptors' has the shape \(6,\)"),
        ({"image": torch.tensor([0, 0, 2, 2, 3, 2])}, "not sorted"),
        ({"images": 3}, "holds keypoints of image 3; allowed: 0 to 2"),
        ({"points": torch.full((6, 2), torch.nan)}, "not finite"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(table(), **change)


def test_detections_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="'scores' has the shape"):
        Detections(np.zeros((2, 2), np.float32), np.zeros(3, np.float32))
