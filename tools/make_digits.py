"""Makes models/digits/digits.tar.xz, the shipped sample, from the copy of the set that scikit-learn carries.

The archive holds train/<digit>/NNNN.png and test/<digit>/NNNN.png: 8x8 gray images, the values 0..16 of the
set stretched to 0..255, NNNN the place in the set. Every fifth image of each digit is a test image. The same
input gives the same bytes: times, owners and order are fixed, and the PNG files are stored uncompressed (the
archive compresses them together).
"""

from __future__ import annotations

import argparse
import io
import lzma
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DARKEST = 16  # the largest value in the set
TEST_EVERY = 5
DEFAULT_TARGET = Path(__file__).resolve().parents[1] / "models" / "digits" / "digits.tar.xz"


def png_bytes(image: np.ndarray) -> bytes:
    """An 8-bit gray PNG of a (height, width) uint8 image, with its rows stored uncompressed."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 0)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def digit_files(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """The name in the archive and the bytes of each image; images are (count, 8, 8) with values 0..16."""
    seen: Counter[int] = Counter()
    for place, (image, label) in enumerate(zip(images, labels, strict=True)):
        seen[int(label)] += 1
        part = "test" if seen[int(label)] % TEST_EVERY == 0 else "train"
        pixels = np.rint(image * (255 / DARKEST)).astype(np.uint8)
        yield f"{part}/{label}/{place:04d}.png", png_bytes(pixels)


def archive_bytes(files: list[tuple[str, bytes]]) -> bytes:
    """A .tar.xz of the files, in the order of their names, without times and owners."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, body in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", nargs="?", type=Path, default=DEFAULT_TARGET)
    target = parser.parse_args().target

    from sklearn.datasets import load_digits  # only the making of the sample needs it

    digits = load_digits()
    body = archive_bytes(list(digit_files(digits.images, digits.target)))
    target.write_bytes(body)
    print(f"{target}: {len(digits.target)} images, {len(body)} bytes")


if __name__ == "__main__":
    main()
