"""netc: Caffe's nets, files and commands, compiled into a fixed program of kernels.

Importing the package loads nothing; each public name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from netc.version import __version__

PUBLIC_NAMES = {
    "Net": "netc.runtime.net",
    "NetcError": "netc.errors",
    "NetcErrors": "netc.errors",
}

__all__ = ["__version__", *PUBLIC_NAMES]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC_NAMES:
        raise AttributeError(f"module 'netc' has no attribute {name!r}")
    value = getattr(import_module(PUBLIC_NAMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC_NAMES})
