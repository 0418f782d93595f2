"""The data set ``folder`` with flow: which frames follow one another, splits, pairs, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from landmark_lab.config import read
from landmark_lab.data.flow import FrameTable
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, DataError
from landmark_lab.experiment import run
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Pairing
from landmark_lab_plugins.data.folder import Folder
from tests.data.films import about_the_middle, power, save, texture, turning, view

MOTION = about_the_middle(3, 1.0, 2, 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDMARK_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of eight frames as image files, two of them in one folder."""
    root = tmp_path_factory.mktemp("films")
    for seed, name in enumerate(("walk/left_cam1", "walk/left_cam2", "run/right")):
        turning((root / name).parent, 8, MOTION, seed, Path(name).name)
    return root


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one video of 60 frames."""
    root = tmp_path_factory.mktemp("video")
    pattern = texture(0)
    writer = None
    for number in range(60):
        frame = np.clip(view(pattern, power(MOTION, number % 12)), 0, 255).astype(np.uint8)
        if writer is None:
            code = cv2.VideoWriter.fourcc(*"MJPG")
            writer = cv2.VideoWriter(str(root / "film.avi"), code, 25, frame.shape[1::-1])
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    assert writer is not None
    writer.release()
    return root


def folder(root: Path, **settings: Any) -> Folder:
    small = {"size": 32, "fit": "crop"}
    data = build(
        ImageData,
        {"name": "folder", "root": str(root), "flow": "dis", "preprocess": small, **settings},
    )
    assert isinstance(data, Folder)
    return data


def links(images: Any) -> list[tuple[str, str]]:
    """What follows what."""
    following = images.following.tolist()
    return [
        (images.where(index), images.where(target))
        for index, target in enumerate(following)
        if target >= 0
    ]


# --- who follows whom ----------------------------------------------------------------------------


def test_numbered_files_of_one_name_in_one_folder_are_a_video(films: Path) -> None:
    data = folder(films, val_fraction=0.0, test_fraction=0.0)
    assert data.provides == {"identity", "frame", "flow", "flow_visible"}
    found = links(data.images("train"))
    assert len(found) == 21
    for one, other in found:
        assert one[:-7] == other[:-7]
        assert int(one[-7:-4]) + 1 == int(other[-7:-4])


def test_without_flow_nothing_changes(films: Path) -> None:
    data = build(ImageData, {"name": "folder", "root": str(films)})
    assert data.provides == frozenset()
    with pytest.raises(ConfigError, match=r"data\.flow: .*'frames' .*allowed: .*dis, farneback"):
        data.prepare_training(build(Pairing, "frames"), LoaderSettings(), 0)


def test_whole_videos_go_to_one_split(films: Path) -> None:
    data = folder(films)
    assert [len(links(data.images(split))) for split in ("train", "val", "test")] == [7, 7, 7]


@pytest.mark.parametrize(("every", "part"), [(1, 10), (3, 3)])
def test_one_video_is_cut_into_parts(video: Path, every: int, part: int) -> None:
    data = folder(video, every=every, val_fraction=0.2, test_fraction=0.2)
    total = 60 // every
    sizes, pairs = [], []
    for split in ("train", "val", "test"):
        images = data.images(split)
        sizes.append(len(images))
        pairs.append(links(images))
        for one, other in pairs[-1]:
            assert int(one.rpartition(" ")[2]) + every == int(other.rpartition(" ")[2])
    assert sum(sizes) == total
    assert sizes == pytest.approx([0.6 * total, 0.2 * total, 0.2 * total], abs=5)
    # Only the last frame of a part is followed by none.
    assert all(
        len(found) >= size - -(-size // part) for found, size in zip(pairs, sizes, strict=True)
    )


def test_files_that_are_frames_far_apart_follow_one_another_if_that_is_said(tmp_path: Path) -> None:
    pictures = [texture(0, 64)] * 5
    for number, picture in enumerate(pictures):
        save(tmp_path, [picture], first=10 * number)
    with pytest.raises(
        DataError, match=r"no two frames .* 1 apart; the closest are 10; 'every: 10"
    ):
        folder(tmp_path)
    data = folder(tmp_path, every=10, val_fraction=0.0, test_fraction=0.0)
    assert len(links(data.images("train"))) == 4


def test_annotated_clips_count_and_individuals_are_kept_apart(tmp_path: Path) -> None:
    save(tmp_path, [texture(0, 64)] * 6)
    names = [f"frame_{number:03d}.png" for number in range(6)]
    # Two clips whose frames are numbered alike, of one individual.
    content = {
        "images": [
            {
                "id": row,
                "file_name": name,
                "width": 64,
                "height": 64,
                "identity": "mouse",
                "clip": "one" if row < 3 else "two",
                "frame": row % 3,
            }
            for row, name in enumerate(names)
        ],
        "annotations": [
            {"id": row, "image_id": row, "category_id": 1, "keypoints": [row, row, 2]}
            for row in range(6)
        ],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose"]}],
    }
    (tmp_path / "points.json").write_text(json.dumps(content))
    data = folder(tmp_path, annotations={"train": "points.json"})
    images = data.images("train")
    assert images.following is not None
    assert images.following.tolist() == [1, 2, -1, 4, 5, -1]
    assert images.identity is not None
    assert len(set(images.identity.tolist())) == 1


def test_images_of_nobody_known_stay_with_their_clip(tmp_path: Path) -> None:
    """An individual is named in a few images only; the others must not be torn from neighbours."""
    save(tmp_path, [texture(0, 64)] * 40)
    content = {
        "images": [
            {"id": row, "file_name": f"frame_{row:03d}.png", "width": 64, "height": 64}
            | {"clip": f"film {row // 10}", "frame": row % 10}
            | ({"identity": "mouse"} if row < 2 else {})
            for row in range(40)
        ],
        "annotations": [
            {"id": row, "image_id": row, "category_id": 1, "keypoints": [row, row, 2]}
            for row in range(40)
        ],
        "categories": [{"id": 1, "name": "mouse", "keypoints": ["nose"]}],
    }
    (tmp_path / "points.json").write_text(json.dumps(content))
    data = folder(tmp_path, annotations="points.json", flow=None)
    clips = [
        {data.images(split).where(row) for row in range(len(data.images(split)))}
        for split in ("train", "val", "test")
    ]
    films = [{int(name[-7:-4]) // 10 for name in names if int(name[-7:-4]) > 1} for names in clips]
    assert sum(map(len, films)) == 4
    assert all(films)


# --- bad input -----------------------------------------------------------------------------------


def test_images_without_order_have_no_flow(tmp_path: Path) -> None:
    for name in "abcd":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match=r"data\.flow: no image is known to be a frame of a video"):
        folder(tmp_path)


def test_one_frame_has_no_flow(tmp_path: Path) -> None:
    save(tmp_path, [texture(0, 64)])
    with pytest.raises(DataError, match="no two frames of a video are 1 apart; add frames"):
        folder(tmp_path, val_fraction=0.0, test_fraction=0.0)


def test_a_split_without_neighbours_is_refused_before_the_training(films: Path) -> None:
    for split, names in (("train", ("000", "001")), ("val", ("003", "005"))):
        rows = ["image,nose_x,nose_y", *(f"run/right_{name}.png,1,1" for name in names)]
        (films / f"{split}.csv").write_text("\n".join(rows) + "\n")
    data = folder(films, annotations={"train": "train.csv", "val": "val.csv"})
    data.prepare_training(build(Pairing, "frames"), LoaderSettings(batch_size=2), 0)
    assert data.training_rows().tolist() == [0, 1]
    with pytest.raises(DataError, match=r"the split 'val': .*no 2 successive frames"):
        data.validation_rows()
    data.prepare_training(build(Pairing, {"name": "frames", "step": 2}), LoaderSettings(), 0)
    with pytest.raises(DataError, match="no 3 successive frames"):
        data.training_rows()


def test_the_estimator_is_checked_like_any_part(films: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'farneback'"):
        folder(films, flow="farnebak")


# --- pairs ---------------------------------------------------------------------------------------


def batches(data: Folder, workers: int, pairing: Any = "frames") -> list[Any]:
    loader = LoaderSettings(batch_size=4, workers=workers)
    data.prepare_training(build(Pairing, pairing), loader, seed=0)
    return list(data.train_dataloader())


def test_pairs_fit_their_flow_whatever_the_number_of_workers(video: Path) -> None:
    alone = batches(folder(video, val_fraction=0.2), 0)
    shared = batches(folder(video, val_fraction=0.2), 2)
    assert len(alone) == len(shared)
    for one, other in zip(alone, shared, strict=True):
        for member, same in zip(one.members, other.members, strict=True):
            assert torch.equal(member.index, same.index)
            assert torch.equal(member.image, same.image)
            assert torch.equal(member.flow, same.flow)
            assert torch.equal(member.flow_visible, same.flow_visible)
        source, target = (member.with_float_image() for member in one.members)
        assert torch.equal(source.frame + 1, target.frame)


def test_other_pairs_and_other_splits_need_no_flow(video: Path) -> None:
    data = folder(video)
    assert batches(data, 0, {"name": "synthetic", "annotation": False})[0].members[0].flow is None
    for split in ("train", "test"):
        images = data.images("train" if split == "train" else "test")
        assert isinstance(images, FrameTable)
        assert "flow" not in images[0]


# --- training ------------------------------------------------------------------------------------

BACKBONE = {
    "name": "hourglass",
    "width": 16,
    "depth": 1,
    "blocks": 1,
    "block": "basic",
    "stem": 0,
    "norm": "group",
    "groups": 4,
}
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"name": "dense", "backbone": BACKBONE},
    "self_training": {
        "name": "self_training",
        "landmarks": 3,
        "clusters": 6,
        "keypoints": {"name": "orb", "count": 8},
        "backbone": BACKBONE,
        "dimension": 8,
        "warm_up": 3,
        "every": 3,
        "radius": 1,
        "restarts": 1,
        "threshold": 0.0,
        "optimiser": {"name": "adam", "lr": 1e-3},
        "schedule": "constant",
    },
}


@pytest.mark.parametrize(
    ("method", "pairing"),
    [
        ("dense", {"name": "frames"}),
        (
            "self_training",
            {
                "name": "mirrored",
                "pairing": {"name": "frames", "step": 2, "warps": {"name": "affine"}},
            },
        ),
    ],
    ids=["dense", "self_training"],
)
def test_methods_learn_from_a_video(
    video: Path, tmp_path: Path, method: str, pairing: dict[str, Any]
) -> None:
    data = {"name": "folder", "root": str(video), "flow": "dis"}
    path = tmp_path / "film.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "film",
                "data": {**data, "preprocess": {"size": 32, "fit": "crop"}},
                "pairing": pairing,
                "loader": {"batch_size": 8},
                "method": METHODS[method],
                "trainer": {
                    "max_steps": 8,
                    "max_epochs": -1,
                    "log_every_n_steps": 1,
                    "accelerator": "cpu",
                },
            }
        )
    )
    made = run(read(path), tmp_path / "runs")
    (table,) = (made / "metrics").glob("*.csv")
    rows = table.read_text().splitlines()
    assert len(rows) > 8
    assert "nan" not in rows[-1]
    (done,) = (made / "checkpoints").rglob("done.ckpt")
    assert done.is_file()
