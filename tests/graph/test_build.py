"""Nets become graphs; what is wrong with them is said all at once, each with its line and a way out."""

import pytest

from netc.errors import NetcError, NetcErrors
from netc.graph import Build, Graph, State, build_graph
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.schema.text import parse_text

INPUT = (
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
)


def graph(text: str, phase: int = pb.TRAIN) -> Graph:
    parsed = parse_text(text, pb.NetParameter, "net.prototxt")
    return run_passes(build_graph(parsed.message, Build(State(phase), parsed.positions)))


def ip(name: str, bottom: str, top: str, extra: str = "", num_output: int = 4) -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {extra} '
        f"inner_product_param {{ num_output: {num_output} }} }}\n"
    )


def relu(name: str, bottom: str, top: str) -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" }}\n'


def test_a_blob_read_twice_gets_a_split_named_as_in_caffe() -> None:
    net = graph(INPUT + relu("a", "data", "a") + relu("b", "data", "b"))
    assert [node.name for node in net.nodes] == ["data", "data_data_0_split", "a", "b"]
    assert net.blob_names() == ["data", "data_data_0_split_0", "data_data_0_split_1", "a", "b"]


def test_an_explicit_loss_weight_counts_as_a_reader() -> None:
    net = graph(INPUT + ip("ip", "data", "h", "loss_weight: 2") + relu("a", "h", "a"))
    split = net.nodes[2]
    assert split.type == "Split"
    assert [value.loss_weight for value in split.outputs] == [2, 0]
    assert net.nodes[1].outputs[0].loss_weight == 0


def test_an_error_names_blobs_as_the_prototxt_does_not_as_split_layers() -> None:
    label = 'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 2 dim: 5 } } }\n'
    losses = "".join(
        f'layer {{ name: "{name}" type: "SoftmaxWithLoss" bottom: "h" bottom: "label" }}\n' for name in "ab"
    )
    with pytest.raises(NetcErrors) as raised:
        graph(INPUT + label + ip("ip", "data", "h") + losses)
    for error in raised.value.errors:
        assert error.blob == "label"
        assert "of 'h'" in str(error.expected)
        assert "split" not in str(error)


def test_in_place_layers_share_memory_but_make_new_values() -> None:
    net = graph(INPUT + ip("ip", "data", "h") + relu("r", "h", "h"))
    before, after = net.nodes[1].outputs[0], net.nodes[2].outputs[0]
    assert before is not after
    assert after.memory is before.memory is before
    assert after.diff_memory is before.diff_memory


def test_outputs_are_sorted_by_name_as_in_caffe() -> None:
    net = graph(INPUT + relu("z", "data", "z") + relu("b", "data", "b"))
    assert [value.name for value in net.outputs] == ["b", "z"]


def test_backward_runs_only_between_what_learns_and_a_loss() -> None:
    labels = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n'
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" }\n'
    text = (
        INPUT
        + labels
        + relu("first", "data", "f")
        + ip("a", "f", "a")
        + ip("b", "a", "b")
        + ip("side", "a", "s")
    )
    net = graph(text + loss)
    wanted = {node.name: node.needs_backward for node in net.nodes}
    assert wanted == {
        "data": False,
        "label": False,
        "first": False,
        "a": True,
        "a_a_0_split": True,
        "b": True,
        "side": False,
        "loss": True,
    }
    first_ip = next(node for node in net.nodes if node.name == "a")
    assert first_ip.input_needs_grad == [False]
    assert first_ip.param_needs_grad == [True, True]


def test_force_backward_reaches_the_inputs() -> None:
    net = graph("force_backward: true\n" + INPUT + ip("a", "data", "a"))
    assert net.nodes[1].input_needs_grad == [True]


def test_a_frozen_layer_below_everything_runs_no_backward() -> None:
    frozen = "param { lr_mult: 0 } param { lr_mult: 0 }"
    net = graph(INPUT + ip("a", "data", "a", frozen) + ip("b", "a", "b", "loss_weight: 1"))
    assert [node.needs_backward for node in net.nodes] == [False, False, True]
    assert net.nodes[2].input_needs_grad == [False]


def test_all_errors_of_a_net_come_at_once_with_lines_and_remedies() -> None:
    text = (
        INPUT + relu("r", "dta", "r") + ip("ip", "r", "h") + relu("z", "data", "z") + relu("z2", "data", "z")
    )
    text += 'layer { name: "t" type: "TanHH" bottom: "hh" top: "t" }'
    with pytest.raises(NetcErrors) as caught:
        graph(text)
    errors = caught.value.errors
    assert [error.at.line for error in errors if error.at] == [2, 5, 6, 6]
    assert errors[0].remedy == "did you mean data?"
    assert "made by two layers" in errors[1].what
    assert errors[2].remedy == "did you mean h?"
    assert "TanH" in str(errors[3].remedy)


def test_a_shape_error_shows_how_its_input_came_about() -> None:
    conv = (
        'layer { name: "conv" type: "Convolution" bottom: "h" top: "c"\n'
        "  convolution_param { num_output: 2 kernel_size: 20 } }\n"
    )
    with pytest.raises(NetcError) as caught:
        graph(INPUT + relu("r", "data", "h") + conv)
    error = caught.value
    assert error.at is not None
    assert error.at.line in (3, 4)
    assert error.chain == ("data (Input) data: 2 x 3 x 8 x 8", "r (ReLU) h: 2 x 3 x 8 x 8")


def test_an_unknown_layer_type_names_the_nearest() -> None:
    with pytest.raises(NetcError) as caught:
        graph(INPUT + 'layer { name: "c" type: "Convolutoin" bottom: "data" top: "c" }')
    assert "Convolution" in str(caught.value.remedy)
    assert caught.value.at is not None
    assert caught.value.at.line == 2


def test_wrong_number_of_bottoms_is_an_error() -> None:
    with pytest.raises(NetcError, match="wrong number of bottoms"):
        graph(INPUT + 'layer { name: "c" type: "ReLU" bottom: "data" bottom: "data" top: "c" }')


def test_a_layer_that_cannot_run_in_place_says_so() -> None:
    with pytest.raises(NetcError, match="cannot run in place"):
        graph(INPUT + ip("ip", "data", "data"))


def test_shared_parameters_have_one_owner_and_its_rates() -> None:
    text = (
        INPUT
        + ip("a", "data", "a", 'param { name: "w" lr_mult: 3 }', num_output=192)
        + ip("b", "a", "b", 'param { name: "w" }', num_output=192)
    )
    net = graph(text)
    first, second = net.nodes[1].params[0], net.nodes[2].params[0]
    assert second.owner is first
    assert first.lr_mult == 3


def test_strict_sharing_wants_equal_shapes() -> None:
    text = INPUT + ip("a", "data", "a", 'param { name: "w" }') + ip("b", "a", "b", 'param { name: "w" }')
    with pytest.raises(NetcError) as caught:
        graph(text)
    assert "PERMISSIVE" in str(caught.value.remedy)
    assert caught.value.expected == "[4, 192] (layer a, parameter 0)"


def test_two_values_of_a_shared_rate_are_an_error() -> None:
    text = (
        INPUT
        + ip("a", "data", "a", 'param { name: "w" lr_mult: 3 }', num_output=192)
        + ip("b", "a", "b", 'param { name: "w" lr_mult: 2 }', num_output=192)
    )
    with pytest.raises(NetcError, match="two values of lr_mult"):
        graph(text)


def test_a_loss_behind_a_layer_without_gradient_is_an_error() -> None:
    text = (
        INPUT
        + ip("a", "data", "a")
        + 'layer { name: "m" type: "ArgMax" bottom: "a" top: "m" }\n'
        + 'layer { name: "p" type: "Power" bottom: "m" top: "p" loss_weight: 1 }\n'
    )
    with pytest.raises(NetcError, match="gives no gradient") as caught:
        graph(text)
    assert caught.value.at is not None
    assert caught.value.at.line == 3


def test_the_printed_graph_names_layers_and_shapes() -> None:
    text = str(graph(INPUT + ip("a", "data", "h")))
    assert "a" in text
    assert "h[2, 4]" in text


def test_losses_without_tops_count_but_are_no_outputs() -> None:
    loss = 'layer { name: "%s" type: "EuclideanLoss" bottom: "data" bottom: "r" }\n'
    net = graph(INPUT + relu("r", "data", "r") + loss % "one" + loss % "two")
    assert [node.outputs[0].loss_weight for node in net.nodes[-2:]] == [1, 1]
    assert net.outputs == []
