"""A GPU, or the emulator in its place: device memory, hand-written kernels, recorded work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np

from netc.backends.backend import Backend
from netc.backends.cuda.device import Device
from netc.backends.cuda.device.arrays import empty_like, in_memory_order, is_turned
from netc.backends.cuda.device.form import fits
from netc.backends.cuda.device.host_views import HostViews
from netc.backends.cuda.families import FORMS
from netc.backends.cuda.iteration.batches import BatchFeed, Pinned, can_send
from netc.backends.cuda.iteration.feeding import ImageFeed, Staging, can_feed
from netc.backends.cuda.iteration.journal import DeviceJournal
from netc.backends.cuda.iteration.recording import record_steps
from netc.backends.cuda.iteration.update import DeviceUpdate
from netc.backends.cuda.layers.reorder import ReorderForm
from netc.backends.cuda.tuning.timings import sources_of_all_kernels
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.backends.journal import Journal
from netc.backends.step import Step
from netc.backends.update_spec import Update, UpdateSpec
from netc.data import Source
from netc.errors import NetcError
from netc.graph import Node
from netc.layer import Array, Shape
from netc.layer.base import count

TENSOR_CORES: Final = 80  # the least architecture whose tensor cores the convolutions use


class CudaBackend(Backend):
    """Nets on one device."""

    maths = ("fp32", "tf32", "bf16", "fp16")
    scaled_maths = ("fp16",)

    def __init__(self, device: Device, math: str = "fp32", deterministic: bool = False) -> None:
        self.device = device
        self.name = device.properties.name
        self.xp = device.xp
        super().__init__(math, deterministic)
        self.rehearses = device.has_clock and not deterministic  # many kernels are compiled to be timed
        self.compares_layouts = device.has_clock
        self._views = HostViews(device)
        self._stagings: WeakKeyDictionary[Source, Staging] = WeakKeyDictionary()
        self._pinned: WeakKeyDictionary[Source, Pinned] = WeakKeyDictionary()

    @property
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        return FORMS

    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        return maker(nodes, mode, self.device)

    def layouts(self, keep_all: bool) -> Sequence[str]:
        on_tensor_cores = self.math != "fp32" and self.device.properties.architecture >= TENSOR_CORES
        return (PLAIN, NHWC) if on_tensor_cores and not keep_all else (PLAIN,)

    def layout_facts(self) -> Sequence[str]:
        properties = self.device.properties
        return properties.model, str(properties.architecture), sources_of_all_kernels()

    def lie_alike(self, shape: Shape, one: str, other: str) -> bool:
        return one == other or (len(shape) == 4 and 1 in (shape[1], count(shape[2:])))

    def reorder(self, node: Node, served: Node) -> Form:
        return ReorderForm(node, served, self.device) if fits((node,)) else super().reorder(node, served)

    def allocate(self, nbytes: int, name: str = "memory") -> Array:
        return self.device.allocate_array(nbytes, name)

    def free_bytes(self) -> int:
        return self.device.free_bytes()

    def out_of_memory(self, planned: int, free: int) -> NetcError:
        return self.device.out_of_memory(planned, free)

    def read(self, array: Array) -> np.ndarray:
        values = empty_like(array)
        self.device.download(self.device.memory_of(array), in_memory_order(values))
        return values

    def write(self, array: Array, values: np.ndarray) -> None:
        converted = np.broadcast_to(np.asarray(values, array.dtype), array.shape)
        turned = converted.transpose(0, 2, 3, 1) if is_turned(array) else converted
        self.device.upload(self.device.memory_of(array), np.ascontiguousarray(turned))

    def synchronise(self) -> None:
        self.device.synchronise()

    def view(self, array: Array) -> np.ndarray:
        return self._views.view(array)

    def push(self) -> None:
        self._views.push()

    def active(self) -> AbstractContextManager[None]:
        return self.device.active()

    def preparing(self) -> AbstractContextManager[None]:
        return self.device.loading_together()

    def record(self, steps: Sequence[Step]) -> Sequence[Step]:
        return record_steps(self.device, steps)

    def trace(self, step: Step) -> Sequence[str]:
        with self.device.tracing() as pieces:
            step.run()
        return pieces

    def feed(self, source: Source, tops: Sequence[Array]) -> Run | None:
        if source.raw is not None and can_feed(source.raw, tops):
            if source not in self._stagings:
                self._stagings[source] = Staging(self.device, source.raw)
            return ImageFeed(self._stagings[source], source, tops, self.write)
        if not can_send(tops):
            return None
        return BatchFeed(self._pinned.setdefault(source, Pinned(self.device)), source, tops)

    def make_update(
        self,
        spec: UpdateSpec,
        data: Array,
        grad: Array,
        history: Sequence[Array],
        loss_scale: Array | None = None,
    ) -> Update | None:
        if data.dtype != np.float32 or not data.size:
            return None
        memory_of = self.device.memory_of
        arrays = [memory_of(array, f"history {index}") for index, array in enumerate(history)]
        scale = None if loss_scale is None else memory_of(loss_scale, "loss scale")
        return DeviceUpdate(
            self.device, spec, memory_of(data, "parameters"), memory_of(grad, "gradients"), arrays, scale
        )

    def make_journal(self, width: int, notes: Sequence[Array] = ()) -> Journal:
        return DeviceJournal(self.device, width, notes)

    def close(self) -> None:
        self._views.forget()

    def __repr__(self) -> str:
        return f"CudaBackend({self.name})"
