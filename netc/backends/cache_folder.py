"""Where compiled kernels are kept between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """The folder for one kind of compiled files, made where there is none yet.

    `NETC_CACHE_DIR` names the folder above it; without it, the user's cache folder (`XDG_CACHE_HOME`, else
    `~/.cache`) is taken, and where that cannot be written, one of this user's in the temporary folder.
    """
    named = os.environ.get("NETC_CACHE_DIR")
    if named:
        return _make(Path(named) / kind)
    above = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    try:
        folder = _make(Path(above) / "netc" / kind)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except OSError:
        pass
    # Others can write into the temporary folder: what is loaded from there must be this user's alone.
    private = Path(tempfile.gettempdir()) / f"netc-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid() or private.is_symlink():
        private = Path(tempfile.mkdtemp(prefix="netc-"))
    return _make(private / kind)


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
