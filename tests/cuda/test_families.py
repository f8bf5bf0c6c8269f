"""Every family of kernels is in the one list of them, every kernel file in a table and in the readme."""

from __future__ import annotations

import ast
from pathlib import Path

import netc.backends.cuda
from netc.backends.cuda.families import ALL_VARIANTS, FAMILIES, FORMS, NAMES
from netc.kernels_folder import kernels_folder

ROOM = Path(netc.backends.cuda.__file__).parent
TABLES = {"VARIANTS", "FORMS"}


def tables_of(path: Path) -> set[str]:
    """Which tables a module has at its top level."""
    targets: list[ast.expr] = []
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return TABLES & {target.id for target in targets if isinstance(target, ast.Name)}


def test_every_module_with_kernels_or_forms_is_listed() -> None:
    found = {
        ".".join(path.relative_to(ROOM).with_suffix("").parts)
        for path in ROOM.rglob("*.py")
        if path.stem != "families" and tables_of(path)
    }
    assert found == set(NAMES)
    assert len(NAMES) == len(found)


def test_a_chain_of_layers_has_one_family() -> None:
    assert len(FORMS) == sum(len(getattr(family, "FORMS", {})) for family in FAMILIES)


def test_every_kernel_file_has_variants_and_is_in_the_readme() -> None:
    folder = kernels_folder()
    files = {path.name for path in folder.glob("*.cu")}
    assert files == {variant.file for variant in ALL_VARIANTS}
    readme = (folder / "readme.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted(folder.glob("*.cu*")) if f"`{path.name}`" not in readme] == []


def test_a_kernel_that_shares_its_file_is_a_template() -> None:
    """What is no template is compiled again with each of the others."""
    plain = {variant.file for variant in ALL_VARIANTS if "<" not in variant.expression}
    assert {
        file for file in plain if len({v.expression for v in ALL_VARIANTS if v.file == file}) > 1
    } == set()
