"""Nets written in Python: the message that comes of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import netc
from netc import NetcError
from netc import layers as L
from netc import params as P
from netc.proto import netc_pb2 as pb
from netc.schema.net import parse_net, read_net

MODELS = Path(__file__).parents[2] / "models"


def lenet() -> pb.NetParameter:
    """The shipped LeNet, for training."""
    n = netc.NetSpec()
    rates = [{"lr_mult": 1}, {"lr_mult": 2}]
    fillers = {"weight_filler": {"type": "xavier"}, "bias_filler": {"type": "constant"}}
    n.data, n.label = L.Data(
        ntop=2,
        name="mnist",
        source="build/mnist/mnist_train_lmdb",
        backend=P.Data.LMDB,
        batch_size=64,
        transform_param={"scale": 0.00390625},
        include={"phase": netc.TRAIN},
    )
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, param=rates, **fillers)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.conv2 = L.Convolution(n.pool1, kernel_size=5, num_output=50, param=rates, **fillers)
    n.pool2 = L.Pooling(n.conv2, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool2, num_output=500, param=rates, **fillers)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, param=rates, **fillers)
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def test_a_lenet_written_in_python_is_the_shipped_prototxt() -> None:
    shipped = read_net(MODELS / "lenet" / "train_val.prototxt").message
    in_phase = [
        layer
        for layer in shipped.layer
        if not layer.include or any(rule.phase == netc.TRAIN for rule in layer.include)
    ]
    assert list(lenet().layer) == in_phase


def test_what_is_printed_can_be_read_again() -> None:
    net = lenet()
    assert parse_net(str(net)).message == net


def test_tops_are_found_by_name() -> None:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [2, 3]})
    n["a/b"] = L.ReLU(n["data"])
    assert n.data is n["data"] is n.tops["data"]
    assert "a/b" in n
    assert list(n) == ["data", "a/b"]
    assert [layer.name for layer in n.to_proto().layer] == ["data", "a/b"]
    del n["a/b"]
    assert [layer.name for layer in n.to_proto().layer] == ["data"]
    with pytest.raises(AttributeError, match="no top 'nothing'"):
        _ = n.nothing
    with pytest.raises(KeyError):
        _ = n["nothing"]


def test_what_has_no_name_is_numbered_by_type() -> None:
    data = L.Input(shape={"dim": [2, 4]})
    a, b = L.Slice(L.ReLU(data), ntop=2, slice_point=1)
    net = netc.to_proto(L.ReLU(a, in_place=True), L.Concat(a, b))
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer] == [
        ("Input1", [], ["Input1"]),
        ("ReLU1", ["Input1"], ["ReLU1"]),
        ("Slice1", ["ReLU1"], ["Slice1", "Slice2"]),
        ("ReLU2", ["Slice1"], ["Slice1"]),
        ("Concat1", ["Slice1", "Slice2"], ["Concat1"]),
    ]
    assert b.to_proto().layer[-1].name == "Slice1"


def test_a_layer_reaches_a_blob_that_others_changed_in_place() -> None:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [2, 4]})
    n.relu = L.ReLU(n.data, in_place=True)
    n.drop = L.Dropout(n.relu, in_place=True)
    n.ip = L.InnerProduct(n.drop, num_output=3)
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in n.to_proto().layer[1:]] == [
        ("relu", ["data"], ["data"]),
        ("drop", ["data"], ["data"]),
        ("ip", ["data"], ["ip"]),
    ]


def test_a_layer_may_have_no_top() -> None:
    n = netc.NetSpec()
    n.data, n.label = L.DummyData(shape=[{"dim": [2]}, {"dim": [2]}], ntop=2)
    n.quiet = L.Silence(n.label, ntop=0)
    layer = n.to_proto().layer[-1]
    assert (layer.name, layer.type, list(layer.bottom), list(layer.top)) == (
        "quiet",
        "Silence",
        ["label"],
        [],
    )
    netc.Net(n.to_proto(), netc.TEST).forward()


def test_options_find_their_place() -> None:
    data = L.Input(shape={"dim": [1, 3, 8, 8]})
    conv = L.Convolution(
        data,
        num_output=2,
        kernel_size=[3, 1],
        pad=(1, 0),
        weight_filler={"type": "gaussian", "std": np.float64(0.5)},
        loss_weight=0.5,
        name="mine",
        propagate_down=[True],
    )
    layer = netc.to_proto(conv).layer[1]
    assert (layer.name, list(layer.loss_weight), list(layer.propagate_down)) == ("mine", [0.5], [True])
    options = layer.convolution_param
    assert (options.num_output, list(options.kernel_size), list(options.pad)) == (2, [3, 1], [1, 0])
    assert (options.weight_filler.type, options.weight_filler.std) == ("gaussian", 0.5)


def test_options_may_be_given_as_messages_and_enum_values_by_name() -> None:
    data = L.Input(shape={"dim": [1, 3, 8, 8]})
    pool = L.Pooling(data, pool="AVE", global_pooling=True)
    up = L.Deconvolution(pool, num_output=2, kernel_size=4)  # its options are Convolution's
    loss = L.SoftmaxWithLoss(up, data, loss_param=pb.LossParameter(ignore_label=255))
    layers = netc.to_proto(loss).layer
    assert layers[1].pooling_param.pool == P.Pooling.AVE == 1
    assert layers[2].convolution_param.num_output == 2
    assert layers[3].loss_param.ignore_label == 255


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: L.Convolution(x, num_outptu=3), "no option 'num_outptu'"),
        (lambda x: L.Convolution(x, num_output="three"), "num_output does not take this value"),
        (lambda x: L.Convolution(x, weight_filler={"typ": "xavier"}), "has no field 'typ'"),
        (lambda x: L.Convolution(x, weight_filler="xavier"), "weight_filler does not take this value"),
        (lambda x: L.Pooling(x, pool="MEAN"), "pool does not take this value"),
        (lambda x: L.Convolution(x, 3), "bottom 1 of a Convolution layer is not a top"),
        (lambda x: L.Slice(x, ntop=2, in_place=True), "in place has one top"),
        (lambda x: L.Nonesuch(x, size=3), "no option 'size'"),
    ],
)
def test_options_without_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        netc.to_proto(make(L.Input(shape={"dim": [1, 3]})))  # type: ignore[operator]


def test_a_misspelt_option_is_told_what_was_meant() -> None:
    with pytest.raises(NetcError, match="did you mean num_output"):
        netc.to_proto(L.Convolution(L.Input(), num_outptu=3))


def test_only_tops_get_names() -> None:
    n = netc.NetSpec()
    with pytest.raises(NetcError, match="must be the result of a layer"):
        n.data = L.Slice(L.Input(), ntop=2)


def test_enum_values_are_listed_by_type() -> None:
    assert {"AVE", "MAX", "STOCHASTIC"} <= set(dir(P.Pooling))
    assert "SUM" in dir(P.Eltwise)
    assert P.Eltwise.SUM == 1
    assert "Pooling" in dir(P)
    with pytest.raises(AttributeError, match="no value 'MEDIAN'"):
        _ = P.Pooling.MEDIAN
    with pytest.raises(AttributeError, match="Poling"):
        _ = P.Poling
    assert "Convolution" in dir(L)


def test_a_deep_net_is_no_trouble() -> None:
    top = L.Input(shape={"dim": [1, 1]})
    for _ in range(3000):
        top = L.ReLU(top, in_place=True)
    assert len(netc.to_proto(top).layer) == 3001
