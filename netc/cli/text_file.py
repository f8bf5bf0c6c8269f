"""Writes the text files that commands make: whole or not at all."""

from __future__ import annotations

import os


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """The text, with a line break at its end. Raises NetcError where it cannot be written."""
    from netc.schema.atomic import replacing

    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text.rstrip("\n") + "\n")
