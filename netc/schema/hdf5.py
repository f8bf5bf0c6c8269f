"""HDF5 files opened with care: what is no HDF5 file, or is damaged, is a NetcError that names the file."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from netc.errors import NetcError
from netc.schema.blobs import FLOAT, Array
from netc.schema.reading import open_file
from netc.schema.stored import pieces

log = logging.getLogger(__name__)

# What h5py and the library below it raise on damage.
DAMAGE = (
    OSError,
    KeyError,
    ValueError,
    RuntimeError,
    TypeError,
    OverflowError,
    MemoryError,
    AttributeError,
    SystemError,
)
HIGHEST_COMPRESSION = 2000
"""No filter packs numbers more tightly (deflate reaches 1032): a data set that claims more is damaged."""
PIECE = 1 << 24
"""Bytes converted at a time: of a data set that is not float32, and so passes through memory of its own."""
PROBE_SECONDS = 5
PROBE_BYTES_PER_SECOND = 50_000_000

# The program finds its modules where this process does, whatever the folder it is started in.
_PROBE = """import sys
path, seconds, sys.path[:] = sys.argv[1], sys.argv[2], sys.argv[3:]
from netc.schema.hdf5_probe import main
sys.exit(main(path, seconds))
"""
_probed: set[tuple[int, int, int, int]] = set()


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The `h5py.File`, open to be read; damage met in the block becomes a NetcError.

    The file is first read by `probe_hdf5`, so that no damage can take this process down.
    """
    probe_hdf5(path)
    with damage_named(path), h5py.File(path, "r") as file:
        yield file


@contextmanager
def damage_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """What the HDF5 library raises in the block becomes a NetcError that names the file."""
    try:
        yield
    except DAMAGE as error:
        raise _damage_error(path, (str(error) or type(error).__name__).splitlines()[0]) from error


def probe_hdf5(path: str | os.PathLike[str]) -> None:
    """Reads the whole file in a process of its own, once for each version of it that this process meets.

    A few flipped bits can send the HDF5 library into an endless loop; it is not this process that dies of it.
    Raises NetcError where the file cannot be read.
    """
    with open_file(path) as file:
        status = os.fstat(file.fileno())
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _probed or not sys.executable:
        return
    seconds = PROBE_SECONDS + status.st_size // PROBE_BYTES_PER_SECOND
    folders = [folder or os.getcwd() for folder in sys.path]
    command = [sys.executable, "-c", _PROBE, os.path.abspath(path), str(seconds), *folders]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    reason = done.stdout.decode("utf-8", "replace")
    if done.returncode < 0 or (done.returncode and reason):
        raise _damage_error(path, reason or _ending(-done.returncode, seconds))
    if done.returncode:
        trouble = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        log.warning("%s is read without a trial in another process: %s", os.fspath(path), trouble)
    _probed.add(identity)


def check_dataset(dataset: Any) -> None:
    """Raises ValueError where it is no data set of numbers, or claims more than its file can hold."""
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError("a data set is missing")
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise ValueError(f"{dataset.name} holds no numbers")
    stored, claimed = dataset.id.get_storage_size(), dataset.size * dataset.dtype.itemsize
    if claimed > stored * (HIGHEST_COMPRESSION if dataset.id.get_create_plist().get_nfilters() else 1):
        raise ValueError(f"{dataset.name} claims {claimed} bytes where {stored} are stored")


def read_dataset(dataset: Any) -> npt.NDArray[Any]:
    """All of a data set of numbers. Raises ValueError as `check_dataset` does."""
    check_dataset(dataset)
    return np.asarray(dataset[()])


def read_float_dataset(dataset: Any) -> Array:
    """A data set as float32, whatever numbers it holds."""
    return np.asarray(read_dataset(dataset), dtype=np.float32, order="C")


def read_dataset_into(dataset: Any, target: Any) -> None:
    """Fills a contiguous array of as many elements with a checked data set's numbers, as float32.

    What lies in the file as it should lie in memory is read there; the rest in pieces, through float32.
    """
    if target.size != dataset.size or not target.flags.c_contiguous:
        raise ValueError(f"{dataset.name} does not fit into an array of shape {tuple(target.shape)}")
    flat = target.reshape(-1)
    if isinstance(target, np.ndarray) and dataset.dtype == target.dtype == np.float32:
        if target.size:
            dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, flat.reshape(dataset.shape))
        return
    at = 0
    for piece in pieces(dataset.shape, PIECE // max(dataset.dtype.itemsize, FLOAT.itemsize)):
        values = np.asarray(dataset[piece], np.float32).reshape(-1)
        flat[at : at + values.size] = values
        at += values.size
        del values  # before the next piece is read


def numbered_datasets(group: Any) -> dict[int, Any]:
    """The data sets of a group that are named 0, 1, 2, ..., by number."""
    names = [name for name in group if name.isascii() and name.isdigit()]
    found = {int(name): group.get(name) for name in sorted(names, key=int)}
    return {number: item for number, item in found.items() if isinstance(item, h5py.Dataset)}


def _damage_error(path: str | os.PathLike[str], reason: str) -> NetcError:
    return NetcError(
        f"the HDF5 file cannot be read: {reason}",
        at=os.fspath(path),
        remedy="it may be cut short or damaged: use another copy",
    )


def _ending(number: int, seconds: int) -> str:
    """What the signal that ended the probe says."""
    if number in (signal.SIGXCPU, signal.SIGALRM):
        return f"the HDF5 library did not come to an end in {seconds} s"
    return f"the HDF5 library died of {signal.Signals(number).name}"
