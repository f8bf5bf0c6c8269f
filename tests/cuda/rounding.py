"""fp32 numbers rounded to what tensor cores multiply, by the name of the math mode."""

from __future__ import annotations

import numpy as np


def tf32(x: np.ndarray) -> np.ndarray:
    """To 10 bits of mantissa, ties away from zero."""
    return ((x.view(np.uint32) + 0x1000) & np.uint32(0xFFFFE000)).view(np.float32)


def bf16(x: np.ndarray) -> np.ndarray:
    """To 7 bits of mantissa, ties to even."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def fp16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float32)


ROUNDED = {"fp32": np.asarray, "tf32": tf32, "bf16": bf16, "fp16": fp16}
