"""The rooms of the CUDA backend import from each other in one direction, and no modules in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import netc.backends.cuda

NAME = "netc.backends.cuda"
FOLDER = Path(netc.backends.cuda.__file__).parent
TOP = "what stands on top"

# A room imports only from those before it; the modules that lie in no room may import from all.
ROOMS = (
    "compilation",
    "device",
    "tuning",
    "launching",
    "layers",
    "products",
    "convolution",
    "iteration",
    "gpu",
    "emulator",
)


def module_of(path: Path) -> str:
    """The name of a module below netc.backends.cuda, a room's own for its `__init__`."""
    return ".".join(part for part in path.relative_to(FOLDER).with_suffix("").parts if part != "__init__")


MODULES = {module_of(path): path for path in FOLDER.rglob("*.py") if module_of(path)}


def room_of(module: str) -> str:
    return module.split(".")[0] if (FOLDER / module.split(".")[0]).is_dir() else TOP


def imports_of(path: Path) -> set[str]:
    """The modules of the backend that a module imports from, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{NAME}."):
            package = f"{node.module}."[len(NAME) + 1 :]
            found |= {
                inner if (inner := f"{package}{alias.name}") in MODULES else package.rstrip(".")
                for alias in node.names
            }
    return found


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_every_room_is_known_and_has_several_modules() -> None:
    rooms = {room: [m for m in MODULES if m.startswith(f"{room}.")] for room in map(room_of, MODULES)}
    assert rooms.keys() - {TOP} == set(ROOMS)
    assert [room for room in ROOMS if len(rooms[room]) < 2] == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_those_before_it(room: str) -> None:
    allowed = ROOMS[: ROOMS.index(room) + 1]
    wrong = {
        module: late
        for module, imported in IMPORTS.items()
        if room_of(module) == room and (late := {name for name in imported if room_of(name) not in allowed})
    }
    assert wrong == {}


def test_no_modules_import_in_a_circle() -> None:
    """Raises graphlib.CycleError, which names them."""
    order = list(TopologicalSorter(IMPORTS).static_order())
    assert order.index("device.device") < order.index("backend")
