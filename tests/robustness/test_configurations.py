"""A thousand damaged configurations: a message that says what and where, or a complete experiment.

Each one begins as an experiment file of the repository. What is damaged is a function of its
number alone.
"""

import contextlib
import math
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from landmark_lab.completion import complete
from landmark_lab.config import read
from landmark_lab.data.sampling import LoaderSettings
from landmark_lab.errors import ConfigError, LandmarkLabError
from landmark_lab.experiment import _new_trainer
from landmark_lab.plugin import build, build_settings
from landmark_lab.roles import Method, Pairing

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TEXTS = {
    str(path.relative_to(EXPERIMENTS)): path.read_text(encoding="utf-8")
    for path in sorted(EXPERIMENTS.rglob("*.yaml"))
    if "sweeps" not in path.parts  # of another form; see tests/sweep
}
DOCUMENTS: dict[str, dict[str, Any]] = {
    name: OmegaConf.to_container(OmegaConf.create(text), resolve=False)  # type: ignore[misc]
    for name, text in TEXTS.items()
}
SECONDS = 20
"""No configuration may take longer: most take a hundredth of a second."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Fail instead of hanging."""

    def stop(signum: int, frame: object) -> None:
        pytest.fail(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def accepted(path: Path, overrides: list[str], row: str | None) -> bool:
    """Whether it is a valid experiment; if not, it must be refused in the right way."""
    try:
        with limited():
            experiment = complete(read(path, overrides, row))
    except LandmarkLabError as error:
        assert str(error).strip()  # noqa: PT017 - either outcome is right
        assert error.where, f"does not say where: {error}"  # noqa: PT017
        return False
    assert complete(experiment) == experiment
    return True


# --- what may be wrong with a document -----------------------------------------------------------

VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 1.5, -0.5, 10**30, -(10**30), 1e308),
    *(math.nan, math.inf, -math.inf, "", " ", "x", "none", "1", "1e-3", "é", "\u202e", "\x00"),
    *([], {}, [[]], [None], [1, "x"], {"name": "x"}, {"name": None}, {"name": ["x"]}, {"x": {}}),
    *({1: 2}, {True: 1}, {None: 1}, {"": 1}, {"a.b": 1}, "../x", "/", "x" * 3000),
    *("${seed}", "${nothing}", "${", "${oc.env:NOT_SET_ANYWHERE}", "${oc.nothing:1}", "???"),
    *("${seeds}", "${stages}", "${method.name}", "${method}", "${oc.decode:'{'}", "\\${x}"),
]
ADDED = ["name", "set", "stage", "stages", "rows", "row", "seed", "seeds", "log", "early_stop"]
ADDED += ["start_from", "freeze", "reported", "evaluate", "loader", "trainer", "checkpoint", "x"]
SECTIONS: dict[str, list[Any]] = {
    "rows": [{"a": {}}, {"a": {"set": {"seed": 1}}}, {"a": {"set": {"x": 1}}}, {"a/b": {}}],
    "row": ["a", "../a", 3],
    "seeds": [[1, 2], [-1], ["a"], [1.5], 3, [1, 1], {"a": 1}],
    "seed": [3, -3, 1.5, "1", 2**70],
    "log": [
        {"wandb": {}},
        {"wandb": {"mode": "x"}},
        {"tensorboard": 1},
        {"pictures": {"every": 0}},
    ],
    "early_stop": [
        {},
        {"patience": 0},
        {"monitor": "loss"},
        {"mode": "up"},
        {"min_delta": math.nan},
    ],
    "stages": [{}, {"a": {}}, {"a": None}, {"a/b": {}}, {"a": {"start_from": {"stage": "a"}}}, []],
    "start_from": [
        {"stage": "none"},
        {"checkpoint": "none.ckpt"},
        {"stage": "a", "checkpoint": "b"},
    ],
    "reported": [{"forward_nme": 1.0}, {"x": 1.0}, {"forward_nme": math.nan}, [1]],
    "evaluate": ["forward_nme", ["forward_nme", "forward_nme"], [["x"]], [None], [{}]],
    "freeze": [["backbone"], "backbone", [1]],
    "trainer": [
        {"max_epochs": "x"},
        {"max_epochs": -7},
        {"limit_train_batches": 1.5},
        {"max_time": "x"},
        {"logger": True},
        {"precision": 3},
        {"max_steps": [1]},
        {"devices": {}},
        {"gradient_clip_val": "x"},
        {"accelerator": "steam"},
    ],
}


def misspelt(word: str, draw: random.Random) -> str:
    """A word with a letter missing, doubled, exchanged or in the other case."""
    at = draw.randrange(max(len(word), 1))
    return draw.choice(
        [word[:at] + word[at + 1 :], word[:at] + word[at : at + 1] + word[at:],
         word[:at] + "x" + word[at + 1 :], word.swapcase(), f" {word}", f"{word}."]
    )  # fmt: skip


def changed(value: Any, draw: random.Random) -> Any:
    """A value that takes the place of another."""
    if isinstance(value, bool) or value is None or draw.random() < 0.5:
        return draw.choice(VALUES)
    if isinstance(value, (int, float)):
        return draw.choice([value + 1, -value, value * 1e9, str(value), [value], {"x": value}])
    if isinstance(value, str):
        return draw.choice(
            [misspelt(value, draw), [value], {"name": value}, {value: None}, len(value)]
        )
    if isinstance(value, list):
        return draw.choice(
            [dict(enumerate(value)), [*value, *value], [value], value[:1], str(value)]
        )
    pairs = [[key, item] for key, item in value.items()]
    return draw.choice([list(value), pairs, [value], {"x": value}, str(pairs)])


def damaged(value: Any, draw: random.Random) -> Any:
    """A document with one thing changed somewhere in it."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        kind = draw.random()
        if kind < 0.06:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.15:
            return {misspelt(str(k), draw) if k == key else k: v for k, v in value.items()}
        if kind < 0.25:
            return {**value, draw.choice(ADDED): draw.choice(VALUES)}
        if kind < 0.3:
            other = draw.choice(list(value))
            return {**value, key: value[other], other: value[key]}
        return {**value, key: damaged(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.6:
        at = draw.randrange(len(value))
        return [*value[:at], damaged(value[at], draw), *value[at + 1 :]]
    return changed(value, draw)


def section(document: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """A document with a section of the frame replaced, of the whole or of one of its stages."""
    key = draw.choice(list(SECTIONS))
    value = draw.choice(SECTIONS[key])
    stages = document.get("stages")
    if isinstance(stages, dict) and stages and draw.random() < 0.5:
        name = draw.choice(list(stages))
        own = stages[name] if isinstance(stages[name], dict) else {}
        return {**document, "stages": {**stages, name: {**own, key: value}}}
    return {**document, key: value}


def by_structure(name: str, draw: random.Random) -> bytes:
    document: Any = DOCUMENTS[name]
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        document = damaged(document, draw)
        if isinstance(document, dict) and draw.random() < 0.3:
            document = section(document, draw)
    return yaml.safe_dump(document, allow_unicode=True).encode()


# --- what may be wrong with a text ---------------------------------------------------------------

INSERTED = [
    *("&a ", "*a", "&a [*a]", "<<: *a\n", "<<: {seed: 3}\n", "<<: 3\n", "? [1]\n: 2\n"),
    *("!!python/object/apply:os.getcwd []", "!!binary aGk=", "!!set {a}", "!!timestamp x", "!x y"),
    *("2020-01-01", "0x1F", "0o17", "1_000", ".nan", ".inf", "~", "yes", "12:30:45", "1e400"),
    *("{", "}", "[", "]", ":", ": ", "- ", "# ", "'", '"', "|", ">", "%", "@", "`", "\t", "---\n"),
    *("...\n", "%YAML 9.9\n", "\x00", "\x85", "\ufeff", "\U0001f600", "${", "${seed}", "\r", "\\"),
]


def by_text(name: str, draw: random.Random) -> bytes:
    """Lines doubled, moved or indented, and marks with a meaning in YAML set anywhere."""
    lines = TEXTS[name].splitlines(keepends=True)
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(len(lines))
        kind = draw.randrange(5)
        if kind == 0:
            lines.insert(at, lines[at])  # a key twice
        elif kind == 1:
            lines[at] = " " * draw.randint(1, 4) + lines[at]
        elif kind == 2:
            other = draw.randrange(len(lines))
            lines[at], lines[other] = lines[other], lines[at]
        else:
            place = draw.randrange(len(lines[at]))
            lines[at] = lines[at][:place] + draw.choice(INSERTED) + lines[at][place:]
    return "".join(lines).encode()


def by_bytes(name: str, draw: random.Random) -> bytes:
    """Cut off, in another encoding, or with bytes flipped."""
    content = TEXTS[name].encode()
    kind = draw.randrange(5)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        return TEXTS[name].encode(draw.choice(["utf-16", "utf-32", "utf-7", "utf-8-sig", "cp037"]))
    if kind == 2:
        return draw.randbytes(draw.choice([0, 1, 100, 5000]))
    flipped = bytearray(content)
    for _ in range(draw.randint(1, 5)):
        flipped[draw.randrange(len(flipped))] = draw.randrange(256)
    return bytes(flipped)


def deep(depth: int, opening: str, closing: str) -> str:
    return opening * depth + closing * depth


def laughs(levels: int, width: int) -> str:
    """A few lines of YAML that stand for ``width ** levels`` values."""
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels + 1)]
    return "\n".join(lines)


BOMBS = [
    laughs(9, 9),
    laughs(30, 2),
    laughs(9, 9).replace("\n", "\nx"),
    "data: &d {x: *d}",
    "data: &d\n  x: 1\n  <<: *d",
    *(f"{key}: {deep(depth, '[', ']')}" for key in ("data", "seeds") for depth in (40, 150, 4000)),
    *(f"{key}: {deep(depth, '{a: ', '}')}" for key in ("method", "x") for depth in (40, 150, 4000)),
    "seed: " + "9" * 5000,
    "x" * 100_000 + ": 1",
    "stages: {" + ", ".join(f"s{i}: {{}}" for i in range(300)) + "}",
    "seeds: [" + "1, " * 20_000 + "1]",
    "- " * 3000,
    "? " * 3000,
    "!!python/name:os.system",
    "a: ${a}",
    "a: ${b}\nb: ${a}",
    "a: " + "${" * 500,
    "a: " + deep(300, "${oc.env:", "}"),
]  # fmt: skip

# --- what may be wrong on the command line -------------------------------------------------------

ODD = [
    *(
        "",
        "=",
        "==",
        "--",
        "seed",
        "seed=",
        "=1",
        ".=1",
        "a..b=1",
        " seed=1",
        "seed =1",
        "--seed=2",
    ),
    *(
        "seed==1",
        "seed='1",
        "seed=[1",
        "seed={a: 1",
        "seed=1 # x",
        "seed=!!python/name:os",
        "seed=*a",
    ),
    *("seed=&a 1", "seed=a: b", "seed=- 1", "seed=\x00", "seed=${", "seed=${x}", "seed=${seed}"),
    *(
        "rows.a=1",
        "row=k10",
        "name=",
        "name=../x",
        "name=a/b",
        "seeds=1",
        "seeds=[1,2]",
        "seeds=[a]",
    ),
    *(
        "stages=",
        "stages=1",
        "stages.x.trainer.max_epochs=1",
        "stages.x=null",
        "method=",
        "method=3",
    ),
    *(
        "method.name=",
        "method=nothing",
        "method.landmarks=",
        "method.landmarks=-3",
        "data=toy_faces",
    ),
    *("method.landmarks=1e9", "method.backbone.dpeth=3", "method.backbone=[1]", "data.name=[]"),
    *("trainer=1", "trainer.max_epochs=x", "trainer.max_epochs=nan", "trainer.max_time=12:00:00"),
    *("trainer.callbacks=[1]", "trainer.logger=true", "trainer.mxa_epochs=1", "evaluate=x"),
    *("evaluate.0=x", "evaluate[0]=forward_nme", "log.wandb=1", "log.wandb.project=[1]", "log=x"),
    *("early_stop=true", "early_stop.patience=0", "early_stop.patience=nan", "loader.batch_size=0"),
    *("loader.batch_size=1.5", "loader.workers=-1", "loader.colours=strong", "save_every=0"),
    *(
        "summary=[1]",
        "freeze=[x]",
        "reported.x=1",
        "reported.forward_nme=x",
        "é=1",
        "a.é.\U0001f600=1",
    ),
    *("pairing=null", "pairing.warps=null", "pairing.warps.name=spiral", "seed=" + "9" * 5000),
    *("x." * 2000 + "x=1", "method." * 300 + "name=x", "seed=" + deep(3000, "[", "]")),
    *("seed={a: &a [x, x], b: &b [*a, *a]}", "a={b: " + deep(45, "{c: ", "}") + "}"),
    "seed={" + laughs(25, 3).replace("\n", ", ") + "}",
]


def by_overrides(name: str, draw: random.Random) -> list[str]:
    """Odd ones, and ones that set a place of the document to anything."""
    overrides = [draw.choice(ODD) for _ in range(draw.choice([0, 1, 1, 2]))]
    while not overrides or draw.random() < 0.3:
        path, value = [], DOCUMENTS[name]
        while isinstance(value, dict) and value and draw.random() < 0.8:
            path.append(str(draw.choice(list(value))))
            value = value.get(path[-1])
        text = yaml.safe_dump(changed(value, draw), default_flow_style=True).splitlines()[0]
        overrides.append(f"{draw.choice(['', '--'])}{'.'.join(path)}={text}")
    return overrides


def rows_of(name: str, draw: random.Random) -> str | None:
    rows = [*DOCUMENTS[name].get("rows", {}), "k1O", ""]
    return draw.choice(rows) if draw.random() < 0.25 else None


# --- the thousand --------------------------------------------------------------------------------

PORTIONS: dict[str, tuple[int, Callable[[str, random.Random], bytes] | None]] = {
    "structure": (540, by_structure),
    "text": (150, by_text),
    "bytes": (80, by_bytes),
    "overrides": (200, None),
    "bombs": (30, None),
}
FEWEST_VALID = {"structure": 15, "text": 5, "bytes": 1, "overrides": 5, "bombs": 0}


@pytest.mark.parametrize("portion", PORTIONS)
def test_a_damaged_configuration_is_refused_with_its_place_or_valid(
    portion: str, tmp_path: Path
) -> None:
    count, damage = PORTIONS[portion]
    names = list(TEXTS)
    valid = 0
    for number in range(count):
        draw = random.Random(f"{portion} {number}")
        name = names[number % len(names)]
        content, overrides, row = TEXTS[name].encode(), list[str](), rows_of(name, draw)
        if portion == "bombs":
            before = "" if number < len(BOMBS) else f"{TEXTS[name]}\n"
            content = f"{before}{BOMBS[number % len(BOMBS)]}\n".encode()
        elif damage is None:
            overrides = by_overrides(name, draw)
        else:
            content = damage(name, draw)
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(content)
        try:
            valid += accepted(path, overrides, row)
        except Exception as error:
            error.add_note(f"{portion} {number} of {name}, {path}, row {row}, {overrides}"[:2000])
            raise
    assert FEWEST_VALID[portion] <= valid < count, valid


def test_there_are_a_thousand() -> None:
    assert sum(count for count, _ in PORTIONS.values()) == 1000
    assert len(BOMBS) <= PORTIONS["bombs"][0]


def test_the_undamaged_experiments_are_valid() -> None:
    """Every row, and its methods suit its pairs; but for those that start from a checkpoint."""
    for name in TEXTS:
        if "checkpoint:" in TEXTS[name]:
            continue
        for row in DOCUMENTS[name].get("rows", {None: {}}):
            assert accepted(EXPERIMENTS / name, [], row), (name, row)
            for stage in complete(read(EXPERIMENTS / name, [], row)).stages.values():
                where = f"{name}, row {row}, {stage.where('method')}"
                loader = build_settings(LoaderSettings, stage.loader, where)
                pairing = build(Pairing, stage.pairing, where)
                build(Method, stage.method, where).check_pairs(pairing, loader)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epochs=x", r"^trainer\.max_epochs: .* valid integer"),
        ("trainer.max_epochs=-7", r"^trainer: Lightning's Trainer refuses it: `max_epochs`"),
        ("trainer.max_steps=1.5", r"^trainer\.max_steps: .* valid integer"),
        ("trainer.limit_train_batches=1.5", r"^trainer: .* 1\.5 for limit_train_batches"),
        ("trainer.gradient_clip_val=strong", r"^trainer\.gradient_clip_val: "),
        ("trainer.gradient_clip_algorithm=x", r"^trainer: .*gradient_clip_algorithm"),
        ("trainer.accumulate_grad_batches=0", r"^trainer\.accumulate_grad_batches: .* at least 1"),
        ("trainer.precision=17", r"^trainer\.precision: "),
        ("trainer.detect_anomaly=2", r"^trainer\.detect_anomaly: "),
    ],
)
def test_a_wrong_value_for_lightning_is_found_before_anything_is_loaded(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        complete(read(EXPERIMENTS / "demo.yaml", [override]))


def test_lightnings_refusal_on_this_machine_is_an_error_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^stages\.few\.trainer: .*steam"):
        _new_trainer("stages.few.trainer", accelerator="steam")


def test_checking_the_trainer_leaves_nothing_behind(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        complete(read(EXPERIMENTS / "demo.yaml", ["trainer.deterministic=true"]))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
