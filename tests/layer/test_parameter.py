"""Parameter: its top is the parameter itself, and learns as any other."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.one_layer import make_layer

NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "w" type: "Parameter" top: "w" param { lr_mult: 3 } parameter_param { shape { dim: 3 } } }
layer { name: "s" type: "Scale" bottom: "x" bottom: "w" top: "y" scale_param { axis: 1 } }
layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1 }
"""
X = np.array([[1, 2, 3], [4, 5, 6]])


def net(text: str = NET, **options: object) -> Net:
    made = Net(parse_text(text, pb.NetParameter, "net.prototxt").message, pb.TRAIN, **options)  # type: ignore[arg-type]
    made.blobs["x"].data[...] = X
    return made


def test_the_top_is_the_parameter() -> None:
    made = net()
    assert made.parameters.segments[0].lr_mult == 3
    assert not made.params["w"][0].data.any()
    made.params["w"][0].data[...] = [1, 10, 100]
    assert np.shares_memory(made.blobs["w"].data, made.params["w"][0].data)
    assert made.forward() == 5 + 70 + 900
    made.blobs["w"].data[1] = 0
    assert made.params["w"][0].data.tolist() == [1, 0, 100]


@pytest.mark.parametrize("keep", ["all", "outputs"])
def test_it_learns(keep: str) -> None:
    made = net(keep=keep)
    for times in (1, 2):  # gradients add up over passes
        made.forward()
        made.backward()
        np.testing.assert_array_equal(made.params["w"][0].diff, times * X.sum(axis=0))


def test_it_stays_itself_when_the_net_is_reshaped() -> None:
    made = net()
    made.params["w"][0].data[...] = 1
    made.blobs["x"].reshape(5, 3)
    made.blobs["x"].data[...] = 2
    assert made.forward() == 30
    assert np.shares_memory(made.blobs["w"].data, made.params["w"][0].data)


def test_two_of_one_name_are_one() -> None:
    named = NET.replace("param { lr_mult: 3 }", 'param { name: "p" }')
    second = named.splitlines()[2].replace('"w"', '"v"')
    made = net(named + second + 'layer { name: "t" type: "Eltwise" bottom: "w" bottom: "v" top: "z" }')
    made.params["w"][0].data[...] = [1, 2, 3]
    made.forward()
    assert made.blobs["z"].data.tolist() == [2, 4, 6]
    assert np.shares_memory(made.blobs["v"].data, made.blobs["w"].data)


def test_a_net_that_shares_parameters_sees_them() -> None:
    first = net()
    other = net(share_with=first)
    first.params["w"][0].data[...] = 7
    assert other.blobs["w"].data.tolist() == [7, 7, 7]


def test_refuses_negative_sizes() -> None:
    with pytest.raises(NetcError, match="no negative number"):
        make_layer('type: "Parameter" parameter_param { shape { dim: -1 } }', bottoms=0).infer([])
