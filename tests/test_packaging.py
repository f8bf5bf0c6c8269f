"""The project as a whole: what an install offers, which way imports run, what its files speak of."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import netc
from netc.kernels_folder import kernels_folder

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "netc"

# A package imports only from those before it (and from the modules that stand for none of them).
STREET = (
    "errors",
    "schema",
    "data",
    "layer",
    "graph",
    "passes",
    "backends",
    "runtime",
    "solver",
    "parallel",
    "tools",
    "pycaffe",
    "cli",
)
ANYWHERE = {"proto", "version", "kernels_folder", "aliases", "cores"}
FACES = {"__init__", "__main__", "as_caffe"}  # what users import and run: may import all

TEXT_SUFFIXES = {".py", ".md", ".toml", ".prototxt", ".proto", ".cu", ".cuh", ".in", ".txt", ".yml", ""}
NOT_OURS = {"build", "dist", "golden", "__pycache__"}  # made by tools, and Caffe's numbers
OURS_THOUGH_HIDDEN = {".ci", ".gitignore"}


def test_the_version_is_that_of_the_install() -> None:
    assert netc.__version__ == version("netc")


def test_netc_is_on_the_path_as_its_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="netc")
    assert script.value == "netc.cli.main:main"
    assert callable(script.load())


@pytest.mark.parametrize("name", netc.PUBLIC_NAMES)
def test_public_names_resolve(name: str) -> None:
    assert getattr(netc, name) is getattr(import_module(netc.PUBLIC_NAMES[name]), name)
    assert name in dir(netc)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Nett'"):
        _ = netc.Nett


def test_importing_netc_loads_no_heavy_library() -> None:
    heavy = ("numpy", "cv2", "google.protobuf", "matplotlib", "h5py", "lmdb")
    code = f"import sys, netc; sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or None)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_kernels_are_found() -> None:
    assert kernels_folder().name == "kernels"


def room_of(module: str) -> str:
    """netc.layer.pool lies in the room "layer", netc itself in "__init__"."""
    return f"{module}.__init__".split(".")[1]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of netc that a module imports from, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            names.update(
                [f"netc.{alias.name}" for alias in node.names]
                if node.module == "netc"
                else [node.module or ""]
            )
    return {room_of(name) for name in names if name.split(".")[0] == "netc"}


@pytest.mark.parametrize("room", STREET)
def test_imports_run_in_one_direction(room: str) -> None:
    allowed = {*STREET[: STREET.index(room) + 1], *ANYWHERE}
    files = [PACKAGE / f"{room}.py", *(PACKAGE / room).rglob("*.py")]
    wrong = {
        str(path.relative_to(ROOT)): sorted(imported_rooms(path) - allowed)
        for path in files
        if path.is_file() and imported_rooms(path) - allowed
    }
    assert wrong == {}


def test_every_module_has_its_place_in_the_street() -> None:
    rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
        path.parent.name for path in PACKAGE.glob("*/__init__.py")
    }
    assert rooms <= {*STREET, *ANYWHERE, *FACES}


def own_texts() -> list[Path]:
    """The text files of the project."""
    paths = [path for path in ROOT.rglob("*") if path.is_file() and path.suffix in TEXT_SUFFIXES]
    return [path for path in paths if all(is_ours(part) for part in path.relative_to(ROOT).parts)]


def is_ours(part: str) -> bool:
    """Whether the project's files may lie under a folder of this name."""
    return part not in NOT_OURS and (not part.startswith(".") or part in OURS_THOUGH_HIDDEN)


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    private = re.compile(r"(?<![\w.}>])/(home|root|work|Users|mnt|opt)/\w|[A-Z]:\\Users\\")
    named = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in own_texts()
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if private.search(line)
    }
    assert named == set()


def test_every_python_file_says_in_its_first_line_what_it_does() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in own_texts()
        if path.suffix == ".py"
        and not path.name.endswith("_pb2.py")
        and not path.read_text(encoding="utf-8").startswith('"""')
    ]
    assert silent == []
