"""Runs one layer by itself, for tests: its prototxt and arrays in, tops and gradients out.

It keeps a layer to its word: whatever the class does not declare that backward reads is NaN by then, and a
gradient that nobody wants or gives is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from netc.layer import Buffers, Layer, layer_class
from netc.proto import netc_pb2 as pb

Array = Any


def make_layer(text: str, bottoms: int = 1, phase: int = pb.TRAIN, **options: Any) -> Layer:
    """The layer of a prototxt `layer { ... }` body. Bottoms and tops that it does not name get names."""
    spec = pb.LayerParameter()
    text_format.Parse(text, spec)
    spec.name = spec.name or "layer"
    if not spec.bottom:
        spec.bottom.extend(f"x{i}" for i in range(bottoms))
    kind = layer_class(spec.type)
    if not spec.top:
        spec.top.extend(f"y{i}" for i in range(kind.tops.least))
    return kind(spec, phase, **options)


class OneLayer:
    """A layer with its arrays; running it once runs its forward."""

    def __init__(
        self,
        text: str,
        *bottoms: Any,
        phase: int = pb.TRAIN,
        params: Sequence[Any] = (),
        dtype: Any = np.float32,
    ) -> None:
        self.layer = layer = make_layer(text, len(bottoms), phase, dtype=dtype)
        arrays = [np.array(bottom, dtype) for bottom in bottoms]
        layer.bottom_shapes = [array.shape for array in arrays]
        layer.top_shapes = layer.infer(layer.bottom_shapes)
        self.buffers = Buffers(bottoms=arrays, params=[np.array(param, dtype) for param in params])
        for i, shape in enumerate(layer.top_shapes):
            self.buffers.tops.append(self._top(i, shape, dtype))
        for made, arrays_of in ((layer.saved, self.buffers.saved), (layer.states, self.buffers.states)):
            for name, scratch in made.items():
                arrays_of[name] = np.zeros(scratch.shape, scratch.dtype or dtype)
        assert [param.shape for param in layer.params] == [param.shape for param in self.buffers.params]

    def _top(self, index: int, shape: tuple[int, ...], dtype: Any) -> Array:
        if self.layer.shares_data or (self.layer.runs_in_place and index == 0):
            return self.buffers.bottoms[0].reshape(shape)
        return np.full(shape, np.nan, dtype)

    def forward(self) -> list[Array]:
        """The tops after one forward."""
        self.layer.forward(np, self.buffers)
        return self.buffers.tops

    def backward(self, *top_grads: Any, wanted: Sequence[bool] | None = None) -> list[Array]:
        """The bottoms' gradients after one backward from the tops' gradients (None: nobody gives one).

        wanted: which bottoms a gradient is wanted for; unless stated, all that can have one.
        """
        layer, b = self.layer, self.buffers
        if wanted is None:
            wanted = [layer.gives_gradient(i) for i in range(len(b.bottoms))]
        b.top_grads = [None if grad is None else np.array(grad, layer.dtype) for grad in top_grads]
        b.bottom_grads = [
            np.full(bottom.shape, np.nan, layer.dtype) if want else None
            for bottom, want in zip(b.bottoms, wanted, strict=True)
        ]
        if layer.runs_in_place or layer.shares_diff:
            assert b.top_grads[0] is not None
            b.bottom_grads[0] = b.top_grads[0].reshape(b.bottoms[0].shape)
        if not b.param_grads:
            b.param_grads = [np.zeros_like(param) for param in b.params]
        self._spoil_what_is_not_read()
        layer.backward(np, b)
        return b.bottom_grads

    def _spoil_what_is_not_read(self) -> None:
        """Rebinds every array that the layer does not declare to NaNs."""
        for arrays, read in (
            (self.buffers.bottoms, self.layer.backward_bottoms),
            (self.buffers.tops, self.layer.backward_tops),
        ):
            for i, array in enumerate(arrays):
                if read is not None and i not in read:
                    arrays[i] = np.full_like(array, np.nan)

    @property
    def param_grads(self) -> list[Array]:
        return self.buffers.param_grads


def run(text: str, *bottoms: Any, **options: Any) -> list[Array]:
    """The tops of one forward."""
    return OneLayer(text, *bottoms, **options).forward()


def gradients(text: str, *bottoms: Any, top_grads: Sequence[Any], **options: Any) -> list[Array]:
    """The bottoms' gradients of one forward and backward."""
    layer = OneLayer(text, *bottoms, **options)
    layer.forward()
    return layer.backward(*top_grads)


def check_slopes(
    text: str, *bottoms: Any, params: Sequence[Any] = (), step: float = 1e-5, **options: Any
) -> None:
    """Asserts, in float64, that every gradient is the slope of a random weighting of the tops' elements."""

    def total(values: Sequence[Any], blobs: Sequence[Array]) -> float:
        count = len(bottoms)
        tops = run(text, *blobs[:count], params=blobs[count:], dtype=np.float64, **options)
        return float(sum((value * top).sum() for value, top in zip(values, tops, strict=True)))

    blobs = [np.array(blob, np.float64) for blob in (*bottoms, *params)]
    layer = OneLayer(text, *bottoms, params=params, dtype=np.float64, **options)
    random = np.random.default_rng(7)
    weights = [random.uniform(0.5, 1.5, top.shape) for top in layer.forward()]
    found = [*layer.backward(*weights), *layer.param_grads]
    assert any(grad is not None for grad in found)
    for i, grad in enumerate(found):
        if grad is None:
            continue
        for place in np.ndindex(blobs[i].shape):
            kept = blobs[i][place]
            blobs[i][place] = kept + step
            above = total(weights, blobs)
            blobs[i][place] = kept - step
            below = total(weights, blobs)
            blobs[i][place] = kept
            slope = (above - below) / (2 * step)
            assert abs(grad[place] - slope) <= 1e-6 * max(1, abs(slope)), f"blob {i} at {place}"
