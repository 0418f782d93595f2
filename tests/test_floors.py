"""The house's floors: imports go downward only, and fragile libraries have one owner each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = ROOT / "src" / "landmark_lab"
PLUGINS = ROOT / "plugins"

# The floor of each module or folder; what is not listed fails the test.
FLOORS = {
    0: (
        "__init__",
        "config",
        "discovery",
        "errors",
        "files",
        "plugin",
        "schema",
        "seeding",
        "user_plugins",
    ),
    1: ("geometry", "losses", "clustering", "metrics"),
    2: (
        "roles",
        "data",
        "optimisation",
        "checkpoint",
        "clustered_keypoints",
        "landmark_maps",
        "embedding",
        "keypoint_network",
        "probe",
        "rounds",
    ),
    3: ("methods", "evaluation"),
    4: (
        "experiment",
        "completion",
        "runs",
        "callbacks",
        "figures",
        "export",
        "inference",
        "loggers",
        "report",
        "sweep",
    ),
    5: ("cli",),
}
WINGS = {"methods", "evaluation", "landmark_lab_plugins"}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
FLOOR["landmark_lab_plugins"] = 3

OWNED = (
    "faiss",
    "albumentations",
    "wandb",
    "torchvision",
    "timm",
    "matplotlib",
    "jinja2",
    "pymunk",
    "transformers",
    "pycocotools",
    "pycpd",
    "contourpy",
)
# Functions that import the module that their first argument names.
IMPORTERS = ("require", "import_module")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _files() -> list[Path]:
    found = [*CORE.rglob("*.py"), *PLUGINS.rglob("*.py")]
    assert found
    return sorted(found)


def _module(path: Path) -> str:
    """The dotted name of a file."""
    in_core = CORE in path.parents
    parts = path.relative_to(CORE if in_core else PLUGINS).with_suffix("").parts
    top = "landmark_lab" if in_core else "landmark_lab_plugins"
    return ".".join([top, *(part for part in parts if part != "__init__")])


def _imports(path: Path, tree: ast.Module | None = None) -> Iterator[tuple[str, ast.AST]]:
    """The dotted names that a file imports anywhere, types included."""
    for node in ast.walk(tree or ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def _room(dotted: str) -> str | None:
    """The module or folder of the house that a dotted name lies in, or None."""
    top, *rest = dotted.split(".")
    if top == "landmark_lab_plugins":
        return top
    if top != "landmark_lab":
        return None
    return rest[0] if rest and rest[0] in FLOOR else "__init__"


def _all_imports() -> Iterator[tuple[str, str, str]]:
    """(importing room, imported room, place) of all imports within the house."""
    for path in _files():
        own = _room(_module(path))
        for dotted, node in _imports(path):
            room = _room(dotted)
            if room is not None:
                assert own is not None
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)} imports {dotted}"
                yield own, room, place


def test_every_module_has_a_floor() -> None:
    rooms = {
        p.stem if p.is_file() else p.name for p in CORE.iterdir() if not p.name.startswith("_")
    }
    assert rooms - {"py"} - FLOOR.keys() == set()


def test_imports_go_downward() -> None:
    wrong = [place for own, room, place in _all_imports() if FLOOR[room] > FLOOR[own]]
    assert wrong == []


def test_the_wings_do_not_import_one_another() -> None:
    wrong = [
        place
        for own, room, place in _all_imports()
        if own in WINGS and room in WINGS and own != room
    ]
    assert wrong == []


def test_methods_do_not_import_one_another() -> None:
    methods = {p.stem for p in (CORE / "methods").glob("*.py")} - {"__init__"}
    wrong = [
        f"{path.name} imports {dotted}"
        for path in (CORE / "methods").glob("*.py")
        for dotted, _ in _imports(path)
        if dotted.startswith("landmark_lab.methods.") and dotted.split(".")[2] in methods
    ]
    assert wrong == []


def test_the_core_never_imports_the_plugins() -> None:
    wrong = [
        place
        for own, room, place in _all_imports()
        if room == "landmark_lab_plugins" and own != "landmark_lab_plugins"
    ]
    assert wrong == []


@pytest.mark.parametrize("library", OWNED)
def test_a_fragile_library_is_imported_by_one_file(library: str) -> None:
    owners = set()
    for path in _files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [dotted for dotted, _ in _imports(path, tree)]
        names += [
            node.args[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in IMPORTERS
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ]
        if any(str(name).split(".")[0] == library for name in names):
            owners.add(path.relative_to(ROOT).as_posix())
    assert len(owners) <= 1, owners


def _modules_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_foundations_do_not_import_torch() -> None:
    names = [f"landmark_lab.{name}" for name in FLOORS[0] if name != "__init__"]
    loaded = _modules_after(f"import {', '.join(names)}")
    assert loaded & {"torch", "pytorch_lightning", *OWNED} == set()


def test_fragile_libraries_are_imported_when_they_are_used() -> None:
    wrong = []
    for path in _files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = {id(n) for f in ast.walk(tree) if isinstance(f, FUNCTIONS) for n in ast.walk(f)}
        wrong += [
            f"{path.relative_to(ROOT)} imports {dotted} at its own import"
            for dotted, node in _imports(path, tree)
            if dotted.split(".")[0] in OWNED and id(node) not in inside
        ]
    assert wrong == []
