"""Layer names: several layers of a net may have one name, also where they have parameters."""

from __future__ import annotations

import logging

import pytest

from netc.graph import Build, Graph, State, build_graph
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.layer_keys import Namesake
from netc.schema.net import parse_net

INPUT = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }\n'


def inner_product(name: str, top: str, phase: str) -> str:
    options = "inner_product_param { num_output: 2 }"
    rule = f"include {{ phase: {phase} }}"
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "d" top: "{top}" {options} {rule} }}\n'


def relu(name: str, top: str) -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "d" top: "{top}" }}\n'


def graph_of(text: str) -> Graph:
    parsed = parse_net(text, "f")
    return build_graph(parsed.message, Build(State(pb.TRAIN), parsed.positions))


def test_layers_of_one_name_are_told_apart_by_their_order_among_those_with_parameters() -> None:
    layers = [inner_product("ip", top, "TRAIN") for top in "abc"]
    graph = graph_of(INPUT + layers[0] + relu("ip", "r") + layers[1] + layers[2])
    assert [(param.layer, param.index) for param in graph.params()] == [
        *(("ip", 0), ("ip", 1)),
        *((Namesake("ip", 2), 0), (Namesake("ip", 2), 1)),
        *((Namesake("ip", 3), 0), (Namesake("ip", 3), 1)),
    ]
    assert all(param.owner is param for param in graph.params())


def test_a_name_that_comes_again_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "netc"):
        graph_of(INPUT + inner_product("ip", "a", "TRAIN") + inner_product("ip", "b", "TRAIN"))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("f:3:1: two layers are called 'ip'")


def test_a_name_may_come_again_in_another_phase_or_without_parameters() -> None:
    text = INPUT + inner_product("ip", "a", "TRAIN") + inner_product("ip", "b", "TEST")
    text += relu("r", "r0") + relu("r", "r1")
    for phase in (pb.TRAIN, pb.TEST):
        net = Net(parse_net(text).message, phase)
        assert net.layer_names.count("ip") == 1
        assert list(net.params) == ["ip"]
