"""Exporting predictions, and reading them back."""

import json
import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from landmark_lab.data.batch import Sample
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import DataError, RunError
from landmark_lab.evaluation import export, load_predictions
from landmark_lab.evaluation.augmentation import REGRESSOR_WARPS, Copies
from landmark_lab.evaluation.predictions import check_same_images, save_predictions
from landmark_lab.files import save_checkpoint, sha256
from landmark_lab.geometry.affine import AffineWarp
from landmark_lab.plugin import build
from landmark_lab.roles import Method, WarpGenerator
from tests.evaluation.doubles import Dots, Finder, Turns, Views


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictions") / "test.npz"
    return export(Finder(), Dots(), path, warps=Turns(), seed=3)


def test_what_is_written_is_what_the_method_found(exported):
    found = load_predictions(exported)
    data = Dots()
    assert found.splits.keys() == {"train", "test"}  # there is no val
    for split, count in data.counts.items():
        own = found.splits[split]
        images = data.images(split)
        assert own.index.tolist() == list(range(count))
        for n in range(count):
            np.testing.assert_array_equal(own.points[n], images[n]["points"])
            np.testing.assert_array_equal(own.visible[n], images[n]["visible"])
            np.testing.assert_allclose(own.landmarks[n], images[n]["points"], atol=0.01)
        assert own.identity.tolist() == [n // 2 for n in range(count)]
        assert own.box.shape == (count, 4)
        assert own.score.min() == 1


def test_warped_copies(exported):
    found = load_predictions(exported)
    assert found.splits["train"].warped is None
    test = found.splits["test"]
    np.testing.assert_allclose(test.warped, test.expected, atol=0.01)
    assert np.abs(test.warped - test.landmarks).max() > 0.05


def test_batches_and_workers_do_not_matter(exported, tmp_path):
    whole = load_predictions(exported)
    for settings in (LoaderSettings(batch_size=3), LoaderSettings(batch_size=4, workers=1)):
        other = export(Finder(), Dots(), tmp_path / "b.npz", warps=Turns(), seed=3, loader=settings)
        found = load_predictions(other)
        for split, own in whole.splits.items():
            for field in fields(own):
                first, second = getattr(own, field.name), getattr(found.splits[split], field.name)
                if first is not None:
                    np.testing.assert_allclose(first, second, atol=1e-6)


class TestCopies:
    """Warped copies of the training images, for a regressor."""

    def exported(self, path, **settings):
        settings = {"augmentation": Views(), "copies": 2, "seed": 3} | settings
        return load_predictions(export(Finder(), Dots(), path, **settings))

    def test_points_and_landmarks_move_together(self, tmp_path):
        found = self.exported(tmp_path / "c.npz")
        train = found.splits["train"]
        assert found.splits["test"].copies is None
        assert found.provenance.augmentation == {"name": "views"}
        assert train.copies.shape == train.copied_points.shape == (11, 2, 3, 2)
        # The finder sees the dots themselves, so it finds the moved points.
        np.testing.assert_allclose(train.copies, train.copied_points, atol=0.02)
        moved = np.abs(train.copied_points - train.points[:, None]).max(axis=(0, 2, 3))
        assert moved.min() > 0.1
        assert not np.allclose(train.copied_points[:, 0], train.copied_points[:, 1])
        assert (train.copied_visible == train.visible[:, None]).all()  # none left the image

    def test_they_are_a_function_of_the_seed_and_the_position(self, tmp_path):
        first = self.exported(tmp_path / "a.npz").splits["train"]
        batches = LoaderSettings(batch_size=4)
        again = self.exported(tmp_path / "b.npz", loader=batches, copies=3).splits["train"]
        np.testing.assert_allclose(again.copies[:, :2], first.copies, atol=1e-6)
        np.testing.assert_allclose(again.copied_points[:, :2], first.copied_points, atol=1e-6)
        other = self.exported(tmp_path / "c.npz", seed=4).splits["train"]
        assert not np.allclose(other.copied_points, first.copied_points)

    def test_points_that_leave_the_image_are_no_longer_visible(self):
        sample = Sample(
            torch.rand(1, 3, 16, 16),
            torch.zeros(1, dtype=torch.int64),
            torch.tensor([[[0.9, 0.0], [0.0, 0.0], [torch.nan, torch.nan]]]),
            torch.tensor([[True, False, True]]),
        )
        shift = AffineWarp(torch.tensor([[[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]]))
        ((_, points, visible),) = Copies((shift,)).of(sample, 0)
        moved = shift.to_target(sample.points)
        torch.testing.assert_close(points, moved, equal_nan=True)
        inside = moved[0, 0, 0].abs() <= 1
        assert visible[0].tolist() == [bool(inside), False, False]

    def test_they_show_the_surroundings_and_not_an_edge(self):
        around = torch.rand(1, 3, 32, 32)
        sample = Sample(
            around[:, :, 8:24, 8:24],
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1, 1, 2),
            surroundings=around,
        )
        cells = 4 / 8  # four pixels of sixteen over two half-widths
        shift = AffineWarp(torch.tensor([[[1.0, 0.0, cells], [0.0, 1.0, 0.0]]]))
        ((image, points, _),) = Copies((shift,)).of(sample, 0)
        step = round(float(points[0, 0, 0]) * 8)
        expected = around[:, :, 8:24, 8 - step : 24 - step]
        torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)

    def test_images_without_points(self, tmp_path):
        class Bare(Dots):
            provides = frozenset()

        with pytest.raises(DataError, match=r"no annotated points, so no regressor"):
            export(Finder(), Bare(), tmp_path / "x.npz", augmentation=Views(), copies=1)

    def test_the_published_warps_are_small(self):
        warps = build(WarpGenerator, REGRESSOR_WARPS)
        copies = Copies.draw(warps, 2, 200, (64, 64), seed=0)
        points = torch.rand(200, 5, 2) * 1.6 - 0.8
        moved = torch.stack([view.to_target(points) for view in copies.views])
        size = (moved - points).square().sum(-1).mean().sqrt()
        assert 0.02 < float(size) < 0.06  # translation and scale 0.02, 2 degrees
        assert not torch.allclose(moved[0], moved[1])


def test_the_seed_draws_the_warps(exported, tmp_path):
    other = export(Finder(), Dots(), tmp_path / "s.npz", warps=Turns(), seed=4)
    assert not np.allclose(
        load_predictions(other).splits["test"].warped,
        load_predictions(exported).splits["test"].warped,
    )


def test_provenance(exported, tmp_path):
    found = load_predictions(exported).provenance
    assert found.method == {"name": "finder", "lose": -1.0}
    assert found.data == {"name": "dots", "counts": {"train": 11, "test": 7}}
    assert (found.checkpoint, found.seed, found.size) == (None, 3, 32)
    assert (found.point_names, found.flip) == (["red", "green", "blue"], [0, 2, 1])
    assert (found.normaliser, found.warps, found.limits) == ([0, 1], {"name": "turns"}, {})
    assert found.date.endswith("+00:00")
    checkpoint = tmp_path / "model.ckpt"
    save_checkpoint({"a": 1}, checkpoint)
    path = export(Finder(), Dots(), tmp_path / "c.npz", checkpoint=checkpoint)
    assert load_predictions(path, checkpoint=checkpoint).provenance.checkpoint == sha256(checkpoint)


def test_some_splits_and_some_images(tmp_path):
    path = export(
        Finder(), Dots(), tmp_path / "l.npz", splits=("train",), limits={"train": 4, "test": 9}
    )
    found = load_predictions(path)
    assert found.splits.keys() == {"train"}
    assert found.splits["train"].index.tolist() == [0, 1, 2, 3]
    assert found.provenance.limits == {"train": 4}
    with pytest.raises(DataError, match=r"no predictions of the split 'test'.*allowed: train"):
        found.split("test")


def test_a_landmark_without_a_score_is_unknown(tmp_path):
    found = load_predictions(export(Finder(lose=0.0), Dots(), tmp_path / "n.npz", warps=Turns()))
    test = found.splits["test"]
    lost = test.score == 0
    assert lost.any()
    assert not lost.all()
    assert (np.isnan(test.landmarks).all(-1) == lost).all()
    assert (np.isnan(test.expected).all(-1) == lost).all()


def test_the_method_is_left_as_it_was(tmp_path):
    method = Finder().train()
    export(method, Dots(), tmp_path / "m.npz")
    assert method.training


def test_untrained_and_trained_differ_only_in_the_landmarks(exported, tmp_path):
    other = load_predictions(export(Finder(offset=0.2), Dots(), tmp_path / "u.npz", seed=3))
    found = load_predictions(exported)
    check_same_images(found, other)
    np.testing.assert_allclose(
        other.splits["test"].landmarks, found.splits["test"].landmarks + 0.2, atol=1e-6
    )


class TestRefusals:
    def test_a_method_without_landmarks(self, tmp_path):
        class Nothing(Method):
            plugin_name = "nothing"

            def losses(self, batch):
                return {}

        with pytest.raises(RunError, match="'nothing' offers no landmarks"):
            export(Nothing({}, None, None), Dots(), tmp_path / "x.npz")

    def test_nothing_to_export(self, tmp_path):
        with pytest.raises(DataError, match="'dots' has no images in train, val, test"):
            export(Finder(), Dots({"train": 0}), tmp_path / "x.npz")
        with pytest.raises(DataError, match=r"limits\.train: a limit of 0 images"):
            export(Finder(), Dots(), tmp_path / "x.npz", limits={"train": 0})
        with pytest.raises(RunError, match=r"\*\.npz"):
            export(Finder(), Dots(), tmp_path / "x.json")
        assert list(tmp_path.iterdir()) == []

    def test_a_failure_leaves_the_previous_file(self, exported, tmp_path, monkeypatch):
        path = export(Finder(), Dots(), tmp_path / "p.npz")
        before = path.read_bytes()

        def full(stream, **arrays):
            stream.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(RunError, match="No space left on device"):
            export(Finder(), Dots(), path)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]

    def test_stale_predictions(self, tmp_path):
        first, second = tmp_path / "1.ckpt", tmp_path / "2.ckpt"
        save_checkpoint({"a": 1}, first)
        save_checkpoint({"a": 2}, second)
        path = export(Finder(), Dots(), tmp_path / "p.npz", checkpoint=first)
        load_predictions(path, checkpoint=first, data=Dots().spec)
        with pytest.raises(DataError, match=r"stale: .* another checkpoint than .*2\.ckpt"):
            load_predictions(path, checkpoint=second)
        other = Dots({"train": 2}).spec
        with pytest.raises(DataError, match=r"stale: .* other data \(counts: .* instead of .*: 2"):
            load_predictions(path, data=other)
        untrained = export(Finder(), Dots(), tmp_path / "u.npz")
        with pytest.raises(DataError, match="another checkpoint"):
            load_predictions(untrained, checkpoint=first)

    def test_predictions_on_other_images(self, exported, tmp_path):
        found = load_predictions(exported)
        fewer = load_predictions(export(Finder(), Dots(), tmp_path / "f.npz", limits={"train": 4}))
        with pytest.raises(DataError, match="other images of the split 'train'"):
            check_same_images(found, fewer)
        moved = replace(found, provenance=replace(found.provenance, data={"name": "else"}))
        with pytest.raises(DataError, match=r"other data than .*name: 'else' instead of 'dots'"):
            check_same_images(found, moved)

    @pytest.mark.parametrize("kept", [0, 10, 500, -30])
    def test_a_truncated_file(self, exported, tmp_path, kept):
        path = tmp_path / "t.npz"
        path.write_bytes(exported.read_bytes()[:kept])
        with pytest.raises(DataError, match=r"t\.npz: is damaged, truncated or not a file"):
            load_predictions(path)

    def test_something_else(self, tmp_path):
        path = tmp_path / "x.npz"
        with pytest.raises(DataError, match="there is no such file"):
            load_predictions(path)
        for content in (b"forward_nme: 3\n", b"{}", pickle.dumps([1])):
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"x\.npz: is not a file of predictions$"):
                load_predictions(path)
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
        with pytest.raises(DataError, match=r"is not a file of predictions$"):
            load_predictions(path)
        np.savez(path, a=np.zeros(3))
        with pytest.raises(DataError, match="is not a file of predictions"):
            load_predictions(path)
        np.savez(path, provenance=np.array(json.dumps([1])))
        with pytest.raises(DataError, match="is not a file of predictions"):
            load_predictions(path)

    def test_objects_that_could_run_code(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, allow_pickle=True, provenance=np.array([{}], dtype=object))
        with pytest.raises(DataError, match="Object arrays cannot be loaded"):
            load_predictions(path)

    def rewrite(self, exported, path, text=None, **arrays):
        with np.load(exported) as archive:
            content = {name: archive[name] for name in archive.files}
        raw = json.loads(str(content["provenance"])) | (text or {})
        content |= {"provenance": np.array(json.dumps(raw)), **arrays}
        np.savez(path, **{k: v for k, v in content.items() if v is not None})
        return path

    def test_another_format(self, exported, tmp_path):
        path = self.rewrite(exported, tmp_path / "f.npz", {"format": 99, "version": "9.0"})
        with pytest.raises(DataError, match=r"format 99; allowed: format 1; .*version 9\.0"):
            load_predictions(path)
        path = self.rewrite(exported, tmp_path / "f.npz", {"more": 1})
        with pytest.raises(DataError, match=r"provenance .*more"):
            load_predictions(path)

    def test_a_file_of_before_there_were_copies(self, exported, tmp_path):
        with np.load(exported) as archive:
            content = {name: archive[name] for name in archive.files}
        raw = json.loads(str(content["provenance"]))
        del raw["augmentation"]
        np.savez(tmp_path / "o.npz", **{**content, "provenance": np.array(json.dumps(raw))})
        found = load_predictions(tmp_path / "o.npz")
        assert found.provenance == load_predictions(exported).provenance
        assert found.splits["train"].copies is None

    def test_arrays_that_do_not_fit(self, exported, tmp_path):
        path = tmp_path / "a.npz"
        for arrays, message in [
            ({"test/score": None}, "lacks 'test/score'"),
            ({"test/more": np.zeros(7)}, "unknown array 'test/more'"),
            ({"test/index": np.zeros(6)}, r"'test/landmarks' has the shape \(7, 3, 2\)"),
            ({"test/points": np.zeros((7, 4, 2))}, r"'test/points' .* allowed: \(7, 3, 2\)"),
            ({"test/landmarks": np.zeros((7, 5, 2))}, "different landmarks in its splits"),
            ({"test/copies": np.zeros((7, 2, 4, 2))}, r"'test/copies' .* allowed: \(7, 2, 3, 2\)"),
        ]:
            with pytest.raises(DataError, match=message):
                load_predictions(self.rewrite(exported, path, **arrays))


def test_saving_what_was_loaded_changes_nothing(exported, tmp_path):
    found = load_predictions(exported)
    save_predictions(found, tmp_path / "again.npz")
    again = load_predictions(tmp_path / "again.npz")
    assert again.provenance == found.provenance
    torch.testing.assert_close(
        torch.from_numpy(again.splits["test"].landmarks),
        torch.from_numpy(found.splits["test"].landmarks),
    )
