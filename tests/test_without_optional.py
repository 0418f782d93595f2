"""The core imports, trains and evaluates without the heavy and fragile libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = (
    "albumentations",
    "wandb",
    "faiss",
    "torchvision",
    "timm",
    "transformers",
    "pycpd",
    "pycocotools",
)

# Libraries are missing in both senses: they cannot be imported and they are not installed.
BLOCKER = f"""
import importlib.metadata, sys

ABSENT = {ABSENT!r}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

def without(function):
    def inner(name):
        if name.partition("-")[0] in ABSENT:
            raise importlib.metadata.PackageNotFoundError(name)
        return function(name)
    return inner

sys.meta_path.insert(0, Blocker())
importlib.metadata.distribution = without(importlib.metadata.distribution)
importlib.metadata.version = without(importlib.metadata.version)
"""

EXPERIMENT = """
data: {name: toy_faces, size: 32, train: 16, val: 16, test: 16}
pairing: synthetic
loader: {batch_size: 8, workers: 0}
method: {name: factorized, landmarks: 3, schedule: constant, backbone: {name: local, width: 8}}
trainer: {max_epochs: 1, accelerator: cpu}
evaluate: [forward_nme, equivariance]
"""


def without(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(BLOCKER + code)
    return subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_training_and_evaluation_without_the_optional_libraries(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    done = without(
        "from landmark_lab.cli import main\n"
        "sys.argv[1:] = ['train', 'small.yaml', '--runs', 'runs']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    assert not ABSENT & sys.modules.keys(), ABSENT & sys.modules.keys()\n".replace(
            "ABSENT &", "set(ABSENT) &"
        ),
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "001" / "results.json").is_file()


@pytest.mark.parametrize(
    ("code", "library"),
    [
        (
            "import numpy as np\n"
            "from landmark_lab.data.augmentation import ColourAugmentation\n"
            "ColourAugmentation()(np.zeros((8, 8, 3), np.uint8), 0)\n",
            "albumentations",
        ),
    ],
)
def test_asking_for_one_says_what_to_install(tmp_path: Path, code: str, library: str) -> None:
    done = without(code, tmp_path)
    assert done.returncode != 0
    assert f"pip install '{library}" in done.stderr


def test_clustering_uses_torch_where_there_is_no_faiss(tmp_path: Path) -> None:
    done = without(
        "import torch\n"
        "from landmark_lab.clustering.kmeans import kmeans\n"
        "points = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))\n"
        "found = kmeans(points, 3, seed=0)\n"
        "print(found.engine, tuple(found.centroids.shape))\n",
        tmp_path,
    )
    assert done.stdout.split() == ["torch", "(3,", "4)"], done.stderr
