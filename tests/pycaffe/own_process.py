"""Runs code in a process of its own, where nothing of netc has been imported yet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import netc


def run_python(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code that finds modules in a folder first."""
    places = [str(place) for place in (folder, Path(netc.__file__).parents[1]) if place]
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
