"""Whether a file is HDF5: by its first bytes to read it, by its name to write it."""

from __future__ import annotations

import os
from typing import Final

from netc.schema.reading import open_file

HDF5_SUFFIXES: Final = (".h5", ".hdf5")
SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as HDF5 does. Raises NetcError where it cannot be read."""
    with open_file(path) as file:
        return file.read(len(SIGNATURE)) == SIGNATURE
