"""`netc version`: the versions of netc and of what it stands on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from netc.cli.command import Command
from netc.cli.flags import Flags
from netc.version import __version__

DISTRIBUTIONS = ("numpy", "protobuf", "lmdb", "h5py", "opencv-python-headless")


def run(flags: Flags) -> int:
    """Prints one line: what a report of a defect should carry."""
    parts = [f"{name} {_version(name)}" for name in DISTRIBUTIONS]
    print(f"netc {__version__} (Python {platform.python_version()}, {', '.join(parts)})")
    return 0


def _version(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"


COMMAND = Command("version", "show the versions of netc and its libraries", run, usage="", logs=False)
