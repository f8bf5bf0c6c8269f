"""The base class of Python layers, and the layers that a net shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc.proto import netc_pb2 as pb
from tests.pycaffe.small_nets import write_net


def test_a_layer_knows_its_text_before_setup() -> None:
    spec = pb.LayerParameter(name="mine", python_param={"param_str": "{'size': 3}"})
    layer = netc.Layer(spec)
    assert (layer.param_str, layer.layer_param.name, layer.type) == ("{'size': 3}", "mine", "Python")
    assert netc.Layer().param_str == ""


def test_parameters_are_added_as_zeros() -> None:
    layer = netc.Layer()
    blob = layer.blobs.add_blob(2, 3)
    assert blob is layer.blobs[0]
    assert (len(layer.blobs), blob.shape) == (1, (2, 3))
    assert not blob.data.any()
    blob.data[...] = 4
    np.testing.assert_array_equal(layer.blobs[0].data, np.full((2, 3), 4))


@pytest.mark.parametrize(
    ("method", "arguments"), [("reshape", ([], [])), ("forward", ([], [])), ("backward", ([], [], []))]
)
def test_what_a_layer_must_define_is_named(method: str, arguments: tuple[list[object], ...]) -> None:
    class Mine(netc.Layer):
        pass

    Mine().setup([], [])  # may be left out
    with pytest.raises(NotImplementedError, match=rf"Mine has to define {method}\("):
        getattr(Mine(), method)(*arguments)


def test_a_nets_layer_shows_itself(tmp_path: Path) -> None:
    net = netc.Net(write_net(tmp_path), netc.TRAIN)
    assert repr(net.layer_dict["conv"]) == "Convolution 'conv' (4 x 3 x 3 x 3, 4)"
    assert repr(net.layer_dict["relu"]) == "ReLU 'relu' (no parameters)"
