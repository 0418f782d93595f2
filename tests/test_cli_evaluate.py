"""Scoring runs again, comparing them, and the summary of a reproduction."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from landmark_lab.cli.reproduce import comparison, summarised
from landmark_lab.cli.scored import parse_protocol
from landmark_lab.config import Experiment, read
from landmark_lab.data.keypoints import KeypointTable
from landmark_lab.data.results import Predictions
from landmark_lab.data.rounds import Labelled, write_round
from landmark_lab.errors import ConfigError
from landmark_lab.evaluation import evaluate, load_predictions
from landmark_lab.evaluation.predictions import save_predictions
from landmark_lab.files import sha256
from landmark_lab.plugin import build
from landmark_lab.roles import ImageData, Protocol
from tests.command_line import Cli
from tests.evaluation.test_comparison import with_warps
from tests.evaluation.test_protocols import scene

DATA = {"name": "toy_faces", "size": 32}


def make_run(
    folder: Path,
    found: Predictions,
    protocols: tuple[Any, ...] = ("forward_nme", "backward_nme"),
    data: dict[str, Any] = DATA,
    version: int | None = None,
) -> Path:
    """A run folder as a training leaves it: configuration, checkpoint, predictions, results."""
    checkpoint = folder / "checkpoints" / "train" / "best.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(folder.name.encode())
    config = {"data": data, "method": "factorized", "evaluate": list(protocols), "name": "x"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    own = replace(found.provenance, data=data, checkpoint=sha256(checkpoint))
    save_predictions(replace(found, provenance=own), folder / "predictions" / "best.npz")
    blind = replace(scene(noise=1.0).provenance, data=data, warps=own.warps)
    untrained = with_warps(replace(scene(noise=1.0), provenance=blind))
    save_predictions(untrained, folder / "predictions" / "untrained.npz")
    built = [build(Protocol, one) for one in protocols]
    results = evaluate(
        folder / "predictions" / "best.npz", built, folder / "predictions" / "untrained.npz"
    )
    for score in results["protocols"].values():
        score["version"] = version or score["version"]
    (folder / "results.json").write_text(json.dumps(results | {"reported": {"forward_nme": 7.5}}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "a", scene())


class TestEvaluate:
    def test_rounds_are_scored_too(self, cli: Cli, run: Path) -> None:
        train = load_predictions(run / "predictions" / "best.npz").splits["train"]
        assert train.points is not None
        count, points = len(train), torch.from_numpy(train.points)
        for number, off in enumerate((0.4, 0.0)):
            table = KeypointTable.of(
                count,
                torch.arange(count).repeat_interleave(points.shape[1]),
                points.flatten(0, 1) + off,
                torch.ones(points[..., 0].numel()),
            )
            path = run / "rounds" / "first" / f"{number:03d}.npz"
            write_round(path, Labelled(table), 50 * number, number, np.arange(count))
        result = cli("evaluate", run, "keypoint_detection", "keypoint_clusters", "--rounds")
        assert result.code == 0, result.err
        assert "Rounds of 'first' on its training images" in result.out
        rounds = json.loads((run / "evaluation.json").read_text())["rounds"]["first"]
        assert [(one["number"], one["step"]) for one in rounds] == [(0, 0), (1, 50)]
        values = [one["scores"]["keypoint_detection"]["value"] for one in rounds]
        assert values[0] < values[1] == 100
        assert "keypoint_clusters" not in rounds[1]["scores"]  # nothing is labelled
        result = cli("evaluate", run, "--rounds")
        assert "--rounds: none of the protocols is about keypoints" in result.err
        result = cli("evaluate", run / "predictions" / "best.npz", "keypoint_detection", "--rounds")
        assert "no rounds were written down" in result.err

    def test_a_run_is_scored_by_its_own_protocols(self, cli: Cli, run: Path) -> None:
        before = (run / "results.json").read_bytes()
        result = cli("evaluate", run)
        assert result.code == 0, result.err
        assert result.out.splitlines()[-1] == f"scores: {run / 'evaluation.json'}"
        assert (run / "results.json").read_bytes() == before
        again = json.loads((run / "evaluation.json").read_text())
        assert again["protocols"] == json.loads(before)["protocols"]
        assert again["protocols"]["forward_nme"]["references"]["untrained"] > 20
        for word in ("forward_nme", "centroid scale", "untrained", "failure_rate", "r2"):
            assert word in result.out

    def test_by_other_protocols(self, cli: Cli, run: Path, tmp_path: Path) -> None:
        target = tmp_path / "out" / "scores.json"
        arguments = ("few_shot,annotated=[1, 5],repeats=3", "pck,normaliser=[p2,p3],threshold=0.2")
        result = cli("evaluate", run, *arguments, "--output", target)
        assert result.code == 0, result.err
        scores = json.loads(target.read_text())["protocols"]
        assert list(scores) == ["few_shot", "pck"]
        assert list(scores["few_shot"]["values"]) == ["annotated=1", "annotated=5"]
        assert scores["pck"]["unit"].endswith("within 0.2 of the distance from p2 to p3")
        assert "±" in result.out
        assert not (run / "evaluation.json").exists()

    def test_merging(self, cli: Cli, run: Path) -> None:
        before = json.loads((run / "results.json").read_text())
        result = cli("evaluate", run, "forward_nme", "forward_nme,annotated=9", "--merge")
        assert result.code == 0, result.err
        merged = json.loads((run / "results.json").read_text())
        names = ["forward_nme", "backward_nme", "forward_nme(annotated=9)"]
        assert list(merged["protocols"]) == names
        assert merged["protocols"]["forward_nme"] == before["protocols"]["forward_nme"]
        assert merged["reported"] == before["reported"]
        assert "replaced" not in result.out

    def test_merging_says_what_it_replaces(self, cli: Cli, run: Path) -> None:
        results = json.loads((run / "results.json").read_text())
        results["protocols"]["forward_nme"] |= {"value": 1.25, "version": 0}
        del results["protocols"]["forward_nme"]["settings"]["failure"]  # of before there was one
        (run / "results.json").write_text(json.dumps(results))
        out = cli("evaluate", run, "--merge").out
        assert "forward_nme: 1.25 by version 0 is replaced by" in out
        results["protocols"]["forward_nme"]["settings"]["alpha"] = 3.0
        (run / "results.json").write_text(json.dumps(results))
        result = cli("evaluate", run, "--merge")
        assert result.code == 2
        assert "'forward_nme' is there with other settings (alpha: 3.0 -> 0.1)" in result.err
        assert json.loads((run / "results.json").read_text()) == results

    def test_a_file_of_predictions(self, cli: Cli, run: Path) -> None:
        file = run / "predictions" / "best.npz"
        result = cli("evaluate", file, "backward_nme")
        assert result.code == 0, result.err
        assert result.out.splitlines()[-1].endswith("best.evaluation.json")
        written = json.loads(file.with_name("best.evaluation.json").read_text())
        assert written["predictions"] == "best.npz"
        assert cli("evaluate", file, "backward_nme", "--merge").code == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nothing", "forward_nme"], "nothing: there is no such run folder"),
            (["RUN", "forward_mne"], "did you mean 'forward_nme'?"),
            (["RUN", "forward_nme,alhpa=3"], "did you mean 'alpha'?"),
            (["RUN", "forward_nme,alpha=x"], "forward_nme.alpha: "),
            (["RUN", "forward_nme=3"], "'forward_nme=3': is not a protocol"),
            (["RUN", "forward_nme,copies=2"], "holds 0 warped copies of each training image"),
            (["FILE"], "by which protocol?"),
            (["FILE", "equivariance"], "export the predictions with warps"),
            (["RUN", "--merge", "--output", "x.json"], "either --merge or --output"),
        ],
    )
    def test_mistakes(self, cli: Cli, run: Path, arguments: list[str], message: str) -> None:
        places = {"RUN": str(run), "FILE": str(run / "predictions" / "best.npz")}
        result = cli("evaluate", *[places.get(text, text) for text in arguments])
        assert result.code == 2
        assert message in result.err
        assert "Traceback" not in result.err
        assert not (run / "evaluation.json").exists()

    def test_predictions_of_another_checkpoint_or_other_data(self, cli: Cli, run: Path) -> None:
        (run / "checkpoints" / "train" / "best.ckpt").write_bytes(b"trained on")
        result = cli("evaluate", run)
        assert "is stale: these are predictions of another checkpoint" in result.err
        (run / "checkpoints" / "train" / "best.ckpt").unlink()  # a run that was sent without
        assert cli("evaluate", run).code == 0
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["data"]["size"] = 64
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        assert "on other data (size: 32 instead of 64)" in cli("evaluate", run).err

    def test_a_run_without_predictions(self, cli: Cli, run: Path) -> None:
        (run / "predictions" / "best.npz").unlink()
        result = cli("evaluate", run)
        assert result.code == 2
        assert "the run has no predictions yet" in result.err
        assert f"landmark-lab train --resume {run}" in result.err


def test_protocols_on_the_command_line() -> None:
    spec = parse_protocol("forward_nme,annotated=10, normaliser=[left eye,right eye],alpha=1e-3")
    assert spec == {
        "name": "forward_nme",
        "annotated": 10,
        "normaliser": ["left eye", "right eye"],
        "alpha": 1e-3,
    }
    for bad in ("", "=3", "forward nme", "forward_nme,", "forward_nme,bias"):
        with pytest.raises(ConfigError, match="is not a protocol"):
            parse_protocol(bad)


class TestCompare:
    def test_three_runs(self, cli: Cli, run: Path, tmp_path: Path) -> None:
        others = [make_run(tmp_path / n, scene(noise=s)) for n, s in (("b", 0.06), ("c", 0.021))]
        result = cli("compare", run, *others, "--resamples", "500")
        assert result.code == 0, result.err
        assert result.out.count("A is better") == 2  # a table for each protocol
        assert "% of the distance from p0 to p1" in result.out
        assert "100.0 %" in result.out
        assert result.out.splitlines()[-3:] == [f"A: {run}", f"B: {others[0]}", f"C: {others[1]}"]

    def test_protocols_in_common(self, cli: Cli, run: Path, tmp_path: Path) -> None:
        few = {"name": "forward_nme", "annotated": 7}
        other = make_run(tmp_path / "b", scene(), (few, "backward_nme"))
        result = cli("compare", run, other)
        assert result.code == 0, result.err
        assert result.out.count("A is better") == 1
        left = " was not compared, because not all runs have it with these settings\n"
        assert f"\nforward_nme{left}" in result.out
        assert f"\nforward_nme(annotated=7){left}" in result.out
        given = cli("compare", run, other, "--protocol", "forward_nme,annotated=5")
        assert "forward_nme(annotated=5)" in given.out
        bare = make_run(tmp_path / "c", scene(), (few,))
        assert "the runs have no protocol in common" in cli("compare", run, bare).err

    def test_one_that_cannot_be_compared_leaves_the_others(self, cli: Cli, tmp_path: Path) -> None:
        both = ("forward_nme", "equivariance")
        runs = [
            make_run(tmp_path / name, with_warps(scene(warps={"name": name})), both)
            for name in ("a", "b")
        ]
        result = cli("compare", *runs)
        assert result.code == 0, result.err
        assert result.out.count("A is better") == 1
        (line,) = (line for line in result.out.splitlines() if "was not compared" in line)
        assert line.startswith(f"equivariance was not compared, because {runs[1]}")
        assert "(warps.name: 'a' -> 'b')" in line
        asked = cli("compare", *runs, "--protocol", "forward_nme", "--protocol", "equivariance")
        assert asked.code == 2
        assert not asked.out
        assert "is not measured like" in asked.err
        only = [
            make_run(tmp_path / f"only_{name}", with_warps(scene(warps={"name": name})), both[1:])
            for name in ("a", "b")
        ]
        assert "is not measured like" in cli("compare", *only).err

    def test_mistakes(self, cli: Cli, run: Path, tmp_path: Path) -> None:
        assert "At least two" in cli("compare", run).err
        result = cli("compare", run, make_run(tmp_path / "b", scene(), data={"name": "folder"}))
        assert result.code == 2
        assert "was made on other data than" in result.err
        old = make_run(tmp_path / "c", scene(), version=7)
        result = cli("compare", run, old)
        assert result.code == 2
        assert f"{old / 'results.json'}: 'forward_nme' was scored by version 7" in result.err
        files = [folder / "predictions" / "best.npz" for folder in (run, old)]
        assert "by which protocol?" in cli("compare", *files).err
        assert cli("compare", *files, "--protocol", "forward_nme").code == 0


def test_rows_that_need_a_gpu_for_days_are_reproduced_last() -> None:
    experiments = Path(__file__).parents[1] / "experiments"
    having = {
        path.stem: [*read(path).rows]
        for path in experiments.rglob("*.yaml")
        if "sweeps" not in path.parts and "\n  paper:" in path.read_text(encoding="utf-8")
    }
    assert {"correspondence", "template", "faces"} <= having.keys()
    assert {name: rows[-1] for name, rows in having.items()} == dict.fromkeys(having, "paper")


class TestReproduced:
    def rows(self, values: list[float | None], reported: dict[str, float]) -> list[Any]:
        seeds = range(len(values))
        repeated = [Experiment("x", {}, row="k5", seed=s, reported=reported) for s in seeds]
        scores = [{"forward_nme": {"value": v, "low": 6.0, "high": 8.0}} for v in values]
        return summarised(repeated, [Path(f"runs/x/k5/00{s}") for s in seeds], scores)

    def test_mean_and_deviation_over_seeds(self) -> None:
        (row,) = self.rows([7.0, 8.0, 10.0], {"forward_nme": 7.5})
        assert row.measured == pytest.approx(25 / 3)
        assert row.deviation == pytest.approx(1.5275252316519468)  # of a sample: n - 1
        assert (row.low, row.high) == (None, None)  # of a single run, not of a mean
        assert row.difference == pytest.approx(25 / 3 - 7.5)
        assert (row.seeds, row.values) == ([0, 1, 2], [7.0, 8.0, 10.0])
        assert json.loads(json.dumps(asdict(row)))["runs"][1] == "runs/x/k5/001"

    def test_one_seed_has_an_interval(self) -> None:
        (row,) = self.rows([7.0], {})
        assert (row.measured, row.deviation, row.low, row.high) == (7.0, None, 6.0, 8.0)
        assert (row.reported, row.difference) == (None, None)

    def test_numbers_that_could_not_be_measured(self) -> None:
        (row,) = self.rows([None, 8.0], {"forward_nme": 7.5})
        assert (row.measured, row.deviation) == (8.0, None)
        (row,) = self.rows([None], {"forward_nme": 7.5})
        assert (row.measured, row.difference) == (None, None)
        assert comparison("x", [row]).row_count == 1


def test_the_predictions_of_a_run_are_those_of_the_fixture(run: Path) -> None:
    found = load_predictions(run / "predictions" / "best.npz")
    assert found.provenance.data == DATA


@pytest.mark.parametrize("content", ["{}", "[1]", '{"protocols": {"forward_nme": 3}}'])
@pytest.mark.parametrize("command", [["compare", "a", "b"], ["evaluate", "a", "--merge"]])
def test_damaged_results_are_named(
    cli: Cli, tmp_path: Path, content: str, command: list[str]
) -> None:
    make_run(tmp_path / "b", scene())
    (make_run(tmp_path / "a", scene()) / "results.json").write_text(content)
    result = cli(*command)
    assert result.code == 2
    assert "results.json: is no file of scores, or a damaged one" in result.err


def test_scores_replace_nothing_but_scores(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", scene())
    before = (run / "config.yaml").read_bytes()
    result = cli("evaluate", run, "--output", run / "config.yaml")
    assert result.code == 2
    assert (run / "config.yaml").read_bytes() == before
    for _ in range(2):
        assert cli("evaluate", run, "--output", "own.json").code == 0


@pytest.mark.parametrize(("changed", "code"), [({}, 0), ({"train": 7}, 2)])
def test_a_setting_that_is_newer_than_the_run_has_its_default(
    cli: Cli, tmp_path: Path, changed: dict[str, int], code: int
) -> None:
    run = make_run(tmp_path / "a", scene())
    path = run / "predictions" / "best.npz"
    found = load_predictions(path)
    data = {**build(ImageData, DATA).spec, **changed}  # the run's own says name and size only
    save_predictions(replace(found, provenance=replace(found.provenance, data=data)), path)
    result = cli("evaluate", run)
    assert result.code == code
    assert ("train: 7 instead of" in result.err) == bool(changed)
