"""The MemoryData layer's source: arrays that the caller hands over, given out in batches, round and round."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from netc.data.source import Origin, Source, TopSpec
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

FIELD = "memory_data_param"
DIMS = ("batch_size", "channels", "height", "width")


class MemorySource(Source):
    """Items (N, C, H, W) and their labels (N); N is a multiple of the batch size. Nothing is copied."""

    def __init__(self, spec: pb.LayerParameter, origin: Origin) -> None:
        """Raises NetcError where a dimension is not stated."""
        param = spec.memory_data_param
        for name in DIMS:
            if getattr(param, name) < 1:
                raise origin.error(
                    f"memory_data_param needs {name}",
                    FIELD,
                    name,
                    expected="at least 1",
                    found=getattr(param, name),
                    remedy=f"state {', '.join(DIMS)}",
                )
        if spec.HasField("transform_param"):
            log.warning(
                "%s: transform_param has no effect on the arrays of a MemoryData layer; transform them first",
                origin.locate("transform_param") or spec.name,
            )
        self._origin = origin
        self._batch = param.batch_size
        self._shape = (param.channels, param.height, param.width)
        self._data: np.ndarray | None = None
        self._labels: np.ndarray | None = None
        self._position = 0

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        return TopSpec((self._batch, *self._shape)), TopSpec((self._batch,))

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """From now on gives out these, from the first item on.

        The arrays are used where they lie. Raises NetcError where they do not fit the layer.
        """
        if data.ndim != 4 or data.shape[1:] != self._shape:
            raise self._origin.error(
                "the arrays do not fit the layer",
                FIELD,
                expected=f"data of N x {' x '.join(map(str, self._shape))}",
                found=" x ".join(map(str, data.shape)),
            )
        if labels.size != len(data):
            raise self._origin.error(
                "as many labels as items are needed", FIELD, expected=len(data), found=labels.size
            )
        if not len(data) or len(data) % self._batch:
            raise self._origin.error(
                "the number of items must be a multiple of batch_size",
                FIELD,
                "batch_size",
                expected=f"a multiple of {self._batch}",
                found=len(data),
                remedy="leave some items out, or choose a batch_size that divides their number",
            )
        self._data, self._labels = data, labels.reshape(-1)
        self._position = 0

    def next(self) -> list[np.ndarray]:
        if self._data is None or self._labels is None:
            raise self._origin.error(
                "the layer has no data yet",
                FIELD,
                remedy="call net.set_input_arrays(data, labels) before the first forward",
            )
        first = self._position % len(self._data) // self._batch * self._batch
        batch = slice(first, first + self._batch)
        self._position = (first + self._batch) % len(self._data)
        return [self._data[batch], self._labels[batch]]

    def state(self) -> dict[str, Any]:
        return {"position": self._position}

    def restore(self, state: dict[str, Any]) -> None:
        self._position = int(state["position"])

    def close(self) -> None:
        """Lets the arrays go."""
        self._data = self._labels = None
