"""Fetches CIFAR-10, or takes it from disk, and makes lists, LMDBs and the mean image in build/cifar10."""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from download import DownloadError, RemoteFile, fetch
from image_sets import ImageSetError, LabelledImages, build_databases, image_tree, run_netc
from netc.errors import NetcError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
)
SIDE = 32
PIXELS = 3 * SIDE * SIDE
BATCHES = {"train": "data_batch_[1-5]", "test": "test_batch"}

# What the set's Python version is made of; anything else in a pickle could run code.
PICKLED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled arrays, lists and texts, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in CIFAR-10")
        return super().find_class(
            module.replace("numpy.core", "numpy._core") if has_new_core() else module, name
        )


def has_new_core() -> bool:
    """Whether this NumPy has moved numpy.core to numpy._core."""
    return int(np.__version__.split(".")[0]) >= 2


def read_arrays(folder: Path) -> dict[str, LabelledImages]:
    """Both splits from the batch files in `folder` or below, of the set's binary or Python version."""
    splits = {}
    for split, pattern in BATCHES.items():
        binary, pickled = (sorted(folder.rglob(pattern + suffix)) for suffix in (".bin", ""))
        if not binary and not pickled:
            raise ImageSetError(
                f"{folder} holds neither train/<class> and test/<class> folders nor files {pattern}[.bin]"
            )
        parts = [read_binary(path) for path in binary] or [read_pickled(path) for path in pickled]
        splits[split] = joined(parts)
    return splits


def read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The (count, 3072) pixels and (count,) labels of a batch.

    A record is a label byte and the R, G and B planes.
    """
    body = np.fromfile(path, np.uint8)
    if body.size == 0 or body.size % (1 + PIXELS):
        raise ImageSetError(
            f"{path} is cut short or damaged: {body.size} bytes are no multiple of {1 + PIXELS}"
        )
    records = body.reshape(-1, 1 + PIXELS)
    return checked(path, records[:, 1:], records[:, 0])


def read_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The same from a batch of the Python version: a pickled dict of which only plain data is let in."""
    try:
        with path.open("rb") as file:
            batch = ArrayUnpickler(file, encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle may raise anything
        raise ImageSetError(f"{path} is no batch of CIFAR-10: {error}") from error
    return checked(path, pixels, labels)


def checked(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels as they came. Raises ImageSetError if they are not what a batch of CIFAR-10 holds."""
    whole = pixels.shape == (len(labels), PIXELS) and pixels.dtype == np.uint8
    if not whole or labels.dtype.kind not in "iu" or labels.max() >= len(CLASSES) or labels.min() < 0:
        raise ImageSetError(
            f"{path} is damaged: pixels {pixels.dtype}{pixels.shape}, labels up to {labels.max()}"
        )
    return pixels, labels


def joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> LabelledImages:
    """The batches one after the other, their R, G and B planes turned into BGR pixels."""
    planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, SIDE, SIDE)
    images = np.ascontiguousarray(planes[:, ::-1].transpose(0, 2, 3, 1))
    return LabelledImages(images, np.concatenate([labels for _, labels in parts]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="a folder or tar on disk: the binary or the Python version of the set, "
        "or train/<class>/* and test/<class>/* as images",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/cifar10"), help="where everything goes (%(default)s)"
    )
    arguments = parser.parse_args()
    out = arguments.out
    try:
        source = arguments.source or fetch(ARCHIVE, out / "download")
        tree = image_tree(source, out, CLASSES, read_arrays)
        build_databases("cifar10", tree, out, CLASSES)
        run_netc("compute_image_mean", str(out / "cifar10_train_lmdb"), str(out / "mean.binaryproto"))
    except (DownloadError, ImageSetError, NetcError) as error:
        print(f"get_cifar10: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
