"""The parameters' update on the device: the table of kernels/update.cu, its chunks, scalars and launches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.cuda.device import Device
from netc.backends.cuda.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.memory import Memory

# UpdateChunk and UpdateScalars of kernels/update.cu.
CHUNK = np.dtype(
    [("start", "i8"), ("count", "i4"), ("rate_multiplier", "f4"), ("decay", "f4"), ("unused", "i4")]
)
SCALARS = np.dtype([("rate", "f4"), ("gradient_scale", "f4"), ("correction", "f4"), ("norm", "f4")])
CHUNK_ELEMENTS = 8192  # four sweeps of a block, each thread taking four floats and more

# Solver type: the structure of update.cu, and how many history arrays it has.
RULES = {
    "SGD": ("Sgd", 1),
    "Nesterov": ("Nesterov", 1),
    "AdaGrad": ("AdaGrad", 1),
    "RMSProp": ("RmsProp", 1),
    "AdaDelta": ("AdaDelta", 2),
    "Adam": ("Adam", 2),
}


def _variant(type_: str, l1: bool, pack: int) -> Variant:
    expression = f"update<{RULES[type_][0]}, {str(l1).lower()}, {pack}>"
    return Variant(f"update {type_} {'L1' if l1 else 'L2'} pack {pack}", "update.cu", expression, THREADS)


VARIANTS = {
    (type_, l1, pack): _variant(type_, l1, pack) for type_ in RULES for l1 in (False, True) for pack in PACKS
}
SQUARE_SUMS = {
    pack: Variant(f"square_sums pack {pack}", "update.cu", f"square_sums<{pack}>", THREADS) for pack in PACKS
}
CLIP_GRADIENTS = Variant("clip_gradients", "update.cu", "clip_gradients", THREADS)


@dataclass(frozen=True)
class UpdateConstants:
    """What stays the same over a training; `momentum2` is RMSProp's rms_decay."""

    momentum: float = 0.0
    momentum2: float = 0.0
    delta: float = 0.0
    l1: bool = False


def chunks_of(runs: Iterable[tuple[int, int, float, float]]) -> np.ndarray:
    """Cuts runs (start, count, rate multiplier, decay) of the arena into chunks, as the kernel reads them."""
    rows = [
        (start + done, min(CHUNK_ELEMENTS, count - done), multiplier, decay, 0)
        for start, count, multiplier, decay in runs
        for done in range(0, count, CHUNK_ELEMENTS)
    ]
    return np.array(rows, CHUNK)


def update(
    device: Device,
    type_: str,
    constants: UpdateConstants,
    chunks: np.ndarray,
    chunk_memory: Memory,
    scalars: Memory,
    data: Memory,
    gradient: Memory,
    history: Sequence[Memory],
) -> None:
    """One update of all parameters. `chunk_memory` holds `chunks`, `scalars` one SCALARS.

    The gradients are left holding the updates.
    """
    if not len(chunks):
        return
    aligned = all(start % PACKS[0] == 0 for start in chunks["start"])
    pack = pack_of(data, gradient, *history) if aligned else 1
    kernel = device.load(VARIANTS[type_, constants.l1, pack])
    first, second = (*history, None)[:2]
    numbers = (np.float32(constants.momentum), np.float32(constants.momentum2), np.float32(constants.delta))
    arguments = (chunk_memory, scalars, data, gradient, first, second, *numbers)
    device.launch(kernel, (len(chunks),), (THREADS,), arguments)


def clip_gradients(
    device: Device, gradient: Memory, sums: Memory, scalars: Memory, most: float, scale: float
) -> None:
    """Sets `gradient_scale` in the scalars: `scale`, less where the L2 norm of the gradients is above `most`.

    A negative `most` clips nothing. `sums` is room for a double for each block of `blocks_for(...)`.
    """
    count, pack = gradient.nbytes // FLOAT_BYTES, pack_of(gradient)
    blocks = blocks_for(device, count, pack)
    kernel = device.load(SQUARE_SUMS[pack])
    device.launch(kernel, (blocks,), (THREADS,), (np.int64(count), gradient, sums))
    arguments = (np.int32(blocks), sums, np.float32(most), np.float32(scale), scalars)
    device.launch(device.load(CLIP_GRADIENTS), (1,), (THREADS,), arguments)
