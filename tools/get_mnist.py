"""Fetches MNIST, or takes it from disk, and makes lists and LMDBs of it in build/mnist."""

from __future__ import annotations

import argparse
import gzip
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from download import DownloadError, RemoteFile, fetch_all
from image_sets import ImageSetError, LabelledImages, build_databases, image_tree
from netc.errors import NetcError

CLASSES = tuple("0123456789")
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
FILES = tuple(
    RemoteFile(name, digest, tuple(mirror + name for mirror in MIRRORS)) for name, digest in SHA256.items()
)
PREFIXES = {"train": "train", "test": "t10k"}


def read_arrays(folder: Path) -> dict[str, LabelledImages]:
    """Both splits from the IDX files in `folder` or below, compressed or not."""
    return {
        split: LabelledImages(
            read_idx(find_file(folder, f"{prefix}-images?idx3-ubyte")),
            read_idx(find_file(folder, f"{prefix}-labels?idx1-ubyte")),
        )
        for split, prefix in PREFIXES.items()
    }


def find_file(folder: Path, pattern: str) -> Path:
    """The file of this name, with or without .gz. Raises ImageSetError if there is none."""
    for path in sorted(folder.rglob(pattern + "*")):
        if path.is_file() and path.suffix != ".part":
            return path
    raise ImageSetError(
        f"{folder} holds neither train/<class> and test/<class> folders nor a file {pattern}[.gz]"
    )


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file: two zero bytes, the type, the number of axes, their sizes, values."""
    try:
        body = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ImageSetError(f"{path} cannot be read: {error}") from error
    if len(body) < 4 or body[:3] != b"\0\0\x08":
        raise ImageSetError(f"{path} is no IDX file of bytes: it begins with {body[:4].hex()}")
    axes = body[3]
    begin = 4 + 4 * axes
    shape = struct.unpack(f">{axes}I", body[4:begin]) if len(body) >= begin else ()
    values = np.frombuffer(body, np.uint8, offset=min(begin, len(body)))
    if not shape or values.size != np.prod(shape, dtype=np.int64):
        raise ImageSetError(f"{path} is cut short or damaged: {values.size} values for the shape {shape}")
    return values.reshape(shape)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="a folder or tar on disk: the four IDX files, or images as train/<0..9>/* and test/<0..9>/*",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/mnist"), help="where everything goes (%(default)s)"
    )
    arguments = parser.parse_args()
    try:
        source = arguments.source
        if source is None:
            source = arguments.out / "download"
            fetch_all(FILES, source)
        tree = image_tree(source, arguments.out, CLASSES, read_arrays)
        build_databases("mnist", tree, arguments.out, CLASSES, ["-gray"])
    except (DownloadError, ImageSetError, NetcError) as error:
        print(f"get_mnist: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
