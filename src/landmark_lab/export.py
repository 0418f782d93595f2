"""A trained method as a folder that runs without the laboratory.

The model takes images as they are, (N, H, W, 3) uint8 RGB of any size, and gives their landmarks,
or the user's named points, in pixels: making the images square and the way back are inside. ::

    FOLDER/model.pt2          for torch.export.load
    FOLDER/model.onnx         for onnxruntime and others
    FOLDER/card.json          what it is, what goes in and out, how well it did, under which terms
    FOLDER/example_torch.py   the landmarks of one image, in ten lines
    FOLDER/example_onnx.py

Each model is run before the folder appears and refused if it differs from ``Predictor``.

Convention: pixels count from 0 at the centre of the top-left pixel; inside, points are (x, y) in
[-1, 1] of the square images, see ``geometry/points.py``.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landmark_lab import __version__
from landmark_lab.data.images import SMALLEST
from landmark_lab.data.preprocess_graph import PreprocessGraph
from landmark_lab.data.results import read_results
from landmark_lab.errors import ConfigError, RunError, require
from landmark_lab.files import sha256, write_json, write_text
from landmark_lab.inference import Predictor
from landmark_lab.inference.points_graph import NamedPointsGraph
from landmark_lab.roles import Landmarks
from landmark_lab.runs import installed
from landmark_lab.seeding import rng

Found = tuple[NDArray[np.floating], NDArray[np.floating]]
Runner = Callable[[NDArray[np.uint8]], Found]

TOLERANCE = 1e-4
"""Largest allowed distance between a model's point and ``Predictor``'s, as a share of the longer
side of the image, and largest difference of a score."""

_INSTALL = "landmark-lab[export]"
_METHODS_OWN = "how sure the method is"
_PROBABILITY = (
    "estimated probability that the point lies within a tenth of the normaliser of the truth"
)
_LARGEST = 2**15
_MOST = 2**15
_PURPOSE = "exporting to ONNX ('--format torch' does without)"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        difference: of each format, the largest difference from ``Predictor`` that was seen, see
            ``TOLERANCE``.
    """

    folder: Path
    difference: dict[str, float]


class DeployedLandmarks(nn.Module):
    """A method with its preprocessing: images in, landmarks or named points in their pixels out.

    Args:
        predictor: the same in pieces.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        assert isinstance(predictor.method, Landmarks)  # Predictor has refused others
        self.method = predictor.method
        self.square = PreprocessGraph(predictor.preprocess)
        self.points = None if predictor.points is None else NamedPointsGraph(predictor.points)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, H, W, 3) uint8 RGB to points (N, K, 2) in pixels and scores (N, K), float32.

        A landmark that was not found is NaN and has the score 0.
        """
        points, score = self.method.landmarks(self.square(images))
        points, score = points.float(), score.float()
        lost = (score == 0) | points.isnan().any(-1)
        points, score = points.masked_fill(lost[..., None], torch.nan), score.masked_fill(lost, 0)
        if self.points is not None:
            points, score = self.points(points, score)
        return self.square.to_original(points, images), score.float()


def export(
    checkpoint: str | Path,
    folder: str | Path | None = None,
    formats: Sequence[str] = (),
    points: str | Path | None = None,
) -> Exported:
    """Write a trained method as a folder that runs without the laboratory, on the CPU.

    Args:
        checkpoint: a checkpoint file or a finished run folder; of a run the scores go along.
        folder: the new folder; by default ``export`` in the run or beside the checkpoint.
        formats: ``torch`` (a ``torch.export`` archive), ``onnx``; all by default.
        points: a file of named points that was fitted to the checkpoint: the models give these.

    Raises:
        ConfigError: an unknown format.
        MissingDependencyError: a format needs a library that is not installed.
        CheckpointError: the file is missing or damaged, or its method finds no landmarks.
        DataError: the named points are unusable, or of another checkpoint.
        RunError: the folder exists or cannot be written; the method cannot be traced; or a model
            does not give what ``Predictor`` gives. There is no folder then.
    """
    formats = tuple(dict.fromkeys(formats)) or tuple(_WRITERS)
    for name in formats:
        if name not in _WRITERS:
            raise ConfigError("unknown format", where="format", got=name, allowed=_WRITERS)
    if "onnx" in formats:
        for library in ("onnx", "onnxscript", "onnxruntime"):
            require(library, purpose=_PURPOSE, install=_INSTALL)
    source = Path(checkpoint)
    target = Path(folder) if folder else (source if source.is_dir() else source.parent) / "export"
    if target.exists():
        raise RunError("exists already", where=str(target), hint="name a new folder with --out")
    predictor = Predictor(source, points, device="cpu")
    results = source / "results.json"
    card = _card(predictor, read_results(results)["protocols"] if results.is_file() else {})
    difference = {}
    with _folder(target) as temporary:
        program = _traced(predictor)
        for name in formats:
            run = _WRITERS[name](program, temporary)
            difference[name] = _difference(run, predictor)
            if not difference[name] <= TOLERANCE:
                raise RunError(
                    f"the {name} model's landmarks differ from those of 'predict' by "
                    f"{difference[name]:.2g} of the image's side",
                    where=str(predictor.checkpoint),
                    allowed=f"at most {TOLERANCE}",
                )
            write_text(temporary / f"example_{name}.py", _EXAMPLE[name])
        write_json(temporary / "card.json", {**card, "largest_difference_from_predict": difference})
    return Exported(target, difference)


def _traced(predictor: Predictor) -> Any:
    """The method as a ``torch.export`` program for any number of images of any size."""
    # No input gradient and no dropout: the program is for using, not for training.
    model = DeployedLandmarks(predictor).eval().requires_grad_(False)
    dimension = torch.export.Dim
    free = {
        0: dimension("images", min=1, max=_MOST),
        1: dimension("height", min=SMALLEST, max=_LARGEST),
        2: dimension("width", min=SMALLEST, max=_LARGEST),
    }
    # Sizes that occur nowhere else: equal ones would be taken for the same thing.
    example = torch.zeros(3, 2 * predictor.preprocess.size + 1, 347, 3, dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes={"images": free})
    except Exception as error:  # torch has no common class for what it cannot trace
        raise RunError(
            f"the method '{predictor.method.plugin_name}' cannot be traced "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]})",
            where=str(predictor.checkpoint),
            hint="its landmarks() and its backbone must take any number of images, and must not "
            "decide anything in Python by the values of a tensor",
        ) from error


def _write_torch(program: Any, folder: Path) -> Runner:
    path = folder / "model.pt2"
    with _quiet():
        torch.export.save(program, path)
        model = torch.export.load(path).module()

    def run(images: NDArray[np.uint8]) -> Found:
        points, score = model(torch.from_numpy(images))
        return points.numpy(), score.numpy()

    return run


def _write_onnx(program: Any, folder: Path) -> Runner:
    path = folder / "model.onnx"
    names = {0: "images", 1: "height", 2: "width"}
    with _quiet():
        model = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            output_names=["points", "scores"],
            dynamic_shapes={"images": names},
        )
    assert model is not None
    model.save(path)
    runtime = require("onnxruntime", purpose=_PURPOSE, install=_INSTALL)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> Found:
        points, score = session.run(None, {"images": images})
        return points, score

    return run


_WRITERS: dict[str, Callable[[Any, Path], Runner]] = {"torch": _write_torch, "onnx": _write_onnx}


def _difference(run: Runner, predictor: Predictor) -> float:
    """The largest difference from the predictor over images that shrink, grow, and do both."""
    size = predictor.preprocess.size
    largest = 0.0
    for height, width in ((2 * size, 2 * size), (size * 5 // 2, size // 2), (size - 3, 4 * size)):
        draw = rng(0, "images of an export", height, width)
        noise = draw.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        images = np.stack([cv2.GaussianBlur(image, (0, 0), size / 16) for image in noise])
        expected = predictor(list(images))
        for ours, theirs, unit in zip(run(images), expected, (max(height, width), 1), strict=True):
            if (np.isnan(ours) != np.isnan(theirs)).any():
                return np.inf
            largest = max(largest, float(np.nanmax(np.abs(ours - theirs), initial=0)) / unit)
    return largest


def _card(predictor: Predictor, results: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder says about itself, as plain containers."""
    card, named = predictor.card, predictor.points
    return {
        "names": list(predictor.names),
        "skeleton": [list(joined) for joined in predictor.skeleton],
        "input": {
            "name": "images",
            "shape": ["N", "height", "width", 3],
            "type": "uint8",
            "what": f"N images of one size, RGB; sides of at least {SMALLEST} pixels",
        },
        "outputs": [
            {
                "name": "points",
                "shape": ["N", len(predictor.names), 2],
                "type": "float32",
                "what": "(x, y) in pixels of the images, (0, 0) being the centre of the top-left "
                "pixel; NaN where not found",
            },
            {
                "name": "scores",
                "shape": ["N", len(predictor.names)],
                "type": "float32",
                "what": f"{_METHODS_OWN if named is None else _PROBABILITY}; 0 where not found",
            },
        ],
        "method": card.method,
        "preprocess": asdict(predictor.preprocess),
        "trained_on": card.data.get("name"),
        "results": {name: _short(score) for name, score in results.items()},
        "named_points": None
        if named is None
        else {"images": len(named.card.images), "left_out": named.card.left_out},
        "checkpoint": {
            "sha256": sha256(predictor.checkpoint),
            "stage": card.stage,
            "seed": card.seed,
            "landmark_lab": card.version,
        },
        "exported_with": {
            "landmark_lab": __version__,
            **{name: installed(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        },
        "licence": "The weights were learnt from images: the terms of those images may extend to "
        "this model. The program that made it, Landmark Lab, is under the MIT licence.",
    }


def _short(score: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's result without its tables."""
    kept = ("version", "value", "low", "high", "unit", "images", "references", "settings", "notes")
    return {name: score[name] for name in kept if name in score}


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside the target, which it becomes on success."""
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes private folders
        temporary.rename(target)
    except OSError as error:
        raise RunError(
            f"could not be written ({error.strerror or error})",
            where=str(target),
            hint="free some space or choose another folder",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' remarks on their own passes and versions from the user."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_EXAMPLE = {
    "torch": '''\
"""The landmarks of an image: python example_torch.py IMAGE (torch and opencv-python suffice)."""
import json, sys
from pathlib import Path
import cv2, torch

folder = Path(__file__).parent
image = cv2.imread(sys.argv[1], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
model = torch.export.load(folder / "model.pt2").module()
points, scores = model(torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))[None])
names = json.loads((folder / "card.json").read_text())["names"]
for name, (x, y), score in zip(names, points[0].tolist(), scores[0].tolist()):
    print(f"{name} x={x:.2f} y={y:.2f} score={score:.3f}")
''',
    "onnx": '''\
"""The landmarks of an image: python example_onnx.py IMAGE (onnxruntime, opencv-python suffice)."""
import json, sys
from pathlib import Path
import cv2, onnxruntime

folder = Path(__file__).parent
image = cv2.imread(sys.argv[1], cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
model = onnxruntime.InferenceSession(folder / "model.onnx")
points, scores = model.run(None, {"images": cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None]})
names = json.loads((folder / "card.json").read_text())["names"]
for name, (x, y), score in zip(names, points[0].tolist(), scores[0].tolist()):
    print(f"{name} x={x:.2f} y={y:.2f} score={score:.3f}")
''',
}
