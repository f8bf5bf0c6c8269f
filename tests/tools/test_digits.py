"""The shipped sample: complete, readable, and made as its tool makes it."""

from __future__ import annotations

import lzma
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import make_digits

ARCHIVE = Path(make_digits.DEFAULT_TARGET)


def test_the_sample_holds_1797_gray_images_of_17_levels_in_class_folders() -> None:
    levels = {round(value * 255 / 16) for value in range(17)}
    counts: Counter[tuple[str, str]] = Counter()
    with tarfile.open(ARCHIVE) as archive:
        for entry in archive:
            split, label, _ = entry.name.split("/")
            counts[split, label] += 1
            image = cv2.imdecode(
                np.frombuffer(archive.extractfile(entry).read(), np.uint8), cv2.IMREAD_UNCHANGED
            )
            assert image.shape == (8, 8)
            assert set(image.ravel().tolist()) <= levels
    assert sum(counts.values()) == 1797
    assert sorted(counts) == [(split, str(digit)) for split in ("test", "train") for digit in range(10)]
    assert sum(count for (split, _), count in counts.items() if split == "test") == 355


def test_the_same_images_give_the_same_archive() -> None:
    images = np.random.default_rng(0).integers(0, 17, (30, 8, 8)).astype(float)
    files = list(make_digits.digit_files(images, np.arange(30) % 3))
    packed = make_digits.archive_bytes(files)
    assert packed == make_digits.archive_bytes(files[::-1])
    assert [name for name, _ in files if name.startswith("test")] == [
        f"test/{i % 3}/{i:04d}.png" for i in range(12, 15)
    ] + [f"test/{i % 3}/{i:04d}.png" for i in range(27, 30)]


def test_the_sample_is_what_the_tool_makes_of_scikit_learns_copy() -> None:
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="only the tool that makes the sample needs scikit-learn"
    )
    digits = datasets.load_digits()
    made = make_digits.archive_bytes(list(make_digits.digit_files(digits.images, digits.target)))
    assert lzma.decompress(made) == lzma.decompress(ARCHIVE.read_bytes())
