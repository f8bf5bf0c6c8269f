"""Which layers a state includes."""

import pytest

from netc.errors import NetcError
from netc.graph.rules import State, included
from netc.proto import netc_pb2 as pb
from netc.schema.text import parse_text

TRAIN, TEST = pb.TRAIN, pb.TEST


def layer(rules: str) -> pb.LayerParameter:
    return parse_text(f'name: "l" type: "ReLU" {rules}', pb.LayerParameter, "net.prototxt").message


@pytest.mark.parametrize(
    ("rules", "state", "expected"),
    [
        ("", State(TRAIN), True),
        ("include { phase: TEST }", State(TRAIN), False),
        ("include { phase: TEST }", State(TEST), True),
        ("exclude { phase: TEST }", State(TEST), False),
        ("include { phase: TEST } include { min_level: 2 }", State(TRAIN, level=2), True),
        ("include { min_level: 2 max_level: 3 }", State(TRAIN, level=4), False),
        ('include { stage: "a" stage: "b" }', State(TRAIN, stages=frozenset("a")), False),
        ('include { stage: "a" stage: "b" }', State(TRAIN, stages=frozenset("abc")), True),
        ('include { not_stage: "a" }', State(TRAIN, stages=frozenset("a")), False),
        ('exclude { phase: TEST stage: "a" }', State(TEST), True),
        ('exclude { phase: TEST } exclude { stage: "a" }', State(TRAIN, stages=frozenset("a")), False),
    ],
)
def test_a_rule_is_met_when_all_it_states_is_met(rules: str, state: State, expected: bool) -> None:
    assert included(layer(rules), state) is expected


def test_include_and_exclude_together_are_an_error() -> None:
    with pytest.raises(NetcError, match="both include and exclude"):
        included(layer("include { phase: TEST } exclude { phase: TRAIN }"), State(TRAIN))
