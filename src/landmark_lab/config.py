"""Experiment files: read, choose a row, override, merge, check the structure, explain, save.

An experiment is one YAML file without inheritance; ``docs`` and ``landmark-lab config`` show one.
This module knows its structure; whether a plugin exists and takes a key is ``completion.py``'s
business. What is left out is a default in a constructor.

Merging, in this order: the common settings, the ``set`` of the chosen row, the overrides, and then
each stage's own settings over the common ones. A mapping merges key by key, except that one whose
``name`` differs replaces the other, because it configures another plugin. A string stands for
``{name: string}``.
"""

from __future__ import annotations

import copy
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from landmark_lab.errors import ConfigError, nearest
from landmark_lab.files import write_text

COMMON = ("data", "pairing", "loader", "method", "trainer", "early_stop", "save_every")
SOURCES = ("stage", "checkpoint")
_STAGE = (*COMMON, "start_from", "freeze")
_TOP = (
    "name",
    "row",
    "summary",
    "seed",
    *COMMON,
    "stages",
    "evaluate",
    "log",
    "rows",
    "seeds",
    "reported",
)
_ONLY_STAGE = "train"
# Settings are nested about five deep; far below where Python would give up.
_DEEPEST = 50
# Names become folders.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@-]*")

Plain = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One training of an experiment.

    Attributes:
        name: of the stage.
        method, data: specs ``{name: ..., key: value}``.
        pairing: a spec, or None.
        loader: settings of ``data.sampling.LoaderSettings``.
        trainer: arguments of ``pytorch_lightning.Trainer``.
        start_from: ``{stage | checkpoint, parts, except, into}``, or None; with ``into`` it is the
            part of that name, a method itself, that takes the weights.
        freeze: parts of the method that are not trained.
        early_stop: settings of ``callbacks.early_stop.EarlyStopSettings``, or None.
        save_every: steps between two checkpoints within an epoch.
        own: the sections that the stage states itself; the others are the common ones.
    """

    name: str
    method: Plain
    data: Plain
    pairing: Plain | None = None
    loader: Plain = field(default_factory=dict)
    trainer: Plain = field(default_factory=dict)
    start_from: Plain | None = None
    freeze: tuple[str, ...] = ()
    early_stop: Plain | None = None
    save_every: int = 500
    own: frozenset[str] = field(default=frozenset(), compare=False)

    def where(self, section: str) -> str:
        """The path of a section in the experiment file, for messages."""
        return f"stages.{self.name}.{section}" if section in self.own else section


@dataclass(frozen=True)
class Row:
    """A row of a paper's table.

    Attributes:
        set: what it changes, by path.
        reported: the published value of each protocol.
    """

    set: Plain
    reported: dict[str, float]


@dataclass(frozen=True)
class Experiment:
    """An experiment with everything that its file says.

    Attributes:
        name: by default the file's name without its suffix.
        stages: in order, by name.
        evaluate: specs of protocols.
        log: settings of ``loggers.LogSettings``.
        row: the chosen row, if any.
        summary: one line.
        seed: of all random draws.
        seeds: for mean and deviation; empty: only ``seed``.
        reported: the published value of each protocol, of the chosen row.
        rows: the rows to choose from, by name.
    """

    name: str
    stages: dict[str, Stage]
    evaluate: tuple[Plain, ...] = ()
    log: Plain = field(default_factory=dict)
    row: str | None = None
    summary: str = ""
    seed: int = 0
    seeds: tuple[int, ...] = ()
    reported: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def to_mapping(self) -> Plain:
        """The experiment as plain containers, in the form of an experiment file."""
        mapping: Plain = {"name": self.name, "row": self.row, "summary": self.summary}
        mapping |= {"seed": self.seed, "seeds": list(self.seeds)}
        stages = {name: _stage_mapping(stage) for name, stage in self.stages.items()}
        if list(stages) == [_ONLY_STAGE] and stages[_ONLY_STAGE].keys() <= set(COMMON):
            mapping |= stages[_ONLY_STAGE]
        else:
            mapping["stages"] = stages
        mapping["evaluate"] = list(self.evaluate)
        mapping["log"] = self.log
        mapping["reported"] = self.reported
        if self.row is None:
            rows = self.rows.items()
            mapping["rows"] = {k: {"set": r.set, "reported": r.reported} for k, r in rows}
        optional = ("row", "summary", "seeds", "log", "reported", "rows")
        kept = {k: v for k, v in mapping.items() if v or k not in optional}
        return copy.deepcopy(kept)


def _stage_mapping(stage: Stage) -> Plain:
    values = {key: getattr(stage, key) for key in _STAGE}
    values["freeze"] = list(stage.freeze) or None
    return {k: v for k, v in values.items() if v is not None}


# --- reading -------------------------------------------------------------------------------------


def read(path: str | Path, overrides: Iterable[str] = (), row: str | None = None) -> Experiment:
    """Read an experiment file.

    Args:
        path: the file.
        overrides: ``key=value`` or ``--key=value``, see :func:`parse_override`.
        row: the row to choose.

    Raises:
        ConfigError: the file is missing or no YAML (with line and column), an unknown key, a wrong
            type, an unknown row, a malformed override or one for a stage that there is not.
    """
    path = Path(path)
    parsed = [parse_override(text) for text in overrides]
    document = _load(path)
    _check_keys(document, _TOP, "")
    label = _optional_text(document.get("row"), "row")
    row = label if row is None else row
    rows = _mapping(document.get("rows"), "rows")
    # A saved experiment says which row it is and no longer has the others.
    if row is not None and (rows or row != label):
        if row not in rows:
            raise ConfigError(
                f"there is no row '{row}' in {path}", where="row", got=row, allowed=rows
            )
        changes = _row(row, rows[row]).set
        document = _apply(document, [(_keys(key), value) for key, value in changes.items()])
    _check_stages(parsed, document, path)
    document = _apply(document, parsed)
    _check_keys(document, _TOP, "")
    return _experiment(_resolved(document, str(path)), path.stem, row)


def _check_stages(overrides: Sequence[Override], document: Plain, path: Path) -> None:
    """Refuse overrides for a stage that there is not: a misspelt name would be another stage."""
    known = _mapping(document.get("stages"), "stages") or {_ONLY_STAGE: {}}
    for keys, value in overrides:
        if keys[0] != "stages":
            continue
        for name in keys[1:2] or _mapping(value, "stages"):
            if name not in known:
                raise ConfigError(
                    f"there is no stage '{name}' in {path}",
                    where=f"stages.{name}",
                    got=name,
                    allowed=known,
                )


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """The path and the value of ``a.b=c`` or ``--a.b=c``; the value is YAML.

    Raises:
        ConfigError: it has another form.
    """
    path, equals, value = text.removeprefix("--").partition("=")
    keys = _keys(path)
    if not equals or not keys:
        raise ConfigError(
            "is not an override", where=f"'{text}'", allowed="key=value, for example seed=1"
        )
    if len(keys) > _DEEPEST:
        raise ConfigError(
            "is nested too deeply", where=f"'{text[:60]}...'", allowed=f"{_DEEPEST} keys"
        )
    if keys[0] in ("rows", "row"):
        raise ConfigError("a row is chosen by --row", where=f"'{text}'")
    try:
        # This is OmegaConf's own YAML: 1e-3 is a number.
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    except Exception as error:  # PyYAML lets the exceptions of its constructors through
        raise ConfigError(
            f"the value is not YAML ({_first_line(error)})",
            where=f"'{text}'",
            hint="quote it: key='\"a: b\"'",
        ) from error
    return keys, cast("Plain", parsed)["value"]


def _keys(path: str) -> tuple[str, ...]:
    """The keys of a path ``a.b``, or none if it is malformed."""
    keys = tuple(path.split("."))
    return keys if all(key and key == key.strip() for key in keys) else ()


def _load(path: Path) -> Plain:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        folder = path.parent if path.parent.is_dir() else Path()
        close = nearest(path.name, [p.name for p in folder.glob("*.yaml")])
        raise ConfigError(
            "there is no such experiment file",
            where=str(path),
            hint=f"did you mean '{folder / close}'?" if close else None,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({error})", where=str(path)) from error
    try:
        document = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        begun = error.context_mark
        since = f" (begun in line {begun.line + 1})" if begun and mark is not begun else ""
        raise ConfigError(f"is not YAML: {problem}{since}", where=f"{path}{place}") from error
    except Exception as error:  # PyYAML lets the exceptions of its constructors through
        raise ConfigError(f"cannot be read: {_first_line(error)}", where=str(path)) from error
    if not isinstance(document, dict):
        raise ConfigError("is not a mapping of settings", where=str(path))
    return document  # type: ignore[return-value]


def _resolved(document: Plain, source: str) -> Plain:
    """The document with its interpolations ``${...}`` replaced; ``source`` is for messages."""
    try:
        resolved = OmegaConf.to_container(
            OmegaConf.create(document), resolve=True, throw_on_missing=True
        )
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(
            _first_line(error), where=getattr(error, "full_key", None) or source
        ) from error
    _check_plain(resolved, "")
    return resolved  # type: ignore[return-value]


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif not (value is None or isinstance(value, (bool, int, float, str))):
        raise ConfigError(f"a {type(value).__name__} cannot be a value", where=where)


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- merging -------------------------------------------------------------------------------------

Override = tuple[tuple[str, ...], Any]


def merge(base: Any, over: Any) -> Any:
    """``over`` on top of ``base``, by the rules of this module; neither is changed."""
    if isinstance(base, str) and isinstance(over, Mapping) and "name" not in over:
        base = {"name": base}
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return copy.deepcopy(over)
    if "name" in base and "name" in over and base["name"] != over["name"]:
        return copy.deepcopy(dict(over))
    return _merge_keys(base, over)


def _merge_keys(base: Mapping[str, Any], over: Mapping[str, Any]) -> Plain:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        merged[key] = merge(merged[key], value) if key in merged else copy.deepcopy(value)
    return merged


def _apply(document: Plain, overrides: Sequence[Override]) -> Plain:
    """Overrides on top of a document; among themselves their order does not matter.

    They are first made into one tree: ``backbone.width=8 backbone.name=simple`` must give both,
    whichever comes first.
    """
    tree: Plain = {}
    for keys, value in overrides:
        node = tree
        for key in keys[:-1]:
            below = node.get(key)
            if not isinstance(below, dict):
                below = {"name": below} if isinstance(below, str) else {}
            node[key] = below
            node = below
        before = node.get(keys[-1])
        if isinstance(before, dict) and isinstance(value, str):
            value = {"name": value}
        node[keys[-1]] = merge(before, value)
    # The document itself is no plugin, although it may have a name.
    return _merge_keys(document, tree)


# --- the structure -------------------------------------------------------------------------------


def _experiment(document: Plain, stem: str, row: str | None) -> Experiment:
    name = _optional_text(document.get("name"), "name") or stem
    seeds = _list(document.get("seeds"), "seeds")
    evaluate = _list(document.get("evaluate"), "evaluate")
    given = _mapping(document.get("stages"), "stages") or {_ONLY_STAGE: {}}
    stages: dict[str, Stage] = {}
    for key, own in given.items():
        _check_name(key, f"stages.{key}")
        own = _mapping(own, f"stages.{key}")
        _check_keys(own, _STAGE, f"stages.{key}")
        stages[key] = _stage(key, own, document, stages)
    rows = {k: _row(k, v) for k, v in _mapping(document.get("rows"), "rows").items()}
    reported = _reported(document.get("reported"), "reported")
    return Experiment(
        name=_check_name(name, "name"),
        stages=stages,
        evaluate=tuple(_spec(spec, f"evaluate[{i}]") for i, spec in enumerate(evaluate)),
        log=_mapping(document.get("log"), "log"),
        row=row,
        summary=_optional_text(document.get("summary"), "summary") or "",
        seed=_whole(document.get("seed", 0), "seed"),
        seeds=tuple(_whole(seed, f"seeds[{i}]") for i, seed in enumerate(seeds)),
        reported=reported | (rows[row].reported if row in rows else {}),
        rows=rows,
    )


def _stage(name: str, own: Plain, common: Plain, earlier: Mapping[str, Stage]) -> Stage:
    stage = Stage(name, {}, {}, own=frozenset(own))
    merged: Plain = {}
    for key in COMMON:
        if key in own or key in common:
            merged[key] = merge(common.get(key), own[key]) if key in own else common[key]
    for key in ("data", "method"):
        if merged.get(key) is None:
            raise ConfigError(
                f"the stage '{name}' has no {key}", where=key, hint=f"add '{key}: {{name: ...}}'"
            )
        merged[key] = _spec(merged[key], stage.where(key))
    if merged.get("pairing") is not None:
        merged["pairing"] = _spec(merged["pairing"], stage.where("pairing"))
    for key in ("loader", "trainer"):
        merged[key] = _mapping(merged.get(key), stage.where(key))
    if merged.get("early_stop") is not None:
        merged["early_stop"] = _mapping(merged["early_stop"], stage.where("early_stop"))
    default = {f.name: f.default for f in fields(Stage)}["save_every"]
    where = stage.where("save_every")
    merged["save_every"] = _whole(merged.get("save_every", default), where, least=1)
    start = own.get("start_from")
    return Stage(
        name=name,
        **merged,
        start_from=None if start is None else _start_from(start, f"stages.{name}", earlier),
        freeze=_texts(own.get("freeze"), f"stages.{name}.freeze"),
        own=frozenset(own),
    )


def _start_from(value: Any, stage: str, earlier: Mapping[str, Stage]) -> Plain:
    where = f"{stage}.start_from"
    start = _mapping(value, where)
    _check_keys(start, (*SOURCES, "parts", "except", "into"), where)
    source = weights_source(start, where, earlier)
    lists = {key: list(_texts(start.get(key), f"{where}.{key}")) for key in ("parts", "except")}
    into = _optional_text(start.get("into"), f"{where}.into")
    kept = {key: names for key, names in lists.items() if names}
    return source | kept | ({} if into is None else {"into": into})


def weights_source(value: Mapping[str, Any], where: str, earlier: Mapping[str, Any]) -> Plain:
    """Where weights come from: ``{stage: NAME}`` or ``{checkpoint: PATH}``.

    Args:
        value: holds exactly one of the two keys.
        where: its path, for messages.
        earlier: the stages before this one, by name.

    Raises:
        ConfigError: both keys or none, or no such stage.
    """
    keys = [key for key in SOURCES if value.get(key) is not None]
    if len(keys) != 1:
        raise ConfigError("give either 'stage' or 'checkpoint'", where=where)
    source = _optional_text(value[keys[0]], f"{where}.{keys[0]}")
    if keys == ["stage"] and source not in earlier:
        raise ConfigError(
            f"there is no earlier stage '{source}'",
            where=f"{where}.stage",
            got=source,
            allowed=earlier,
        )
    return {keys[0]: source}


def _row(name: str, content: Any) -> Row:
    where = f"rows.{name}"
    _check_name(name, where)
    content = _mapping(content, where)
    _check_keys(content, ("set", "reported"), where)
    changes = _mapping(content.get("set"), f"{where}.set")
    allowed = [key for key in _TOP if key not in ("name", "row", "rows")]
    for key in changes:
        if not _keys(key) or _keys(key)[0] not in allowed:
            raise ConfigError(
                f"unknown key '{key}'", where=f"{where}.set", got=key, allowed=allowed
            )
    return Row(changes, _reported(content.get("reported"), f"{where}.reported"))


def _reported(value: Any, where: str) -> dict[str, float]:
    reported = _mapping(value, where)
    for key, number in reported.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ConfigError(f"a number is needed, not {number!r}", where=f"{where}.{key}")
        if not math.isfinite(number):
            raise ConfigError(f"{number} is no result", where=f"{where}.{key}")
    return reported


def _spec(value: Any, where: str) -> Plain:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ConfigError(
            f"a name or a mapping with a 'name' is needed, not {value!r}", where=where
        )
    return value


def _check_keys(mapping: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in mapping:
        if key not in allowed:
            raise ConfigError(
                f"unknown key '{key}'",
                where=f"{where}.{key}" if where else f"{key}" or "''",
                got=str(key),
                allowed=allowed,
            )


def _check_name(name: str, where: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"'{name}' cannot be the name of a folder",
            where=where,
            allowed="letters, digits and ._+=@-, beginning with a letter or digit",
        )
    return name


def _mapping(value: Any, where: str) -> Plain:
    """A mapping with text keys (a number is a fine name of a row); nothing is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"a mapping is needed, not {value!r}", where=where)
    return {str(key): item for key, item in value.items()}


def _list(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(f"a list is needed, not {value!r}", where=where)
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    texts = _list(value, where)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"a text is needed, not {text!r}", where=f"{where}[{i}]")
    return tuple(texts)


def _optional_text(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"a text is needed, not {value!r}", where=where)
    return value


def _whole(value: Any, where: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"a whole number of at least {least} is needed, not {value!r}", where=where
        )
    return value


# --- saving and comparing ------------------------------------------------------------------------


def to_yaml(mapping: Mapping[str, Any]) -> str:
    """Plain containers as YAML that :func:`read` reads back as they are."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(mapping)))


def save(experiment: Experiment, path: str | Path) -> None:
    """Write an experiment as YAML that :func:`read` reads back, atomically."""
    write_text(path, to_yaml(experiment.to_mapping()))


def _escaped(value: Any) -> Any:
    """The value with every ``${`` kept from being an interpolation."""
    if isinstance(value, Mapping):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, str):
        # Backslashes before it are OmegaConf's escapes, so they are doubled.
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """What differs between two plain values, as ``path: one -> other``."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            line
            for key in dict.fromkeys([*a, *b])
            for line in differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
        ]
    return [] if a == b else [f"{where}: {a!r} -> {b!r}"]
