"""Layer names: parameters are found by them, so two layers with parameters may not share one."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

INPUT = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }\n'


def inner_product(name: str, top: str, phase: str) -> str:
    options = "inner_product_param { num_output: 2 }"
    rule = f"include {{ phase: {phase} }}"
    return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "d" top: "{top}" {options} {rule} }}\n'


def test_two_layers_with_parameters_may_not_share_a_name() -> None:
    text = INPUT + inner_product("ip", "a", "TRAIN") + inner_product("ip", "b", "TRAIN")
    parsed = parse_net(text, "f")
    with pytest.raises(NetcError, match="two layers with parameters are called 'ip'") as caught:
        Net(parsed.message, pb.TRAIN, positions=parsed.positions)
    assert str(caught.value.at) == "f:3:9"
    assert "f:2:1" in str(caught.value.found)


def test_a_name_may_come_again_in_another_phase_or_without_parameters() -> None:
    text = INPUT + inner_product("ip", "a", "TRAIN") + inner_product("ip", "b", "TEST")
    text += "".join(f'layer {{ name: "r" type: "ReLU" bottom: "d" top: "r{i}" }}\n' for i in range(2))
    for phase in (pb.TRAIN, pb.TEST):
        assert Net(parse_net(text).message, phase).layer_names.count("ip") == 1
