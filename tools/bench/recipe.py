"""Writes a net's graph down as a recipe, from which a peer builds the same net without netc.

Where the peer's rules differ from Caffe's (how pooling rounds), the recipe says what makes them agree; what
it cannot say is an error, never an approximation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from bench.recipe_file import Operation, Recipe
from netc.errors import NetcError
from netc.graph import Graph, Node, Value
from netc.proto import netc_pb2 as pb


def write_recipe(graph: Graph) -> Recipe:
    """The recipe of a graph. Raises NetcError for a layer type or option that the peers do not have."""
    numbers: dict[Value, int] = {}
    for number, value in enumerate(graph.values()):
        numbers[value] = number
    recipe = Recipe(graph.name, {}, [], [], {})
    folded: set[Node] = set()
    for node in graph.nodes:
        if node in folded:
            continue
        if node.type == "Input":
            recipe.inputs.update((value.name, numbers[value]) for value in node.outputs)
            continue
        recipe.operations.append(_operation(node, numbers, folded))
        recipe.losses += [(numbers[v], v.loss_weight) for v in node.outputs if v.loss_weight]
    recipe.outputs = {value.name: numbers[value] for value in graph.outputs if not value.loss_weight}
    return recipe


def _operation(node: Node, numbers: Mapping[Value, int], folded: set[Node]) -> Operation:
    if node.type not in RULES:
        raise NetcError(
            "the peers have no such layer",
            layer=f"{node.name} ({node.type})",
            expected=", ".join(sorted(RULES)),
        )
    kind, options = RULES[node.type]
    made = node.outputs
    params = list(node.params)
    given = options(node)
    if node.type == "BatchNorm":
        scale = _scale_behind(node)
        folded.add(scale)
        made, params = scale.outputs, [*scale.params, *params]
    return Operation(
        kind,
        node.name,
        [numbers[value] for value in node.inputs],
        [numbers[value] for value in made],
        given,
        [(f"{p.owner.layer}/{p.owner.index}", p.owner.lr_mult, p.owner.decay_mult) for p in params],
        list(made[0].shape),
    )


def _scale_behind(node: Node) -> Node:
    """The Scale layer that reads a BatchNorm's top, which makes the two a peer's batch norm."""
    readers = node.outputs[0].consumers
    if len(readers) != 1 or readers[0].type != "Scale" or len(readers[0].params) != 2:
        raise _misfit(node, "a BatchNorm without a Scale with bias_term behind it")
    return readers[0]


def _misfit(node: Node, what: str) -> NetcError:
    return NetcError(
        f"the peers have no way to say {what}", at=node.location, layer=f"{node.name} ({node.type})"
    )


def _convolution(node: Node) -> dict[str, Any]:
    window, options = node.layer.window, node.layer.options
    return {
        "channels": node.inputs[0].shape[1],
        "num_output": options.num_output,
        "kernel": list(window.kernel),
        "stride": list(window.stride),
        "pad": list(window.pad),
        "dilation": list(window.dilation),
        "group": options.group,
        "bias": len(node.params) > 1,
    }


def _dense(node: Node) -> dict[str, Any]:
    if node.layer.options.transpose or node.layer.options.axis != 1:
        raise _misfit(node, "transpose, or an axis other than 1")
    outputs, columns = node.params[0].shape
    return {"columns": columns, "num_output": outputs, "bias": len(node.params) > 1}


def _pooling(node: Node) -> dict[str, Any]:
    layer = node.layer
    if layer.method not in ("maximum", "average") or len(node.outputs) > 1:
        raise _misfit(node, "stochastic pooling, or the places of maxima")
    image, output, window = node.inputs[0].shape[2:], node.outputs[0].shape[2:], layer.window
    return {
        "method": layer.method,
        "kernel": list(window.kernel),
        "stride": list(window.stride),
        "pad": list(window.pad),
        "whole": tuple(output) == (1, 1) and tuple(window.kernel) == tuple(image) and not any(window.pad),
        "ceil": choose_rounding(node, image, output),
    }


def choose_rounding(node: Node, image: Sequence[int], output: Sequence[int]) -> bool:
    """Whether a peer must round the number of windows up to make as many as Caffe does."""
    window = node.layer.window
    for ceil in (False, True):
        sizes = zip(image, window.kernel, window.stride, window.pad, strict=True)
        if tuple(peer_windows(*size, ceil) for size in sizes) == tuple(output):
            return ceil
    raise _misfit(node, f"{tuple(output)} windows over {tuple(image)} cells")


def peer_windows(cells: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """The windows along one axis by PyTorch's rule: rounded up, one that would start behind the image and
    the padding before it is dropped."""
    over = cells + 2 * pad - kernel
    windows = (-(-over // stride) if ceil else over // stride) + 1
    return windows - 1 if ceil and (windows - 1) * stride >= cells + pad else windows


def _lrn(node: Node) -> dict[str, Any]:
    options = node.layer.options
    if options.norm_region != pb.LRNParameter.ACROSS_CHANNELS:
        raise _misfit(node, "norm_region: WITHIN_CHANNEL")
    return {name: getattr(options, name) for name in ("local_size", "alpha", "beta", "k")}


def _eltwise(node: Node) -> dict[str, Any]:
    options = node.layer.options
    if options.operation != pb.EltwiseParameter.SUM or any(c != 1 for c in options.coeff):
        raise _misfit(node, "anything but a plain sum")
    return {}


def _batch_norm(node: Node) -> dict[str, Any]:
    if len(node.params) != 3:
        raise _misfit(node, "a BatchNorm with a factor of its own")
    options = node.layer.options
    return {
        "channels": node.inputs[0].shape[1],
        "eps": options.eps,
        "fraction": options.moving_average_fraction,
        "from_batch": node.layer.from_batch,
    }


def _relu(node: Node) -> dict[str, Any]:
    in_place = node.outputs[0].memory is not node.outputs[0]
    return {"slope": node.layer.options.negative_slope, "in_place": in_place}


def _nothing(node: Node) -> dict[str, Any]:
    return {}


# A layer type's operation, and what its options are.
RULES: Final[Mapping[str, tuple[str, Callable[[Node], dict[str, Any]]]]] = {
    "BatchNorm": ("batch_norm", _batch_norm),
    "Concat": ("concat", lambda node: {"axis": node.layer.axis}),
    "Convolution": ("convolution", _convolution),
    "Dropout": ("dropout", lambda node: {"ratio": node.layer.options.dropout_ratio}),
    "Eltwise": ("sum", _eltwise),
    "InnerProduct": ("dense", _dense),
    "LRN": ("lrn", _lrn),
    "Pooling": ("pooling", _pooling),
    "ReLU": ("relu", _relu),
    "Softmax": ("softmax", _nothing),
    "SoftmaxWithLoss": ("softmax_loss", _nothing),
    "Split": ("split", lambda node: {"count": len(node.outputs)}),
}
