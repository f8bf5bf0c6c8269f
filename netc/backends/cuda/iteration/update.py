"""The parameters' update on the device: the table of kernels/update.cu, its chunks, scalars and launches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.clipping import clip_scale
from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Device, Memory
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.loss_scale import LEAST, MOST, PATIENCE
from netc.backends.update_spec import UpdateSpec
from netc.layer import Array

# UpdateChunk and UpdateScalars of kernels/update.cu.
CHUNK = np.dtype(
    [("start", "i8"), ("count", "i4"), ("rate_multiplier", "f4"), ("decay", "f4"), ("unused", "i4")]
)
SCALARS = np.dtype(
    [("rate", "f4"), ("gradient_scale", "f4"), ("correction", "f4"), ("norm", "f4"), ("overflowed", "i4")]
)
NOTED = [(SCALARS.names or ()).index(name) for name in ("norm", "overflowed")]  # for the host
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


UPDATE = {
    (type_, l1, pack): _variant(type_, l1, pack) for type_ in RULES for l1 in (False, True) for pack in PACKS
}
SQUARE_SUMS = {
    pack: Variant(f"square_sums pack {pack}", "update.cu", f"square_sums<{pack}>", THREADS) for pack in PACKS
}
CLIP_GRADIENTS = Variant("clip_gradients", "update.cu", "clip_gradients<>", THREADS)
VARIANTS = (*UPDATE.values(), *SQUARE_SUMS.values(), CLIP_GRADIENTS)


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
    kernel = device.load(UPDATE[type_, constants.l1, pack])
    first, second = (*history, None)[:2]
    numbers = (np.float32(constants.momentum), np.float32(constants.momentum2), np.float32(constants.delta))
    arguments = (chunk_memory, scalars, data, gradient, first, second, *numbers)
    device.launch(kernel, (len(chunks),), (THREADS,), arguments)


def clip_gradients(
    device: Device,
    gradient: Memory,
    sums: Memory,
    scalars: Memory,
    most: float,
    scale: float,
    loss_scale: Memory | None = None,
) -> None:
    """Sets `gradient_scale` in the scalars: `scale`, less where the L2 norm of the gradients is above `most`.

    A negative `most` clips nothing. loss_scale: a LossScale of kernels/update.cu; with one, `overflowed`
    tells whether some gradients are not finite, and it is moved on to that of the next pass. `sums` is room
    for a double for each block of `blocks_for(...)`.
    """
    count, pack = gradient.nbytes // FLOAT_BYTES, pack_of(gradient)
    blocks = blocks_for(device, count, pack)
    kernel = device.load(SQUARE_SUMS[pack])
    device.launch(kernel, (blocks,), (THREADS,), (np.int64(count), gradient, sums))
    limits = (np.float32(LEAST), np.float32(MOST), np.float32(PATIENCE))
    numbers = (np.float32(most), np.float32(scale))
    arguments = (np.int32(blocks), sums, *numbers, loss_scale, *limits, scalars)
    device.launch(device.load(CLIP_GRADIENTS), (1,), (THREADS,), arguments)


class DeviceUpdate:
    """A solver's update, bound to the arenas. What changes from one to the next lies in device memory, and
    the device decides itself how far to clip, whether to leave an update out, and how the loss is scaled.

    notes: the gradients' norm, and whether they have overflowed, where somebody wants to know.
    """

    capturable = True

    def __init__(
        self,
        device: Device,
        spec: UpdateSpec,
        data: Memory,
        grad: Memory,
        history: Sequence[Memory],
        loss_scale: Memory | None = None,
    ) -> None:
        """loss_scale: how many times too large the gradients are, as `netc.backends.loss_scale` has it."""
        self._device, self._spec = device, spec
        self._arrays = (data, grad, history)
        self._loss_scale = loss_scale
        self._constants = UpdateConstants(spec.momentum, spec.momentum2, spec.delta, spec.l1)
        self._chunks = chunks_of(spec.stretches)
        self._chunk_memory = device.allocate(max(self._chunks.nbytes, 1), "update chunks")
        device.upload(self._chunk_memory, self._chunks)
        self._array = array = device.allocate_array(SCALARS.itemsize, "update scalars")
        self._scalars = device.memory_of(array, "update scalars")
        blocks = blocks_for(device, grad.nbytes // FLOAT_BYTES, 1)
        self._sums = device.allocate(blocks * np.dtype(np.float64).itemsize, "sums of squares")
        self._needs_norm = spec.clip >= 0 or loss_scale is not None
        self.notes: list[Array] = []
        if self._needs_norm:
            numbers = array.view(np.float32)
            self.notes = [numbers[place : place + 1] for place in NOTED]
        self._prepared: tuple[float, float] | None = None

    def prepare(self, iteration: int, rate: float) -> None:
        """`iteration` updates were made before the next, `rate` is its learning rate. Goes up where it has
        changed."""
        changing = rate, self._correction(iteration + 1)
        if changing == self._prepared:
            return
        self._prepared = changing
        self._device.upload(
            self._scalars, np.array([(rate, 1 / self._spec.iter_size, changing[1], 0, 0)], SCALARS)
        )

    def run(self) -> None:
        """One update. May be captured."""
        spec, (data, grad, history) = self._spec, self._arrays
        if self._needs_norm:
            clip_gradients(
                self._device, grad, self._sums, self._scalars, spec.clip, 1 / spec.iter_size, self._loss_scale
            )
        update(
            self._device, spec.type, self._constants, self._chunks, self._chunk_memory, self._scalars, data,
            grad, history,
        )  # fmt: skip

    def outcome(self) -> bool:
        """False where the gradients of a scaled loss have overflowed."""
        if not self._needs_norm:
            return True
        scalars = self._device.download(self._scalars, np.empty(1, SCALARS))[0]
        return self._say_outcome(float(scalars["norm"]), bool(scalars["overflowed"]))

    def outcome_of(self, noted: np.ndarray) -> bool:
        """The same of a run that has left these `notes`."""
        return not len(noted) or self._say_outcome(float(noted[0]), bool(noted[1:].view(np.int32)[0]))

    def _say_outcome(self, norm: float, overflowed: bool) -> bool:
        if not overflowed and self._spec.clip >= 0:
            clip_scale(norm, self._spec.clip)
        return not overflowed

    def _correction(self, t: int) -> float:
        """Adam's, of the bias of its averages after t updates."""
        if self._spec.type != "Adam":
            return 1.0
        return math.sqrt(1 - self._spec.momentum2**t) / (1 - self._spec.momentum**t)
