"""Random streams on the device: a layer's key in them, and the kernel that moves its draw counter on."""

from __future__ import annotations

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.launching.launch import Launch
from netc.layer import Layer
from netc.layer.random import key_of

DRAWN = 8  # numbers that one call of kernels/stream.cuh gives
VARIANTS = {"advance": Variant("advance_draw", "stream.cu", "advance_draw", 1)}


def stream_key(layer: Layer) -> tuple[np.uint64, np.uint64]:
    """The seed and the name by which kernels draw from the stream that layer/random.py has for this layer."""
    seed, name = key_of(layer.seed, layer.name)
    return np.uint64(seed), np.uint64(name)


def advance_draw(device: Device, draw: Memory) -> Launch:
    """Adds 1 to the number of a layer's next draw, an int64."""
    return Launch.of(device, VARIANTS["advance"], (1,), (draw,))
