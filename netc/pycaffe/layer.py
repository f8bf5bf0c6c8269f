"""The base class of layers written in Python, and what a net says of any of its layers."""

from __future__ import annotations

from collections.abc import Sequence

from netc.layer.blob import Blob, LayerBlobs
from netc.proto import netc_pb2 as pb


class Layer:
    """Derive from this to write a layer in Python, and name the class in prototxt:

        layer { name: "scale2" type: "Python" bottom: "x" top: "y"
                python_param { module: "my_layers" layer: "Scale2" param_str: "2" } }

    The module is found on PYTHONPATH and in the working directory. `bottom` and `top` are sequences of blobs,
    whose `data` and `diff` are NumPy views of the net's own memory: write into them (`top[0].data[...] = x`).

    param_str: the text given in the prototxt; phase: netc.TRAIN or netc.TEST; blobs: the layer's parameters,
    added in `setup` by `self.blobs.add_blob(*shape)`.
    """

    type = "Python"
    param_str: str = ""
    phase: int = pb.TEST
    blobs: LayerBlobs

    def __init__(self, param: pb.LayerParameter | None = None) -> None:
        self.layer_param = param if param is not None else pb.LayerParameter()
        self.param_str = self.layer_param.python_param.param_str
        self.blobs = LayerBlobs()

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Called once: check the bottoms, read `param_str`, add parameters."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Called before every forward: give the tops their shapes, `top[0].reshape(*shape)`."""
        raise NotImplementedError(f"{self.__class__.__name__} has to define reshape(bottom, top)")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Computes the tops' data from the bottoms'; may give the tops other shapes as well."""
        raise NotImplementedError(f"{self.__class__.__name__} has to define forward(bottom, top)")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Writes the diffs of the bottoms i with propagate_down[i], from the tops' diffs; adds to the diffs
        of the layer's own blobs."""
        raise NotImplementedError(f"{self.__class__.__name__} has to define backward(top, down, bottom)")


class LayerView:
    """A layer of a net: its name, its type, its parameters."""

    def __init__(self, name: str, layer_type: str, blobs: Sequence[Blob]) -> None:
        self.name = name
        self.type = layer_type
        self.blobs = LayerBlobs(blobs)

    def __repr__(self) -> str:
        shapes = ", ".join(" x ".join(map(str, blob.shape)) or "scalar" for blob in self.blobs)
        return f"{self.type} {self.name!r} ({shapes or 'no parameters'})"
