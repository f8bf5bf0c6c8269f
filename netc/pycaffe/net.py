"""The net as pycaffe's users know it: blobs by name, forward and backward that take and return arrays."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from netc.data.memory_source import MemorySource
from netc.errors import NetcError
from netc.graph import Value
from netc.proto import netc_pb2 as pb
from netc.pycaffe.batches import Batches, batches, joined
from netc.pycaffe.layer import LayerView
from netc.pycaffe.mode import backend, random_seed
from netc.runtime import Blob
from netc.runtime import Net as RuntimeNet
from netc.runtime.callbacks import LayerCallback
from netc.schema.layer_keys import name_of
from netc.schema.weights import write_weights

Path = str | os.PathLike[str]


class Net:
    """A net that runs, built from a prototxt.

        net = netc.Net("deploy.prototxt", netc.TEST, weights="model.caffemodel")
        net.blobs["data"].data[...] = image
        probabilities = net.forward()["prob"]

    network_file: a prototxt's path, or its message. phase: netc.TRAIN or netc.TEST. level, stages: the rest
    of the state that include and exclude rules ask for. weights: a .caffemodel or HDF5 file. The older
    order, `Net(network_file, weights, phase)`, works as well.

    All arrays that it hands out are views of the net's own memory. Raises NetcError for a net that cannot be
    built, with the line in its file and what to do.
    """

    def __init__(
        self,
        network_file: Path | pb.NetParameter,
        phase: int | Path | None = None,
        level: int | None = None,
        stages: Sequence[str] | None = None,
        weights: Path | None = None,
    ) -> None:
        if isinstance(phase, str | os.PathLike):  # the older order: level holds the phase
            weights, phase, level = phase, level, None
        if phase is None or phase not in (pb.TRAIN, pb.TEST):
            raise NetcError(
                "a net needs a phase",
                expected="netc.TRAIN or netc.TEST",
                found=phase,
                remedy='netc.Net("deploy.prototxt", netc.TEST)',
            )
        stages = [stages] if isinstance(stages, str) else stages
        self._owner: object = None
        self._trained = False
        self._net = RuntimeNet(
            network_file,
            phase,
            level=level or 0,
            stages=stages or (),
            weights=os.fspath(weights) if weights else None,
            seed=random_seed(),
            backend=backend(),
        )

    def __del__(self) -> None:
        """Ends the threads and programs that read data for a net that nobody has any more."""
        if "_net" in self.__dict__ and self._owner is None:
            self._net.close()

    @classmethod
    def around(cls, net: RuntimeNet, owner: object, *, trained: bool = False) -> Net:
        """The pycaffe face of a net of a solver's, which closes it. trained: the solver updates it."""
        face = cls.__new__(cls)
        face._net, face._owner, face._trained = net, owner, trained
        return face

    def _reattach(self, net: RuntimeNet) -> None:
        """Shows another net from now on: one that its solver has built anew."""
        self._net = net
        for name in ("blobs", "params", "layer_dict", "top_names", "bottom_names"):
            self.__dict__.pop(name, None)

    # --- what the net is made of ----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name that the prototxt gives the net."""
        return self._net.name

    @property
    def phase(self) -> int:
        """netc.TRAIN or netc.TEST."""
        return self._net.phase

    @cached_property
    def blobs(self) -> OrderedDict[str, Blob]:
        """Every blob by name, in the order of the net."""
        return OrderedDict(self._net.blobs)

    @cached_property
    def params(self) -> OrderedDict[str, list[Blob]]:
        """The parameters of each layer that has any: by layer name, a list (weights first, then biases).

        Of several layers of one name it shows the last one's, as in Caffe; `layers` has them all.
        """
        return OrderedDict((name_of(layer), blobs) for layer, blobs in self._net.params.items())

    @property
    def layers(self) -> list[Any]:
        """Every layer, in the order of the net, with its `type` and `blobs`; a Python layer is the object of
        your own class."""
        return [self._layer(index) for index in range(len(self._layer_names))]

    @cached_property
    def layer_dict(self) -> OrderedDict[str, Any]:
        """The layers by name."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @cached_property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's tops, by layer name."""
        return OrderedDict((node.name, _names(node.outputs)) for node in self._net.graph.nodes)

    @cached_property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """The names of each layer's bottoms, by layer name."""
        return OrderedDict((node.name, _names(node.inputs)) for node in self._net.graph.nodes)

    @property
    def inputs(self) -> list[str]:
        """The names of the blobs that you fill."""
        return self._net.inputs

    @property
    def outputs(self) -> list[str]:
        """The names of the blobs that no layer reads."""
        return self._net.outputs

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The weight in the loss of every blob, by name; 0 for most."""
        weights = {value.name: value.loss_weight for value in self._net.graph.values()}
        return OrderedDict((name, weights[name]) for name in self.blobs)

    _layer_names = property(lambda self: self._net.layer_names, doc="The layers' names, in order.")
    _blob_names = property(lambda self: self._net.blob_names, doc="The blobs' names, in order.")
    _blobs = property(lambda self: list(self.blobs.values()), doc="The blobs, in order.")
    _inputs = property(lambda self: self._places(self.inputs), doc="The inputs' places among the blobs.")
    _outputs = property(lambda self: self._places(self.outputs), doc="The outputs' places among the blobs.")
    _blob_loss_weights = property(lambda self: list(self.blob_loss_weights.values()))

    def _places(self, names: Iterable[str]) -> list[int]:
        places = {name: index for index, name in enumerate(self.blobs)}
        return [places[name] for name in names]

    def _top_ids(self, layer: int) -> list[int]:
        """The places among the blobs of a layer's tops."""
        return self._places(_names(self._net.graph.nodes[layer].outputs))

    def _bottom_ids(self, layer: int) -> list[int]:
        """The places among the blobs of a layer's bottoms."""
        return self._places(_names(self._net.graph.nodes[layer].inputs))

    def _layer(self, index: int) -> Any:
        node = self._net.graph.nodes[index]
        user_object = getattr(node.layer, "user_layer", None)
        if user_object is not None:
            return user_object
        return LayerView(node.name, node.type, self._net.params[node.params[0].layer] if node.params else ())

    # --- running --------------------------------------------------------------------------------------------

    def forward(
        self,
        blobs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **inputs: Any,
    ) -> dict[str, np.ndarray]:
        """Runs all layers forward, or those from `start` to `end`, both included.

        inputs: an array for every input, by name; without any, the inputs keep what they hold. blobs: further
        blobs to return. Returns the outputs (with `end`: that layer's tops) by name, as views: copy what is
        to outlive the next pass. Raises NetcError where names or shapes do not fit.
        """
        first, last = self._index(start, 0), self._index(end, len(self._layer_names) - 1)
        wanted = self._wanted([*(self.outputs if end is None else self._tops(last)), *(blobs or ())])
        self._fill(inputs, self.inputs, "data")
        self._forward(first, last)
        return {name: self.blobs[name].data for name in wanted}

    def backward(
        self,
        diffs: Iterable[str] | None = None,
        start: str | None = None,
        end: str | None = None,
        **gradients: Any,
    ) -> dict[str, np.ndarray]:
        """Runs all layers backward, or those from `start` down to `end`, both included.

        gradients: an array for every output, by name; without any, the outputs' `diff` keep what they hold (a
        loss holds its weight). diffs: further blobs whose diffs to return. Returns the gradients of the
        inputs (with `end`: of that layer's bottoms) by name, as views. Parameters' gradients add up until
        `clear_param_diffs`. Raises NetcError where names or shapes do not fit.
        """
        first, last = self._index(start, len(self._layer_names) - 1), self._index(end, 0)
        wanted = self._wanted([*(self.inputs if end is None else self._bottoms(last)), *(diffs or ())])
        self._fill(gradients, self.outputs, "diff")
        self._backward(first, last)
        return {name: self.blobs[name].diff for name in wanted}

    def _forward(self, start_ind: int, end_ind: int) -> float:
        """Runs the layers of these indices, both included; the loss of what ran."""
        return self._net.forward_layers(start_ind, end_ind)

    def _backward(self, start_ind: int, end_ind: int) -> None:
        """Runs the layers of these indices backward, from start_ind down to end_ind, both included."""
        self._net.backward_layers(start_ind, end_ind)

    def forward_all(self, blobs: Iterable[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Runs forward over any number of items, batch by batch, the last one filled up with zeros.

        inputs: an array of items for every input, by name. Returns arrays of their own, one row for each
        item: the outputs and `blobs`.
        """
        found: dict[str, list[np.ndarray]] = {}
        items = batches(inputs, self._batch_size())
        for batch in items:
            _collect(found, self.forward(blobs=blobs, **batch))
        return joined(found, items.count)

    def forward_backward_all(
        self, blobs: Iterable[str] | None = None, diffs: Iterable[str] | None = None, **arrays: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Runs forward and backward over any number of items, batch by batch.

        arrays: for every input its items and, optionally, for every output their gradients, by name. Returns
        the outputs (and `blobs`), and the gradients of the inputs (and of `diffs`), one row for each item.
        """
        unknown = set(arrays) - {*self.inputs, *self.outputs}
        if unknown:
            raise NetcError(
                f"neither an input nor an output: {', '.join(sorted(unknown))}",
                expected=", ".join([*self.inputs, *self.outputs]),
            )
        size = self._batch_size()
        fed = batches({name: arrays[name] for name in self.inputs if name in arrays}, size)
        given = [name for name in self.outputs if name in arrays]
        gradients = batches({name: arrays[name] for name in given}, size) if given else Batches.empty(fed)
        outputs: dict[str, list[np.ndarray]] = {}
        slopes: dict[str, list[np.ndarray]] = {}
        for batch, gradient in zip(fed, gradients, strict=True):
            _collect(outputs, self.forward(blobs=blobs, **batch))
            _collect(slopes, self.backward(diffs=diffs, **gradient))
        return joined(outputs, fed.count), joined(slopes, fed.count)

    def _batch_size(self) -> int:
        first = self.blobs[self.inputs[0]] if self.inputs else next(iter(self.blobs.values()))
        return first.shape[0] if first.shape else 1

    def _index(self, layer: str | None, default: int) -> int:
        if layer is None:
            return default
        names = self._layer_names
        if layer not in names:
            raise NetcError(f"the net has no layer {layer!r}", expected=", ".join(names))
        return int(names.index(layer))

    def _tops(self, layer: int) -> list[str]:
        return _names(self._net.graph.nodes[layer].outputs)

    def _bottoms(self, layer: int) -> list[str]:
        return _names(self._net.graph.nodes[layer].inputs)

    def _wanted(self, names: Iterable[str]) -> list[str]:
        wanted = list(dict.fromkeys(names))
        for name in wanted:
            if name not in self.blobs:
                raise NetcError(f"the net has no blob {name!r}", blob=name, expected=", ".join(self.blobs))
        return wanted

    def _fill(self, arrays: Mapping[str, Any], names: Sequence[str], part: str) -> None:
        """Copies arrays into the data or diff of blobs, one for each of these names."""
        if not arrays:
            return
        if set(arrays) != set(names):
            raise NetcError(
                f"the arrays given are not those of the net's {'inputs' if part == 'data' else 'outputs'}",
                expected=", ".join(names) or "none",
                found=", ".join(arrays),
                remedy=f"give all of them, or write into net.blobs[name].{part} yourself",
            )
        for name, array in arrays.items():
            place = getattr(self.blobs[name], part)
            if np.shape(array) != place.shape:
                raise NetcError(
                    "an array of another shape than the blob",
                    blob=name,
                    expected=list(place.shape),
                    found=list(np.shape(array)),
                    remedy=f"net.blobs[{name!r}].reshape(...), net.reshape(), or forward_all for many items",
                )
            place[...] = array

    # --- callbacks ------------------------------------------------------------------------------------------

    def before_forward(self, callback: LayerCallback) -> None:
        """Calls back with a layer's index before each layer's forward, from now on."""
        self._net.callbacks.before_forward.append(callback)

    def after_forward(self, callback: LayerCallback) -> None:
        """Calls back with a layer's index after each layer's forward, from now on."""
        self._net.callbacks.after_forward.append(callback)

    def before_backward(self, callback: LayerCallback) -> None:
        """Calls back with a layer's index before the backward of each layer that has one, from now on."""
        self._net.callbacks.before_backward.append(callback)

    def after_backward(self, callback: LayerCallback) -> None:
        """Calls back with a layer's index after the backward of each layer that has one, from now on."""
        self._net.callbacks.after_backward.append(callback)

    # --- inputs, shapes, parameters -------------------------------------------------------------------------

    def set_input_arrays(self, data: Any, labels: Any) -> None:
        """Gives the net's MemoryData layer the items to serve, batch after batch, from the first on.

        data: N x C x H x W, labels: N, with N a multiple of the layer's batch_size. float32 arrays are served
        from where they lie: what you change in them later is seen. Raises NetcError where they do not fit, or
        the net has no such layer.
        """
        for source in self._net.sources.values():
            if isinstance(source, MemorySource):
                images = np.ascontiguousarray(data, np.float32)
                source.set_arrays(images, np.ascontiguousarray(labels, np.float32))
                return
        raise NetcError(
            "the net has no MemoryData layer to give arrays to",
            found=", ".join(dict.fromkeys(self._net.layer_types)),
            remedy="fill an Input instead: net.blobs[name].data[...] = array",
        )

    _set_input_arrays = set_input_arrays

    def reshape(self) -> None:
        """Brings every blob to the shapes that follow from the inputs, which `net.blobs[name].reshape(...)`
        has changed; `forward` does so by itself."""
        self._net.reshape()

    def clear_param_diffs(self) -> None:
        """Sets the gradients of all parameters to zero."""
        self._net.clear_param_diffs()

    def share_with(self, other: Net) -> None:
        """From now on uses the other net's parameters in the layers of the same name: one memory for both.

        Raises NetcError where shapes differ, and for the net that a solver trains.
        """
        if self._trained:
            raise NetcError(
                "the net that a solver trains has to keep its own parameters",
                remedy="other.share_with(solver.net), or copy values: net.params[layer][i].data[...] = ...",
            )
        self._net.share_params(other._net)

    def copy_from(self, weights: Path) -> None:
        """Takes the parameters of the layers that a .caffemodel or HDF5 file names as this net does.

        Other layers keep theirs: rename a layer to learn it from scratch. Raises NetcError for a file that
        cannot be read, and where shapes differ.
        """
        self._net.load_weights(weights)

    def load_hdf5(self, weights: Path) -> None:
        """As `copy_from`; what the file is decides how it is read."""
        self._net.load_weights(weights)

    def save(self, path: Path) -> None:
        """Writes the net and its parameters as a .caffemodel, or as HDF5 where the name ends in .h5."""
        self._net.save(path)

    def save_hdf5(self, path: Path, write_diff: bool = False) -> None:
        """Writes the parameters, and with `write_diff` their gradients, as HDF5."""
        diffs = {layer: [blob.diff for blob in blobs] for layer, blobs in self._net.params.items()}
        write_weights(
            path, self._net.definition, self._net.weights(), diffs=diffs if write_diff else None, hdf5=True
        )

    def to_proto(self) -> pb.NetParameter:
        """The net's message: the layers of its state, without parameters."""
        own = pb.NetParameter()
        own.CopyFrom(self._net.definition)
        return own

    def close(self) -> None:
        """Closes the files and databases that the net reads now, not when the net is let go."""
        self._net.close()

    def __repr__(self) -> str:
        layers, parameters = len(self._layer_names), self._net.parameters
        count = sum(segment.count for segment in parameters.segments)
        phase = pb.Phase.Name(self.phase)
        return f"<Net {self.name!r} ({phase}): {layers} layers, {count:,} parameters>"


def _names(values: Iterable[Value]) -> list[str]:
    return [value.name for value in values]


def _collect(found: dict[str, list[np.ndarray]], arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        found.setdefault(name, []).append(array.copy())
