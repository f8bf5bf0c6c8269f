"""The benchmark's recipes: what a peer is told of a net, and how far its rules for shapes are Caffe's."""

from __future__ import annotations

import pytest

from bench.nets import NETS, BenchNet, definition_for, net_named, training_net
from bench.recipe import peer_windows, write_recipe
from bench.recipe_file import Recipe
from netc.errors import NetcError
from netc.graph import Build, State, build_graph
from netc.passes import run_passes
from netc.proto import netc_pb2 as pb
from netc.schema.net import parse_net


def recipe_of(definition: pb.NetParameter, phase: int = pb.TRAIN) -> Recipe:
    return write_recipe(run_passes(build_graph(definition, Build(State(phase, 0, frozenset())))))


def recipe_of_text(layer: str, shape: str = "dim: 2 dim: 3 dim: 8 dim: 8") -> Recipe:
    text = f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }} {layer}'
    return recipe_of(parse_net(text).message)


@pytest.mark.parametrize(
    ("cells", "kernel", "stride", "pad", "ceil", "windows"),
    [
        (112, 3, 2, 0, False, 55),
        (112, 3, 2, 0, True, 56),
        (5, 2, 2, 0, True, 3),
        (3, 2, 2, 1, True, 2),  # a third window would start behind the image and the padding before it
        (227, 3, 2, 0, True, 113),
    ],
)
def test_a_peer_counts_windows_by_pytorchs_rule(
    cells: int, kernel: int, stride: int, pad: int, ceil: bool, windows: int
) -> None:
    assert peer_windows(cells, kernel, stride, pad, ceil) == windows


@pytest.mark.parametrize(("size", "ceil"), [(8, True), (9, False)])
def test_pooling_rounds_up_only_where_the_number_of_windows_needs_it(size: int, ceil: bool) -> None:
    pooling = 'type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 3 stride: 2 }'
    recipe = recipe_of_text(f'layer {{ name: "p" {pooling} }}', f"dim: 2 dim: 3 dim: {size} dim: {size}")
    assert recipe.operations[0].options["ceil"] is ceil
    assert recipe.operations[0].shape == [2, 3, 4, 4]


def test_a_batch_norm_takes_the_scale_behind_it_along() -> None:
    recipe = recipe_of_text(
        'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "x" }'
        'layer { name: "scale" type: "Scale" bottom: "x" top: "x" scale_param { bias_term: true } }'
        'layer { name: "relu" type: "ReLU" bottom: "x" top: "x" }'
    )
    norm, relu = recipe.operations
    assert [name for name, _, _ in norm.params] == ["scale/0", "scale/1", "bn/0", "bn/1", "bn/2"]
    assert norm.outputs == relu.inputs


@pytest.mark.parametrize(
    "layer",
    [
        'type: "PReLU"',
        'type: "BatchNorm"',
        'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL }',
        'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 }',
        'type: "Eltwise" bottom: "x" eltwise_param { operation: MAX }',
    ],
    ids=["unknown type", "no scale", "within channel", "stochastic", "maximum"],
)
def test_what_a_peer_cannot_say_is_an_error_that_names_the_layer(layer: str) -> None:
    with pytest.raises(NetcError) as raised:
        recipe_of_text(f'layer {{ name: "l" bottom: "x" top: "y" {layer} }}')
    assert "l (" in str(raised.value)


@pytest.mark.parametrize("net", NETS, ids=[net.name for net in NETS])
@pytest.mark.parametrize("task", ["train", "infer"])
def test_every_net_has_a_recipe_of_either_task_for_a_batch_of_one(net: BenchNet, task: str) -> None:
    recipe = recipe_of(definition_for(net, task, 1), pb.TRAIN if task == "train" else pb.TEST)
    made = set(recipe.inputs.values())
    for operation in recipe.operations:
        assert made >= set(operation.inputs)
        made.update(operation.outputs)
    helpers = [0.3, 0.3] if net.name == "googlenet" else []
    expected = [*helpers, 1] if task == "train" else []
    assert [weight for _, weight in recipe.losses] == pytest.approx(expected)
    assert list(recipe.outputs) == (["prob"] if task == "infer" else [])
    assert Recipe.from_text(recipe.text()).inputs == recipe.inputs


def test_dropout_can_be_left_out_so_that_programs_can_be_compared() -> None:
    ratios = [
        layer.dropout_param.dropout_ratio
        for layer in definition_for(net_named("alexnet"), "train", 1, dropout=False).layer
        if layer.type == "Dropout"
    ]
    assert ratios == [0, 0]


def test_the_data_layer_becomes_inputs_of_the_deploy_nets_image() -> None:
    data = training_net(net_named("lenet"), 5).layer[0]
    assert (data.type, list(data.top)) == ("Input", ["data", "label"])
    assert [list(shape.dim) for shape in data.input_param.shape] == [[5, 1, 28, 28], [5]]


def test_an_unknown_net_is_an_error_that_lists_the_nets() -> None:
    with pytest.raises(NetcError, match="lenet, cifar"):
        net_named("lenet5")
