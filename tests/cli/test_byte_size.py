"""Sizes of memory as people write them."""

from __future__ import annotations

import re

import pytest

from netc.cli.byte_size import read_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000000", 2_000_000),
        ("512B", 512),
        ("512KB", 512_000),
        ("1.5GB", 1_500_000_000),
        ("2 mb", 2_000_000),
        (".5MiB", 524_288),
        ("3GiB", 3 * 2**30),
        ("1tib", 2**40),
    ],
)
def test_units_of_1000_and_of_1024(text: str, expected: int) -> None:
    assert read_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1GB", "0", "0.2B", "1.2.3MB", "2GiBs", "nan", "1e9"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(text) + "$"):
        read_bytes(text)
