"""The parameters' update on the device: the table of kernels/update.cu, its chunks, scalars and launches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.clipping import clip_scale
from netc.backends.cuda.device import Device, Graph
from netc.backends.cuda.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.memory import Memory
from netc.backends.update_spec import UpdateSpec

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


class DeviceUpdate:
    """A solver's update, bound to the arenas: recorded the second time it runs, replayed from then on."""

    def __init__(
        self, device: Device, spec: UpdateSpec, data: Memory, grad: Memory, history: Sequence[Memory]
    ) -> None:
        self._device, self._spec = device, spec
        self._arrays = (data, grad, history)
        self._constants = UpdateConstants(spec.momentum, spec.momentum2, spec.delta, spec.l1)
        self._chunks = chunks_of(spec.runs)
        self._chunk_memory = device.allocate(max(self._chunks.nbytes, 1), "update chunks")
        device.upload(self._chunk_memory, self._chunks)
        self._scalars = device.allocate(SCALARS.itemsize, "update scalars")
        blocks = blocks_for(device, grad.nbytes // FLOAT_BYTES, 1)
        self._sums = device.allocate(blocks * np.dtype(np.float64).itemsize, "sums of squares")
        self._values = np.zeros(1, SCALARS)
        self._warm = False
        self._graph: Graph | None = None

    def apply(self, iteration: int, rate: float) -> None:
        """One update; `iteration` were made before, `rate` is the learning rate of this one."""
        self._values[0] = (rate, 1 / self._spec.iter_size, self._correction(iteration + 1), 0)
        self._device.upload(self._scalars, self._values)
        self._run_recorded()
        if self._spec.clip >= 0:
            norm = float(self._device.download(self._scalars, self._values)[0]["norm"])
            clip_scale(norm, self._spec.clip)

    def apply_scaled(self, iteration: int, rate: float, scale: float) -> bool:
        """The same for gradients that are `scale` times too large; False, and nothing is changed, where one
        of them is not a finite number. The host decides: it waits for the norm."""
        spec, (_, grad, _) = self._spec, self._arrays
        clip_gradients(self._device, grad, self._sums, self._scalars, -1, 1)
        norm = float(self._device.download(self._scalars, self._values)[0]["norm"]) / scale
        if not math.isfinite(norm):
            return False
        clipped = clip_scale(norm, spec.clip) if spec.clip >= 0 else 1.0
        gradient_scale = clipped / (spec.iter_size * scale)
        self._values[0] = (rate, gradient_scale, self._correction(iteration + 1), norm)
        self._device.upload(self._scalars, self._values)
        self._update()
        return True

    def _run_recorded(self) -> None:
        if self._graph is None and self._warm:
            with self._device.capture() as graphs:
                self._run()
            self._graph = graphs[0]
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()
            self._warm = True

    def _run(self) -> None:
        spec, (_, grad, _) = self._spec, self._arrays
        if spec.clip >= 0:
            clip_gradients(self._device, grad, self._sums, self._scalars, spec.clip, 1 / spec.iter_size)
        self._update()

    def _update(self) -> None:
        data, grad, history = self._arrays
        update(
            self._device, self._spec.type, self._constants, self._chunks, self._chunk_memory, self._scalars,
            data, grad, history,
        )  # fmt: skip

    def _correction(self, t: int) -> float:
        """Adam's, of the bias of its averages after t updates."""
        if self._spec.type != "Adam":
            return 1.0
        return math.sqrt(1 - self._spec.momentum2**t) / (1 - self._spec.momentum**t)
