"""How an encoded image becomes pixels: as it is stored, in grey, or in colour. OpenCV's numbers, without
OpenCV."""

from __future__ import annotations

from typing import Final

IMREAD_UNCHANGED: Final = -1
IMREAD_GRAYSCALE: Final = 0
IMREAD_COLOR: Final = 1
