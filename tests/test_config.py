"""Experiment files: reading, rows, overrides, merging, structure, saving."""

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings, strategies as st

from landmark_lab.config import (
    Experiment,
    differences,
    merge,
    parse_override,
    read,
    save,
    to_yaml,
)
from landmark_lab.errors import ConfigError, LandmarkLabError

FILE = """
summary: A table.
seed: 3
data: {name: toy_faces, size: 32}
pairing: synthetic
loader: {batch_size: 4}
method: {name: factorized, landmarks: 5, backbone: {name: simple, leak: 0.1}}
trainer: {max_epochs: 1}
stages:
  first: {trainer: {max_steps: 7}}
  second:
    method: {landmarks: 8}
    loader: {batch_size: "${loader.batch_size}"}
    start_from: {stage: first, parts: [backbone]}
    freeze: [backbone]
  other: {method: {name: another, x: 1}, save_every: 5}
evaluate: [forward_nme, {name: backward_nme}]
rows:
  k10: {set: {method.landmarks: 10, loader: {batch_size: 8}}, reported: {forward_nme: 7.95}}
  20: {set: {method.landmarks: 20}}
seeds: [0, 1]
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path, FILE)


def write(folder: Path, text: str, name: str = "table.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


SMALL = "data: toy_faces\nmethod: {name: factorized}\n"


# --- reading and merging -------------------------------------------------------------------------


def test_a_file_is_read(table: Path) -> None:
    experiment = read(table)
    assert experiment.name == "table"
    assert (experiment.summary, experiment.seed, experiment.seeds) == ("A table.", 3, (0, 1))
    assert list(experiment.stages) == ["first", "second", "other"]
    assert experiment.evaluate == ({"name": "forward_nme"}, {"name": "backward_nme"})
    assert experiment.rows["k10"].reported == {"forward_nme": 7.95}
    assert experiment.reported == {}


def test_stages_are_merged_over_the_common_settings(table: Path) -> None:
    first, second, other = read(table).stages.values()
    assert first.trainer == {"max_epochs": 1, "max_steps": 7}
    assert first.method["landmarks"] == 5
    assert second.method == {
        "name": "factorized",
        "landmarks": 8,
        "backbone": {"name": "simple", "leak": 0.1},
    }
    assert second.start_from == {"stage": "first", "parts": ["backbone"]}
    assert second.freeze == ("backbone",)
    assert second.loader == {"batch_size": 4}
    assert second.pairing == {"name": "synthetic"}
    assert other.method == {"name": "another", "x": 1}  # another name replaces
    assert (first.save_every, other.save_every) == (500, 5)


def test_a_section_is_named_where_it_stands(table: Path) -> None:
    first, second, _ = read(table).stages.values()
    assert first.where("method") == "method"
    assert second.where("method") == "stages.second.method"


def test_without_stages_there_is_one(tmp_path: Path) -> None:
    (stage,) = read(write(tmp_path, SMALL)).stages.values()
    assert stage.name == "train"
    assert stage.data == {"name": "toy_faces"}
    assert stage.pairing is None
    assert (stage.loader, stage.trainer, stage.freeze, stage.start_from) == ({}, {}, (), None)


def test_a_row_is_chosen(table: Path) -> None:
    experiment = read(table, row="k10")
    assert experiment.row == "k10"
    assert experiment.reported == {"forward_nme": 7.95}
    assert experiment.stages["first"].method["landmarks"] == 10
    assert experiment.stages["second"].method["landmarks"] == 8  # the stage's own
    assert experiment.stages["second"].loader == {"batch_size": 8}  # by interpolation
    assert read(table, row="20").stages["first"].method["landmarks"] == 20


def test_overrides_win_over_rows(table: Path) -> None:
    experiment = read(table, ["method.landmarks=2", "--seed=9"], row="k10")
    assert experiment.stages["first"].method["landmarks"] == 2
    assert experiment.seed == 9


def test_a_stage_can_be_overridden(table: Path, tmp_path: Path) -> None:
    changed = read(table, ["stages.second.method.landmarks=1"])
    assert changed.stages["second"].method["landmarks"] == 1
    single = read(write(tmp_path, SMALL, "s.yaml"), ["stages.train.start_from.checkpoint=a.ckpt"])
    assert single.stages["train"].start_from == {"checkpoint": "a.ckpt"}


@pytest.mark.parametrize(
    ("overrides", "backbone"),
    [
        (["method.backbone.leak=0.2"], {"name": "simple", "leak": 0.2}),
        (["method.backbone=hourglass"], "hourglass"),
        (["method.backbone.name=hourglass"], {"name": "hourglass"}),
        (["method.backbone.name=simple"], {"name": "simple", "leak": 0.1}),
        (["method.backbone=null"], None),
        (["method.backbone={name: hourglass, depth: 2}"], {"name": "hourglass", "depth": 2}),
        (["method.backbone={leak: 0.3}"], {"name": "simple", "leak": 0.3}),
        (
            ["method.backbone=hourglass", "method.backbone.depth=2"],
            {"name": "hourglass", "depth": 2},
        ),
        (
            ["method.backbone.depth=2", "method.backbone=hourglass"],
            {"name": "hourglass", "depth": 2},
        ),
        (
            ["--method.backbone.depth=2", "--method.backbone.name=hourglass"],
            {"name": "hourglass", "depth": 2},
        ),
        (["method.backbone.leak=0.2", "method.backbone.leak=0.3"], {"name": "simple", "leak": 0.3}),
    ],
)
def test_overriding_a_part(table: Path, overrides: list[str], backbone: Any) -> None:
    assert read(table, overrides).stages["first"].method["backbone"] == backbone


def test_merging_changes_neither_side() -> None:
    base, over = {"a": {"b": [1]}}, {"a": {"c": [2]}}
    merged = merge(base, over)
    merged["a"]["b"].append(3)
    merged["a"]["c"].append(3)
    assert (base, over) == ({"a": {"b": [1]}}, {"a": {"c": [2]}})


def test_interpolations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIZE", "64")
    text = SMALL + "seed: 4\nloader: {batch_size: '${seed}', x: '${oc.env:SIZE}', y: '\\${z}'}\n"
    (stage,) = read(write(tmp_path, text), ["seed=5"]).stages.values()
    assert stage.loader == {"batch_size": 5, "x": "64", "y": "${z}"}


# --- overrides -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("seed=1", ("seed",), 1),
        ("--a.b=c", ("a", "b"), "c"),
        ("a.b=1e-3", ("a", "b"), 0.001),
        ("a=[1, 2]", ("a",), [1, 2]),
        ("a={b: c}", ("a",), {"b": "c"}),
        ("a=", ("a",), None),
        ("a=null", ("a",), None),
        ("a=true", ("a",), True),
        ("a='1'", ("a",), "1"),
        ("a=b=c", ("a",), "b=c"),
        ("a=${seed}", ("a",), "${seed}"),
    ],
)
def test_an_override(text: str, keys: tuple[str, ...], value: Any) -> None:
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize(
    "text", ["seed", "--seed", "=1", ".=1", "a.=1", ".a=1", "a..b=1", "", "--", "a =1", "rows.k=1"]
)
def test_a_malformed_override_is_quoted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize("value", ["[1", "a: b: c", "@x", "*x", "!!python/name:os.system", "${"])
def test_a_value_that_is_no_yaml(value: str) -> None:
    with pytest.raises(ConfigError, match="the value is not YAML"):
        parse_override(f"a={value}")


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("a: [1,\nb: 2", ["table.yaml:", "is not YAML", "(begun in line 1)"]),
        ("data: x\n  method: y\n", ["table.yaml:2:9: is not YAML", "mapping values are not"]),
        ("seed: 1\nseed: 2\n", ["table.yaml:2:1", "duplicate key seed"]),
        (
            "seed: !!python/name:os.system\n",
            ["table.yaml:1:7", "could not determine a constructor"],
        ),
        ("a: 1\n---\nb: 1\n", ["table.yaml:2:1"]),
        ("[1, 2]", ["table.yaml: is not a mapping"]),
        ("3", ["table.yaml: cannot be read"]),
        ("null: 1", ["table.yaml: cannot be read"]),
        ("", ["the stage 'train' has no data"]),
        ("data: x", ["method: the stage 'train' has no method"]),
        ("mehtod: x", ["mehtod: unknown key 'mehtod'", "did you mean 'method'?"]),
        (SMALL + "stages: {a: {trianer: {}}}", ["stages.a.trianer", "did you mean 'trainer'?"]),
        (SMALL + "stages: {a: {seed: 1}}", ["stages.a.seed: unknown key"]),
        (SMALL + "stages: [a]", ["stages: a mapping is needed"]),
        (SMALL + "stages: {a/b: {}}", ["stages.a/b: 'a/b' cannot be the name of a folder"]),
        (SMALL + "stages: {a: 3}", ["stages.a: a mapping is needed, not 3"]),
        (SMALL + "seed: x", ["seed: a whole number of at least 0 is needed, not 'x'"]),
        (SMALL + "seed: true", ["seed: a whole number", "not True"]),
        (SMALL + "seed: -1", ["seed: a whole number", "not -1"]),
        (SMALL + "seeds: 3", ["seeds: a list is needed, not 3"]),
        (SMALL + "seeds: [0, 1.5]", ["seeds[1]: a whole number"]),
        (SMALL + "save_every: 0", ["save_every: a whole number of at least 1"]),
        (SMALL + "summary: [a]", ["summary: a text is needed"]),
        (SMALL + "name: ../x", ["name: '../x' cannot be the name of a folder"]),
        (SMALL + "evaluate: forward_nme", ["evaluate: a list is needed"]),
        (SMALL + "evaluate: [3]", ["evaluate[0]: a name or a mapping with a 'name'"]),
        (SMALL + "trainer: 3", ["trainer: a mapping is needed, not 3"]),
        (SMALL + "pairing: [synthetic]", ["pairing: a name or a mapping"]),
        ("data: 3\nmethod: x", ["data: a name or a mapping with a 'name' is needed, not 3"]),
        (SMALL + "start_from: {}", ["start_from: unknown key 'start_from'"]),
        (SMALL + "stages: {a: {start_from: {}}}", ["stages.a.start_from: give either"]),
        (
            SMALL + "stages: {a: {start_from: {stage: a, checkpoint: b}}}",
            ["stages.a.start_from: give either"],
        ),
        (
            SMALL + "stages: {warm: {}, a: {start_from: {stage: wram}}}",
            ["stages.a.start_from.stage: there is no earlier stage 'wram'", "mean 'warm'?"],
        ),
        (SMALL + "stages: {a: {start_from: {stage: a}}}", ["no earlier stage 'a'"]),
        (SMALL + "stages: {a: {start_from: {checkpoint: 3}}}", ["checkpoint: a text is needed"]),
        (
            SMALL + "stages: {a: {start_from: {checkpoint: c, part: [x]}}}",
            ["stages.a.start_from.part: unknown key", "did you mean 'parts'?"],
        ),
        (SMALL + "stages: {a: {freeze: backbone}}", ["stages.a.freeze: a list is needed"]),
        (SMALL + "stages: {a: {freeze: [1]}}", ["stages.a.freeze[0]: a text is needed"]),
        (SMALL + "rows: {a: {sets: {}}}", ["rows.a.sets: unknown key", "did you mean 'set'?"]),
        (SMALL + "rows: {a: {set: {metod.x: 1}}}", ["rows.a.set: unknown key 'metod.x'"]),
        (SMALL + "rows: {a: {set: {rows.a: 1}}}", ["rows.a.set: unknown key 'rows.a'"]),
        (SMALL + "rows: {a: {reported: {x: low}}}", ["rows.a.reported.x: a number is needed"]),
        (SMALL + "rows: {a: {reported: {x: .nan}}}", ["rows.a.reported.x: nan is no result"]),
        (SMALL + "loader: {x: '${nowhere}'}", ["loader.x: Interpolation key 'nowhere' not found"]),
        (SMALL + "loader: {x: '???'}", ["loader.x: Missing mandatory value"]),
        (SMALL + "loader: {x: !!binary aGk=}", ["loader.x: a bytes cannot be a value"]),
        (SMALL + "loader: &a {x: *a}", ["table.yaml"]),
    ],
)
def test_bad_files_are_named_with_the_place(tmp_path: Path, text: str, messages: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, text))
    for message in messages:
        assert message in str(caught.value)


def test_a_missing_file_names_the_nearest(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such experiment file; did you mean '.*table\.yaml'"):
        read(table.with_name("tabel.yaml"))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)


def test_an_unknown_row_names_the_nearest(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no row 'k01'.*did you mean 'k10'"):
        read(table, row="k01")
    with pytest.raises(ConfigError, match=r"there is no row 'k10'.*allowed: nothing"):
        read(write(tmp_path, SMALL, "s.yaml"), row="k10")


@pytest.mark.parametrize("override", ["stages.secnd.method.landmarks=1", "stages={secnd: {}}"])
def test_an_override_for_a_stage_that_there_is_not_names_the_nearest(
    table: Path, tmp_path: Path, override: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(table, [override])
    message = str(caught.value)
    assert message.startswith("stages.secnd: there is no stage 'secnd' in ")
    assert message.endswith("allowed: first, other, second; did you mean 'second'?")
    with pytest.raises(ConfigError, match=r"no stage 'late'.*; allowed: train$"):
        read(write(tmp_path, SMALL, "s.yaml"), ["stages.late.trainer.max_steps=1"])


def test_a_misspelt_override_is_an_error(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"mehtod: unknown key 'mehtod'.*did you mean 'method'"):
        read(table, ["mehtod.landmarks=3"])


# --- saving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [None, "k10"])
def test_what_is_saved_is_read_back(table: Path, row: str | None) -> None:
    experiment = read(table, row=row)
    saved = table.with_name("config.yaml")
    save(experiment, saved)
    again = read(saved)
    assert again.to_mapping() == experiment.to_mapping()
    assert again.stages == experiment.stages
    assert (again.name, again.row, again.reported) == ("table", row, experiment.reported)
    assert "!" not in saved.read_text()


def test_a_single_stage_is_saved_as_it_is_written(tmp_path: Path) -> None:
    mapping = read(write(tmp_path, SMALL)).to_mapping()
    assert "stages" not in mapping
    assert mapping["method"] == {"name": "factorized"}


def test_a_saved_row_is_only_a_label(table: Path) -> None:
    saved = table.with_name("config.yaml")
    save(read(table, row="k10"), saved)
    assert read(saved, ["seed=1"], row="k10").row == "k10"
    with pytest.raises(ConfigError, match=r"there is no row 'k20'"):
        read(saved, row="k20")


TEXTS = st.one_of(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=8),
    st.text(alphabet="${}\\a.:'\" ", max_size=10),
    st.sampled_from(
        ["1e-3", "on", "null", "~", "1_000", "12:30:45", "0x1F", ".inf", "a\nb", "- x"]
    ),
).filter(lambda text: text != "???")
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
TREES = st.recursive(
    LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(TEXTS, x, max_size=3), max_leaves=8
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b"]), TREES))
def test_any_plain_value_survives_saving(tmp_path_factory: Any, values: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    base = read(write(path.parent, SMALL, "base.yaml"))
    stage = base.stages["train"]
    changed = Experiment(
        "base", {"train": type(stage)("train", stage.method, stage.data, loader=values)}
    )
    save(changed, path)
    assert read(path).stages["train"].loader == values


def test_yaml_is_plain() -> None:
    assert yaml.safe_load(to_yaml({"a": [1, {"b": "x"}]})) == {"a": [1, {"b": "x"}]}


def test_differences_are_named_with_their_path() -> None:
    a = {"x": {"y": 1, "z": [1]}, "w": 0}
    b = {"x": {"y": 2, "z": [1]}, "v": 0}
    assert differences(a, b) == ["x.y: 1 -> 2", "w: 0 -> None", "v: None -> 0"]
    assert differences(a, a) == []


# --- anything at all -----------------------------------------------------------------------------

JUNK = [None, True, -1, 1.5, "", "x", "${seed}", "${", "a.b", [], ["x"], {}, {"name": "x"}, [{}]]


def mutated(value: Any, draw: random.Random) -> Any:
    """The value with one thing changed somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {(str(k) + "x" if k == key else k): v for k, v in value.items()}
        if kind < 0.3:
            return {**value, draw.choice(["name", "set", "stage", "x", 3, ""]): draw.choice(JUNK)}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.5:
        return [mutated(value[0], draw), *value[1:]]
    return draw.choice(JUNK)


def test_mutated_files_are_read_or_refused_but_nothing_else(tmp_path: Path) -> None:
    draw = random.Random(0)
    document = yaml.safe_load(FILE)
    outcomes = {True: 0, False: 0}
    for _ in range(120):
        changed = document
        for _ in range(draw.randint(1, 3)):
            changed = mutated(changed, draw)
        path = write(tmp_path, yaml.safe_dump(changed))
        try:
            experiment = read(path, ["trainer.max_epochs=2"], draw.choice([None, "k10"]))
            save(experiment, tmp_path / "saved.yaml")
            assert read(tmp_path / "saved.yaml").to_mapping() == experiment.to_mapping()
            outcomes[True] += 1
        except LandmarkLabError:
            outcomes[False] += 1
    assert min(outcomes.values()) > 15, outcomes


def test_mutated_text_is_read_or_refused_but_nothing_else(tmp_path: Path) -> None:
    draw = random.Random(1)
    for _ in range(100):
        text = list(FILE)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 3)] = draw.choice(
                "{}[]:,-!&*#'\"\t\n ?|>%@`$0_~x\x00"
            )
        with contextlib.suppress(LandmarkLabError):
            read(write(tmp_path, "".join(text)))
