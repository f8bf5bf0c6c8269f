"""The folder of reference nets that NETC_REFERENCE names: others' models, no part of the project."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

VARIABLE = "NETC_REFERENCE"


def folder() -> Path:
    return Path(os.environ[VARIABLE])


def every_file(pattern: str) -> list[Any]:
    """The paths that match in the folder, as test parameters; one skipped parameter without the folder."""
    if not os.environ.get(VARIABLE):
        skip = pytest.mark.skip(reason=f"{VARIABLE} names no folder of reference nets")
        return [pytest.param(Path(pattern), marks=skip, id=pattern)]
    paths = sorted(folder().glob(pattern))
    if not paths:
        raise FileNotFoundError(f"{VARIABLE}={folder()} holds no {pattern}")
    return [pytest.param(path, id=path.name.partition(".")[0]) for path in paths]
