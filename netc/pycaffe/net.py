"""The net as pycaffe's users know it: blobs by name, forward and backward that take and return arrays."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.pycaffe.mode import random_seed
from netc.runtime import Blob
from netc.runtime import Net as RuntimeNet


class Net:
    """`Net(model, phase, weights=..., level=0, stages=[...])`, or as of old `Net(model, weights, phase)`.

    `blobs`, `params`: ordered by the net, live views. `forward()` returns the outputs, `backward()` the
    inputs' gradients. Raises NetcError for a net that cannot be built.
    """

    def __init__(
        self,
        network_file: str | os.PathLike[str] | pb.NetParameter,
        *args: Any,
        phase: int | None = None,
        weights: str | None = None,
        level: int = 0,
        stages: Sequence[str] | None = None,
    ) -> None:
        if len(args) == 2:
            weights, phase = args
        elif len(args) == 1:
            (phase,) = args
        if phase is None or phase not in (pb.TRAIN, pb.TEST):
            raise NetcError("a net needs a phase", expected="netc.TRAIN or netc.TEST", found=phase)
        self._net = RuntimeNet(
            network_file, phase, level=level, stages=stages or (), weights=weights, seed=random_seed()
        )

    @classmethod
    def around(cls, net: RuntimeNet) -> Net:
        """The pycaffe face of a net that exists, such as a solver's."""
        face = cls.__new__(cls)
        face._net = net
        return face

    @property
    def blobs(self) -> OrderedDict[str, Blob]:
        return OrderedDict(self._net.blobs)

    @property
    def params(self) -> OrderedDict[str, list[Blob]]:
        return OrderedDict(self._net.params)

    @property
    def name(self) -> str:
        return self._net.name

    @property
    def inputs(self) -> list[str]:
        return self._net.inputs

    @property
    def outputs(self) -> list[str]:
        return self._net.outputs

    @property
    def layer_names(self) -> list[str]:
        return self._net.layer_names

    _layer_names = layer_names

    @property
    def blob_names(self) -> list[str]:
        return self._net.blob_names

    _blob_names = blob_names

    def forward(
        self,
        blobs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Runs forward; inputs by blob name are copied in first. Returns the outputs (with `end`, its tops)
        and `blobs`."""
        self._copy_in(inputs, self.inputs, lambda blob: blob.data)
        self._net.forward(start, end)
        wanted = self._tops(end) if end is not None else self.outputs
        return {name: self._net.blobs[name].data for name in dict.fromkeys([*wanted, *(blobs or ())])}

    def backward(
        self,
        diffs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **gradients: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Runs backward; gradients of outputs by blob name are copied in first. Returns the inputs' and
        `diffs`."""
        self._copy_in(gradients, self.outputs if start is None else self._tops(start), lambda blob: blob.diff)
        self._net.backward(start, end)
        wanted = self._bottoms(end) if end is not None else self.inputs
        return {name: self._net.blobs[name].diff for name in dict.fromkeys([*wanted, *(diffs or ())])}

    def _copy_in(self, arrays: Mapping[str, np.ndarray], allowed: Sequence[str], target: Any) -> None:
        for name, array in arrays.items():
            if name not in allowed:
                raise NetcError(f"no blob {name!r} to fill here", blob=name, expected=", ".join(allowed))
            place = target(self._net.blobs[name])
            if np.shape(array) != place.shape:
                raise NetcError(
                    "an array of another shape than the blob",
                    blob=name,
                    expected=list(place.shape),
                    found=list(np.shape(array)),
                    remedy="reshape the blob first: net.blobs[name].reshape(...)",
                )
            place[...] = array

    def _tops(self, layer: str) -> list[str]:
        return [value.name for node in self._net.graph.nodes if node.name == layer for value in node.outputs]

    def _bottoms(self, layer: str) -> list[str]:
        return [value.name for node in self._net.graph.nodes if node.name == layer for value in node.inputs]

    def reshape(self) -> None:
        """Brings every blob to the shapes that follow from the inputs."""
        self._net.reshape()

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        self._net.clear_param_diffs()

    def copy_from(self, weights: str) -> None:
        """Takes the parameters of layers of the same name from a weights file."""
        self._net.load_weights(weights)

    load_hdf5 = copy_from

    def save(self, path: str) -> None:
        """Writes the parameters as a .caffemodel, or as HDF5 where the name ends in .h5."""
        self._net.save(path)

    save_hdf5 = save
