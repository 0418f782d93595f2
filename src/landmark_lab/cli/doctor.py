"""landmark-lab doctor"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import typer

from landmark_lab.cli.options import PluginOption, load_plugins

_NEEDED = ("pytorch-lightning", "torchmetrics", "omegaconf", "pydantic", "numpy", "scikit-learn")
# What is optional, and what it is for.
_OPTIONAL = {
    "albumentations": "colour augmentation",
    "faiss-cpu": "clustering on the CPU",
    "faiss-gpu": "clustering on the GPU",
    "timm": "pretrained backbones",
    "torchvision": "perceptual networks",
    "matplotlib": "figures",
    "wandb": "logging to Weights & Biases",
    "tensorboard": "logging to TensorBoard",
}
_LEAST_FREE_GB = 2.0

State = Literal["ok", "absent", "problem"]
_MARKS = {
    "ok": ("ok", typer.colors.GREEN),
    "absent": ("--", typer.colors.YELLOW),
    "problem": ("!!", typer.colors.RED),
}


class Finding(NamedTuple):
    """A line of the diagnosis."""

    state: State
    text: str


def doctor(plugin: PluginOption = None) -> None:
    """Say what is installed and what is wrong.

    The exit code is 1 if there is a problem.

    Example: landmark-lab doctor
    """
    load_plugins(plugin)
    problems = 0
    for finding in diagnosis():
        mark, colour = _MARKS[finding.state]
        typer.secho(mark, fg=colour, nl=False)
        typer.echo(f"  {finding.text}")
        problems += finding.state == "problem"
    if problems:
        typer.secho(f"problems found: {problems}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


def diagnosis() -> Iterator[Finding]:
    """All findings. Libraries that may fail to load are tried in processes of their own."""
    yield Finding("ok", f"Python {platform.python_version()} ({sys.executable})")
    yield from _torch()
    yield from _libraries()
    yield from _torchvision()
    yield from _faiss()
    yield _disk(Path.cwd())
    yield from _plugins()


def _torch() -> Iterator[Finding]:
    output, error = _run_python(
        "import torch\n"
        "print(torch.__version__, 'for CUDA', torch.version.cuda)\n"
        "for i in range(torch.cuda.device_count()): print(torch.cuda.get_device_name(i))"
    )
    if error:
        yield Finding("problem", f"torch cannot be used: {error}")
        return
    version, *devices = output.splitlines()
    yield Finding("ok", f"torch {version}")
    if devices:
        yield Finding("ok", f"CUDA devices: {', '.join(devices)}")
    else:
        yield Finding("absent", "no CUDA device: everything runs on the CPU")


def _libraries() -> Iterator[Finding]:
    from landmark_lab.runs import installed

    for name in _NEEDED:
        version = installed(name)
        if version:
            yield Finding("ok", f"{name} {version}")
        else:
            yield Finding("problem", f"{name} is not installed: pip install {name}")
    for name, purpose in _OPTIONAL.items():
        version = installed(name)
        if version:
            yield Finding("ok", f"{name} {version} ({purpose})")
        else:
            yield Finding("absent", f"{name} is not installed ({purpose})")


def _torchvision() -> Iterator[Finding]:
    from landmark_lab.runs import installed

    if installed("torchvision"):
        _, error = _run_python("import torchvision.ops")
        if error:
            yield Finding(
                "problem",
                f"torchvision {installed('torchvision')} does not fit torch {installed('torch')} "
                f"({error}): install the pair of the same release, or remove torchvision",
            )


def _faiss() -> Iterator[Finding]:
    from landmark_lab.runs import installed

    builds = [name for name in ("faiss-cpu", "faiss-gpu") if installed(name)]
    if not builds:
        return
    if len(builds) > 1:
        yield Finding(
            "problem",
            "faiss-cpu and faiss-gpu are both installed and overwrite each other's files: "
            "pip uninstall faiss-cpu faiss-gpu, then install one of them",
        )
    output, error = _run_python("import faiss\nprint(faiss.get_num_gpus())")
    if error:
        yield Finding("problem", f"faiss cannot be used: {error}")
    else:
        yield Finding("ok", f"faiss clusters on {f'{output} GPUs' if int(output) else 'the CPU'}")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 1e9
    state: State = "ok" if free >= _LEAST_FREE_GB else "problem"
    return Finding(state, f"{free:.1f} GB are free in {folder}")


def _plugins() -> Iterator[Finding]:
    from landmark_lab.plugin import available, failures, roles

    counts = [f"{len(available(role))} {name}" for name, role in roles().items()]
    yield Finding("ok", f"plugins: {', '.join(counts)}")
    for failure in failures():
        yield Finding("problem", f"plugins failed to load: {failure}")


def _run_python(code: str) -> tuple[str, str]:
    """What a piece of Python prints, and the last line of its error if it fails."""
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "", "it does not answer"
    if done.returncode == 0:
        return done.stdout.strip(), ""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "", lines[-1]
