"""Where the CUDA sources lie: inside an installed package, or beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

from netc.errors import NetcError

PACKAGE = Path(__file__).resolve().parent


def kernels_folder() -> Path:
    """The folder of the `.cu` and `.cuh` files.

    Raises NetcError where neither an installed package nor a source tree holds one.
    """
    candidates = (PACKAGE / "kernels", PACKAGE.parent / "kernels")
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise NetcError(
        "the CUDA kernels of netc are missing",
        expected=" or ".join(str(folder) for folder in candidates),
        remedy="install netc again: its files are not complete",
    )
