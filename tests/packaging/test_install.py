"""The package can be built and installed, and its lists agree with the tree."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"landmark_lab": ROOT / "src/landmark_lab", "landmark_lab_plugins": ROOT / "plugins"}
OPTIONAL = ("pretrained", "worlds", "keypoints", "template", "coco", "export", "tensorboard")
LOCKS = {"cpu": ROOT / "requirements.lock", "gpu": ROOT / "requirements-gpu.lock"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(*extras: str) -> list[Requirement]:
    """The requirements of the core and of some extras."""
    parser = setup_cfg()
    texts = [parser["options"]["install_requires"]]
    texts += [parser["options.extras_require"][extra] for extra in extras]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked(path: Path) -> list[Requirement]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def modules(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts)


def copy_of_tree(target: Path) -> Path:
    """What a build reads, copied so that building leaves nothing in the working tree."""
    names = ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", "src", "plugins"]
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, target / name, ignore=ignored)
        elif (ROOT / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """Run a command to its successful end and return what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


# --- lists that repeat what the tree says ---------------------------------------------------------


def test_every_folder_with_code_is_a_listed_package() -> None:
    folders = {
        ".".join([package, *path.parent.relative_to(source).parts])
        for package, source in SOURCES.items()
        for path in modules(source)
    }
    assert sorted(folders) == setup_cfg()["options"]["packages"].split()
    for package, source in SOURCES.items():
        for path in modules(source):
            assert (path.parent / "__init__.py").exists(), f"{package}: {path.parent}"


def test_makefile_and_metadata_name_the_same_pythons() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"^SUPPORTED := (.*)$", makefile, re.MULTILINE)
    assert found is not None
    supported = found[1].split()
    parser = setup_cfg()
    classified = re.findall(r"Python :: (3\.\d+)", parser["metadata"]["classifiers"])
    allowed = SpecifierSet(parser["options"]["python_requires"])
    assert supported == classified == [v for v in (f"3.{n}" for n in range(30)) if v in allowed]


@pytest.mark.parametrize("faiss", ["cpu", "gpu"])
def test_lock_file_holds_one_exact_version_of_every_requirement(faiss: str) -> None:
    lock = locked(LOCKS[faiss])
    for line in lock:
        assert line.url is None
        assert [s.operator for s in line.specifier] == ["=="], line
    versions = {name: [] for name in map(canonicalize_name, (line.name for line in lock))}
    for line in lock:
        versions[canonicalize_name(line.name)].append(next(iter(line.specifier)).version)
    for wanted in requirements(faiss, *OPTIONAL, "dev"):
        pins = versions.get(canonicalize_name(wanted.name), [])
        assert pins, f"{wanted.name} is not in {LOCKS[faiss].name}: run make lock"
        assert all(pin in wanted.specifier for pin in pins), f"{wanted}: {pins}; run make lock"
    other = {"cpu": "faiss-gpu", "gpu": "faiss-cpu"}[faiss]
    assert other not in versions, "the two overwrite each other"


def test_lock_files_agree() -> None:
    def pins(path: Path) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for line in locked(path):
            found.setdefault(canonicalize_name(line.name), set()).add(str(line.specifier))
        return found

    cpu, gpu = pins(LOCKS["cpu"]), pins(LOCKS["gpu"])
    assert {name: cpu[name] for name in cpu if name in gpu} == {n: gpu[n] for n in gpu if n in cpu}
    assert set(cpu) - set(gpu) == {"faiss-cpu"}


@pytest.mark.parametrize(
    ("folders", "extras"),
    [
        (["src", "plugins"], ["cpu", *OPTIONAL]),
        (["tests", "benchmarks"], ["cpu", *OPTIONAL, "dev"]),
    ],
)
def test_imported_libraries_are_declared(folders: list[str], extras: list[str]) -> None:
    declared = {canonicalize_name(wanted.name) for wanted in requirements(*extras)}
    installed = packages_distributions()
    ours = {*SOURCES, "tests", *(path.stem for path in modules(ROOT / "tests"))}
    for folder in folders:
        for path in modules(ROOT / folder):
            for name in imported(path) - ours - sys.stdlib_module_names:
                distributions = {canonicalize_name(d) for d in installed.get(name, [])}
                if distributions:  # else a module that a test writes, or one that must not exist
                    assert distributions & declared, f"{path} imports {name}: not in setup.cfg"


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports absolutely."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


# --- the wheel ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the source distribution, so that both are complete."""
    tree = copy_of_tree(tmp_path_factory.mktemp("build") / "tree")
    run(sys.executable, "-m", "build", "--no-isolation", tree)
    (path,) = (tree / "dist").glob("*.whl")
    return path


def test_wheel_holds_the_package_the_plugins_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        f"{package}/{path.relative_to(source).as_posix()}"
        for package, source in SOURCES.items()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert names == expected
    assert {"landmark_lab/py.typed", "landmark_lab_plugins/py.typed"} <= names


def test_wheel_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    assert (
        "landmark-lab = landmark_lab.cli:main" in archive.read(f"{info}/entry_points.txt").decode()
    )
    assert f"{info}/licenses/LICENSE" in archive.namelist()
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "License: MIT" in metadata
    assert set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE)) == {
        "cpu",
        "gpu",
        *OPTIONAL,
        "dev",
    }
    assert not re.search(r"Requires-Dist: faiss-cpu[^;]*$", metadata, re.MULTILINE)


def test_wheel_is_importable_by_itself(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys, landmark_lab, landmark_lab_plugins as plugins;"
        "print(landmark_lab.__version__, landmark_lab.__file__, plugins.__file__);"
        "assert 'torch' not in sys.modules"
    )
    version, *files = run(
        sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path)
    ).split()
    assert f"-{version}-" in wheel.name
    assert all(Path(file).is_relative_to(tmp_path) for file in files)


# --- real environments ----------------------------------------------------------------------------

# One batch of training and a small evaluation: enough to see that everything imports and fits.
SMOKE = """
data: {name: toy_faces, size: 32, train: 16, val: 8, test: 8}
pairing: synthetic
loader: {batch_size: 4, colours: {}}
method: {name: factorized, landmarks: 3, backbone: simple}
trainer: {max_epochs: 1, limit_train_batches: 1}
evaluate: [forward_nme, equivariance]
"""


def interpreter(version: str) -> str:
    """A Python of this version: of LANDMARK_LAB_PYTHONS (paths, separated by colons), on PATH, or
    installed beside the running one, as version managers do.
    """
    named = os.environ.get("LANDMARK_LAB_PYTHONS", "").split(os.pathsep)
    beside = map(str, Path(sys.base_prefix).parent.glob(f"*/bin/python{version}"))
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    for candidate in [*filter(None, named), f"python{version}", "python3", *beside]:
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if done.stdout.strip() == version:
            return candidate
    pytest.skip(f"no Python {version}; name one in LANDMARK_LAB_PYTHONS")


def uv() -> str:
    found = shutil.which(
        "uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    return found or pytest.skip("uv is not installed")


def check_that_it_runs(python: Path, folder: Path) -> None:
    """The console command, away from the sources."""
    folder.mkdir()
    (folder / "smoke.yaml").write_text(SMOKE, encoding="utf-8")
    command = python.with_name("landmark-lab")
    assert "train" in run(command, "--help", cwd=folder)
    assert "tps_pair" in run(command, "list", "warps", cwd=folder)
    assert "forward_nme" in run(command, "train", "smoke.yaml", cwd=folder)
    assert (folder / "runs/smoke/001/results.json").exists()


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("end", "torch"), [("lowest-direct", "2.11."), ("highest", "")])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_pip_install_at_both_ends(version: str, end: str, torch: str, tmp_path: Path) -> None:
    """The lower bounds, torch 2.11 among them, and the newest releases: both kinds of pip install.

    uv only brings the libraries, because it can choose the lowest; pip checks them and installs.
    """
    tree, venv = copy_of_tree(tmp_path / "tree"), tmp_path / "venv"
    python = venv / "bin/python"
    run(interpreter(version), "-m", "venv", venv)
    extras = [text for extra in ("cpu", *OPTIONAL) for text in ("--extra", extra)]
    libraries = ["-r", tree / "setup.cfg", *extras]
    chosen = ["--python", python, "--resolution", end]
    run(uv(), "pip", "install", *chosen, *libraries, UV_SYSTEM_CERTS="true")
    assert run(python, "-c", "import torch; print(torch.__version__)").startswith(torch)
    for number, kind in enumerate([[], ["--editable"]]):
        run(python, "-m", "pip", "install", *kind, tree)
        run(python, "-m", "pip", "check")
        check_that_it_runs(python, tmp_path / f"away{number}")
    shutil.rmtree(venv)  # 6 GB


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(3600)
def test_pip_install_without_extras_into_an_empty_environment(tmp_path: Path) -> None:
    tree, venv = copy_of_tree(tmp_path / "tree"), tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/python", "-m", "pip", "install", tree)
    check_that_it_runs(venv / "bin/python", tmp_path / "away")
    shutil.rmtree(venv)
