"""landmark-lab evaluate"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from landmark_lab.cli.options import PluginOption, load_plugins
from landmark_lab.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from landmark_lab.cli.scored import Scored
    from landmark_lab.roles import Protocol

ProtocolTexts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PROTOCOL[,KEY=VALUE]...",
        help="Protocols with their settings; by default the run's own.",
        show_default=False,
    ),
]


def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A run folder, or a file of predictions.", show_default=False
        ),
    ],
    protocol: ProtocolTexts = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the scores into the run's results.json.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the scores here.", show_default=False),
    ] = None,
    rounds: Annotated[
        bool,
        typer.Option("--rounds", help="Also score every round of a self-training, on its images."),
    ] = False,
    plugin: PluginOption = None,
) -> None:
    """Score the predictions of a run again.

    Takes seconds and needs neither the data nor the model. The scores go into RUN/evaluation.json
    (or FILE.evaluation.json) and leave the run's results.json alone, unless --merge is given: then
    they replace the scores of the same names there.

    Example: landmark-lab evaluate runs/demo/001 few_shot forward_nme,bias=false,alpha=1
    """
    load_plugins(plugin)

    from rich.console import Console

    from landmark_lab import evaluation
    from landmark_lab.cli.scored import protocols, round_files, scored
    from landmark_lab.data.results import read_results
    from landmark_lab.files import write_json

    found = scored(run)
    if merge and (found.results is None or output is not None):
        raise ConfigError(
            "the scores of a file have no results.json to go into"
            if found.results is None
            else "either --merge or --output",
            where="--merge",
        )
    if output is not None and output.is_file():
        read_results(output)  # anything but earlier scores is not ours to replace
    chosen = protocols(protocol or (), found.evaluate, str(run))
    stages = round_files(found, chosen) if rounds else {}
    results = evaluation.evaluate(
        found.predictions,
        chosen,
        found.untrained,
        checkpoint=found.checkpoint,
        data=found.data,
    )
    console = Console()
    console.print(evaluation.table(results))
    if stages:
        results["rounds"] = _score_rounds(stages, found.predictions, chosen, console)
    if merge:
        assert found.results is not None
        target = found.results
        own = protocols((), found.evaluate, str(run)) if found.evaluate else []
        before = read_results(target) if target.is_file() else {}
        scores = dict(zip(_names(chosen, own), results["protocols"].values(), strict=True))
        for line in _replaced(before.get("protocols", {}), scores, str(target)):
            typer.echo(line)
        kept = {key: results[key] for key in ("rounds",) if key in results}
        content = before | {"protocols": before.get("protocols", {}) | scores} | kept
    else:
        target = output or _beside(found)
        content = {"predictions": found.predictions.name, **results}
    write_json(target, content)
    typer.echo(f"scores: {target}")


def _score_rounds(
    stages: "dict[str, list[Path]]",
    predictions: Path,
    chosen: "Sequence[Protocol]",
    console: "Console",
) -> dict[str, Any]:
    """Print the scores of all rounds, and give them as plain containers by the stages' names."""
    from landmark_lab.evaluation import labels, load_predictions
    from landmark_lab.evaluation.keypoint_scores import KeypointProtocol
    from landmark_lab.evaluation.keypoint_tables import rounds_table, score_rounds

    known = load_predictions(predictions)
    about = {
        name: protocol
        for name, protocol in zip(labels(chosen), chosen, strict=True)
        if isinstance(protocol, KeypointProtocol)
    }
    found = {}
    for stage, files in stages.items():
        scores = score_rounds(files, known, about)
        for name, protocol in about.items():
            console.print(rounds_table(scores, name, protocol, stage))
        found[stage] = [one.to_dict() for one in scores]
    return found


def _beside(found: "Scored") -> Path:
    """Where the scores go by themselves."""
    if found.results is not None:
        return found.results.with_name("evaluation.json")
    return found.predictions.with_suffix(".evaluation.json")


def _names(chosen: "Sequence[Protocol]", own: "Sequence[Protocol]") -> list[str]:
    """What the scores are called beside those of the run's own protocols."""
    from landmark_lab.evaluation import full_label, labels

    known = [(protocol.spec, label) for protocol, label in zip(own, labels(own), strict=True)]
    return [
        next((label for spec, label in known if spec == protocol.spec), full_label(protocol))
        for protocol in chosen
    ]


def _replaced(before: dict[str, Any], scores: dict[str, Any], where: str) -> list[str]:
    """What merging changes, in words.

    Raises:
        ConfigError: a score would replace one of another question.
    """
    from landmark_lab.config import differences

    lines = []
    for name, score in scores.items():
        if name not in before:
            continue
        old = before[name]
        # A setting that is new since then has its old, only value.
        shared = old.get("settings", {}).keys() & score["settings"].keys()
        mine, theirs = ({k: one["settings"][k] for k in shared} for one in (old, score))
        changed = differences(mine, theirs)
        if changed:
            raise ConfigError(
                f"'{name}' is there with other settings ({', '.join(changed[:5])})",
                where=where,
                hint="write the scores to another file: --output FILE",
            )
        if old["value"] != score["value"]:
            lines.append(
                f"{name}: {old['value']} by version {old.get('version')} is replaced by "
                f"{score['value']} by version {score['version']}"
            )
    return lines
