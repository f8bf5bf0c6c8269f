"""Layers that read neither bottoms nor files: the caller fills an Input, DummyData fills its tops itself."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from netc.layer.base import Arity, Buffers, Layer, Scratch, Shape
from netc.layer.filler import fill
from netc.layer.random import stream
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb

LEGACY_DIMS = ("num", "channels", "height", "width")


@register
class Input(Layer):
    """Tops that the caller fills before forward; `shape` once for all of them, or once for each."""

    type = "Input"
    options_field = "input_param"
    bottoms = Arity(0)
    tops = Arity(1, None)
    differentiable = False

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        return each_top(self, "shape", [tuple(shape.dim) for shape in self.options.shape])

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the tops hold what the caller put there."""

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: there are no bottoms."""


@register
class DummyData(Layer):
    """Tops filled by `data_filler` (zeros without one), those of a random filler anew in every forward pass.

    The shapes are in `shape`, or in the older `num`, `channels`, `height` and `width`; each option is stated
    once for all tops, or once for each.
    """

    type = "DummyData"
    options_field = "dummy_data_param"
    bottoms = Arity(0)
    tops = Arity(1, None)
    differentiable = False

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        fillers = list(self.options.data_filler) or [pb.FillerParameter(type="constant")]
        self.fillers = each_top(self, "data_filler", fillers)
        self.states = {"draws": Scratch((1,), np.int64)}
        self.decides_on_host = any(filler.type != "constant" for filler in self.fillers)
        legacy = [name for name in LEGACY_DIMS if len(getattr(self.options, name))]
        if not legacy:
            return each_top(self, "shape", [tuple(shape.dim) for shape in self.options.shape])
        if len(self.options.shape):
            raise self.error(f"both shape and {legacy[0]} are stated", legacy[0], remedy="keep shape")
        dims = [each_top(self, name, list(getattr(self.options, name))) for name in LEGACY_DIMS]
        return list(zip(*dims, strict=True))

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        draws = b.states["draws"]
        for i, (filler, top) in enumerate(zip(self.fillers, b.tops, strict=True)):
            if filler.type == "constant":
                top[...] = filler.value
            else:
                rng = stream(np, self.seed, f"{self.name}/{i}", int(draws[0]))
                top[...] = xp.asarray(fill(filler, top.shape, rng, top.dtype))
        draws += 1

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: there are no bottoms."""


def each_top(layer: Layer, option: str, values: Sequence[Any]) -> list[Any]:
    """One value for each top, from an option that is stated once for all tops or once for each."""
    tops = len(layer.spec.top)
    if len(values) not in (1, tops):
        raise layer.error(
            f"{option} must be stated once, or once for each top",
            option,
            expected=f"1 or {tops}" if tops > 1 else 1,
            found=len(values),
            remedy=f"state {option} for every top" if values else f"state {option}",
        )
    return list(values) * tops if len(values) == 1 else list(values)
