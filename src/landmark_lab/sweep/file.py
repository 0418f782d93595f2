"""Sweep files: read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from landmark_lab.errors import ConfigError, nearest
from landmark_lab.sweep.parameters import Parameter, check_keys, mapping, parameters

# Keys of W&B's sweep files; those that only W&B's server reads are left to it.
_KEYS = (
    "command",
    "controller",
    "description",
    "early_terminate",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
)


@dataclass(frozen=True)
class Sweep:
    """A sweep file.

    Attributes:
        name: its own, or the file's name without suffix.
        method: how combinations are chosen.
        parameters: what varies.
        metric: the value to compare runs by.
        goal: whether lower or higher is better.
        cap: the number of runs that the file states, or None.
        experiment: the experiment file.
        overrides: settings of all runs, as on the command line.
        row: the row of the experiment's table, or None.
        notes: what this runner leaves out.
    """

    name: str
    method: Literal["grid", "random"]
    parameters: tuple[Parameter, ...]
    metric: str
    goal: Literal["minimize", "maximize"]
    cap: int | None
    experiment: Path
    overrides: tuple[str, ...]
    row: str | None = None
    notes: tuple[str, ...] = ()


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        ConfigError: the file is missing or no YAML, an unknown key or distribution, a wrong value,
            a method that only W&B's server has; with the path of what is wrong.
    """
    document = _load(path)
    check_keys(document, _KEYS, "")
    method = document.get("method")
    if method == "bayes":
        raise ConfigError(
            "'bayes' is only run by W&B's server (wandb sweep)",
            where="method",
            hint="here: method: random",
        )
    if method not in ("grid", "random"):
        raise ConfigError(
            f"there is no method {method!r}",
            where="method",
            got=method,
            allowed=("grid", "random"),
        )
    found = tuple(parameters(document.get("parameters"), "parameters"))
    if not found:
        raise ConfigError("there is nothing to vary", where="parameters")
    if method == "grid":
        for parameter in found:
            if parameter.values is None:
                raise ConfigError(
                    "a grid needs a finite number of values",
                    where=f"parameters.{parameter.path}",
                    allowed="value, values, int_uniform, q_uniform; or method: random",
                )
    metric = mapping(document.get("metric"), "metric")
    check_keys(metric, ("name", "goal", "target"), "metric")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise ConfigError(
            f"there is no goal {goal!r}",
            where="metric.goal",
            got=goal,
            allowed=("minimize", "maximize"),
        )
    if not isinstance(metric.get("name"), str):
        raise ConfigError("which logged value? For example val/criterion", where="metric.name")
    cap = document.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise ConfigError(f"a whole number from 1 is needed, not {cap!r}", where="run_cap")
    experiment, overrides, row = _command(document.get("command"))
    early = "early_terminate is left to W&B: here every run trains to its end"
    return Sweep(
        name=str(document.get("name") or path.stem),
        method=method,
        parameters=found,
        metric=metric["name"],
        goal=goal,
        cap=cap,
        experiment=experiment,
        overrides=overrides,
        row=row,
        notes=(early,) if "early_terminate" in document else (),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        # As W&B reads it: 1e-3 without a point is a text.
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.yaml")])
        hint = f"did you mean '{path.parent / near}'?" if near else None
        raise ConfigError("there is no such sweep file", where=str(path), hint=hint) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"is not a readable YAML file ({problem})", where=str(path)) from error
    return dict(mapping(document, str(path)))


def _command(given: object) -> tuple[Path, tuple[str, ...], str | None]:
    """The experiment, the overrides and the row in an agent's command."""
    words = [str(word) for word in given] if isinstance(given, list) else []
    if "train" not in words:
        raise ConfigError(
            "is not a command that trains",
            where="command",
            allowed='[landmark-lab, train, EXPERIMENT, KEY=VALUE, ..., "${args_no_hyphens}"]',
        )
    after = words[words.index("train") + 1 :]
    if not {"${args}", "${args_no_hyphens}"} & set(after):
        raise ConfigError(
            "the parameters are not passed on",
            where="command",
            hint='add "${args_no_hyphens}" at its end',
        )
    plain = [word for word in after if not (word.startswith("${") and word.endswith("}"))]
    row = None
    for i, word in enumerate(plain):
        if word == "--row" and i + 1 < len(plain):
            row, plain = plain[i + 1], plain[:i] + plain[i + 2 :]
            break
    files = [word for word in plain if "=" not in word]
    if len(files) != 1 or files[0].startswith("-"):
        raise ConfigError(
            f"one experiment file is needed, not {files}",
            where="command",
            allowed="after train: EXPERIMENT, --row ROW, KEY=VALUE and --KEY=VALUE",
        )
    return Path(files[0]), tuple(word for word in plain if "=" in word), row
