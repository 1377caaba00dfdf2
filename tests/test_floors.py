"""Folders import only from the floors below them, and the README shows those floors."""

import ast
import collections
import functools
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "unityvideo_jax"
# From the top down, as the README's architecture section lists them. Rooms of one floor may import
# each other, as long as no circle comes of it.
FLOORS = (
    ("(programs)",),
    ("ablations",),
    ("planning",),
    ("training", "evaluation", "curation"),
    ("sampling",),
    ("inputs",),
    ("checkpoints", "pretrained", "annotators"),
    ("interop", "flow_matching"),
    ("models",),
    ("kernels",),
    ("parallel",),
    ("modalities", "worlds"),
    ("metrics", "media"),
    ("files", "settings"),
    ("runtime",),
    ("errors", "units"),
)
# Every program's flags, and the lazy front: above all floors.
TOP = {"", "cli"}


@functools.cache
def _modules() -> dict[str, pathlib.Path]:
    found = {}
    for file in sorted((ROOT / PACKAGE).rglob("*.py")):
        if "assets" in file.parts:
            continue
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def _imports(file: pathlib.Path, modules: dict[str, pathlib.Path]) -> set[str]:
    """Modules of the package that a file names, also those that it imports late."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in modules}


@pytest.fixture(scope="module")
def arrows() -> set[tuple[str, str]]:
    modules = _modules()
    return {(name, used) for name, file in modules.items() for used in _imports(file, modules)}


def _room(module: str) -> str:
    """The folder that a module lies in, by its path below the package."""
    file = _modules()[module]
    return file.parent.relative_to(ROOT / PACKAGE).as_posix().removeprefix(".")


def _floor(module: str) -> int:
    first = [*module.split("."), ""][1]
    for height, rooms in enumerate(reversed(FLOORS)):
        if first in rooms:
            return height
    return len(FLOORS) - 1  # a program, or what all of them share


def test_no_import_runs_back_up(arrows):
    up = [f"{a} -> {b}" for a, b in sorted(arrows) if b != PACKAGE and _floor(a) < _floor(b)]
    assert not up


def test_folders_do_not_import_each_other_in_circles(arrows):
    rooms = collections.defaultdict(set)
    for a, b in arrows:
        if b != PACKAGE and _room(a) != _room(b) and _room(b):
            rooms[_room(a)].add(_room(b))
    graphlib.TopologicalSorter(rooms).prepare()


def test_files_do_not_import_each_other_in_circles(arrows):
    files = collections.defaultdict(set)
    for a, b in arrows:
        if b != PACKAGE:
            files[a].add(b)
    graphlib.TopologicalSorter(files).prepare()


def test_every_folder_has_a_floor():
    known = {room for rooms in FLOORS for room in rooms}
    folders = {p.name for p in (ROOT / PACKAGE).iterdir() if (p / "__init__.py").exists()}
    assert folders <= known


def test_the_readme_shows_these_floors():
    text = (ROOT / "README.md").read_text()
    drawn = re.search(r"## Architecture\n.*?```\n(.*?)```", text, re.S)[1]
    listed = re.findall(r"^  (\w+)/", drawn, re.M)
    assert listed == [room for rooms in FLOORS[1:-1] for room in rooms]
