"""Kernel sources as text: a file with all it includes, and a digest that changes when any of it does."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from netc.errors import Location, NetcError

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def read_source(path: Path) -> str:
    """The text of a source file. Raises NetcError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NetcError(f"cannot read the kernel source: {error.strerror}", at=Location(str(path))) from error


def included_files(path: Path, folders: Sequence[Path]) -> dict[Path, str]:
    """The file and everything that it includes by a quoted name, each with its text.

    A name is looked up beside the file that includes it, then in `folders`; one that is found nowhere is left
    to the compiler, since it may stand in a branch that is not compiled.
    """
    texts: dict[Path, str] = {}
    waiting = [path.resolve()]
    while waiting:
        here = waiting.pop()
        if here in texts:
            continue
        texts[here] = read_source(here)
        for name in INCLUDE.findall(texts[here]):
            candidates = (folder / name for folder in (here.parent, *folders))
            found = next((candidate for candidate in candidates if candidate.is_file()), None)
            if found is not None:
                waiting.append(found.resolve())
    return texts


def digest(*parts: object) -> str:
    """Sixteen hexadecimal digits that stand for the parts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def source_digest(path: Path, folders: Sequence[Path], *more: object) -> str:
    """The digest of a source file, of all that it includes, and of what else decides its compilation."""
    texts = included_files(path, folders)
    return digest([texts[name] for name in sorted(texts)], *more)
