"""Options that a layer's type does not read are named; those that it reads are not."""

from __future__ import annotations

import logging

import pytest

from netc.graph.build import Build, build_graph
from netc.graph.rules import State
from netc.graph.unread_options import unread_options
from netc.layer import LAYER_TYPES
from netc.proto import netc_pb2 as pb
from netc.schema.net import parse_net

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'


def test_options_of_another_type_are_named_with_their_line(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        INPUT
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "y"\n  dropout_param { dropout_ratio: 0.3 } }'
    )
    net = parse_net(text, "a.prototxt")
    with caplog.at_level(logging.WARNING, "netc"):
        build_graph(net.message, Build(State(pb.TEST), net.positions))
    (message,) = caplog.messages
    assert message == (
        "a.prototxt:3:3: layer r: dropout_param has no effect on a layer of type ReLU; "
        "its options belong in relu_param"
    )


@pytest.mark.parametrize(
    ("layer", "unread"),
    [
        ('type: "Convolution" convolution_param { } param { }', []),
        ('type: "Convolution" pooling_param { } convolution_param { }', ["pooling_param"]),
        ('type: "Data" data_param { } transform_param { }', []),
        ('type: "AnnotatedData" data_param { } transform_param { } annotated_data_param { }', []),
        ('type: "SoftmaxWithLoss" softmax_param { } loss_param { }', []),
        ('type: "MultiBoxLoss" multibox_loss_param { } loss_param { }', []),
        ('type: "SmoothL1Loss" smooth_l1_loss_param { }', []),
        ('type: "Accuracy" loss_param { } accuracy_param { }', ["loss_param"]),
        ('type: "Silence" transform_param { }', ["transform_param"]),
    ],
)
def test_what_a_type_reads(layer: str, unread: list[str]) -> None:
    spec = parse_net(f"layer {{ {layer} }}").message.layer[0]
    assert unread_options(LAYER_TYPES[spec.type], spec) == unread


def test_a_layer_without_a_type_is_told_to_have_one() -> None:
    with pytest.raises(Exception, match="the layer has no type"):
        build_graph(
            parse_net(INPUT + 'layer { name: "r" bottom: "x" top: "y" }').message, Build(State(pb.TEST))
        )
