"""What may be wrong with a net in one phase: the table of rules, and what each looks for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from netc.errors import NetcErrors
from netc.graph.unread_options import say_what_is_read, unread_options
from netc.layer import LAYER_TYPES
from netc.proto import netc_pb2 as pb
from netc.tools.lint.data_rules import labels_beyond_outputs, mirrored_tests, raw_pixels, unshuffled_images
from netc.tools.lint.finding import Hit, Rule
from netc.tools.lint.wiring import LEARNED_TYPES, LINEAR_TYPES, NetView, Wired

# Layers whose tops are meant for people or files; nobody need read them.
RESULT_TYPES: Final = (
    "Accuracy",
    "ArgMax",
    "DetectionEvaluate",
    "DetectionOutput",
    "SegAccuracy",
    "Sigmoid",
    "Silence",
    "Softmax",
)
# Losses that contain the layer named: with that layer before them it is applied twice.
CONTAINED: Final = {
    "SoftmaxWithLoss": "Softmax",
    "InfogainLoss": "Softmax",
    "SigmoidCrossEntropyLoss": "Sigmoid",
}
CLASS_LOSSES: Final = ("SoftmaxWithLoss", "MultinomialLogisticLoss", "InfogainLoss", "HingeLoss")
DEPTHWISE_TYPES: Final = ("ConvolutionDepthwise", "DepthwiseConvolution")
FILLED_TYPES: Final = (*LINEAR_TYPES, "Embed", "LSTM", "RNN")
# Transforms in a data layer's own message, which are read in the V1 syntax only.
OLD_TRANSFORMS: Final = ("scale", "mean_file", "crop_size", "mirror")
TRANSFORM_MESSAGES: Final = ("data_param", "image_data_param", "window_data_param")


def broken_nets(view: NetView) -> Iterator[Hit]:
    error = view.error
    if error is None or _is_about_data(view):
        return
    for each in error.errors if isinstance(error, NetcErrors) else [error]:
        expected = f", expected {each.expected}" if each.expected is not None else ""
        found = f", found {each.found}" if each.found is not None else ""
        yield Hit(f"{each.what}{expected}{found}", each.at, each.remedy or "", each.layer or "")


def unread_data(view: NetView) -> Iterator[Hit]:
    if view.error is not None and _is_about_data(view):
        remedy = "make it readable from here, or give -shape data:1,3,224,224"
        what = f"{view.error.what}: shapes are not checked"
        yield Hit(what, view.error.at, remedy, view.error.layer or "")


def _is_about_data(view: NetView) -> bool:
    """Whether it is a data layer that failed, which on another machine may not."""
    name = view.error.layer if view.error else None
    return any(f"{layer.spec.name} ({layer.type})" == name and layer.brings_data for layer in view.layers)


def duplicate_names(view: NetView) -> Iterator[Hit]:
    first: dict[str, Wired] = {}
    for layer in view.layers:
        if layer.spec.name and first.setdefault(layer.spec.name, layer) is not layer:
            name, line = layer.spec.name, first[layer.spec.name].at("name").line
            yield layer.hit(
                f"two layers of phase {view.phase_name} are called {name!r}, the other in line {line}",
                "rename one: Caffe finds weights by name, and the first would take the other's",
                "name",
            )


def no_loss(view: NetView) -> Iterator[Hit]:
    if view.phase != pb.TRAIN or view.has_loss or not any(layer.brings_data for layer in view.layers):
        return
    yield Hit(
        "the net has no loss in phase TRAIN, and would learn nothing",
        view.net.positions.at(),
        'add layer { type: "SoftmaxWithLoss" bottom: "scores" bottom: "label" }, or mend its include rules',
    )


def losses_of_nothing_learned(view: NetView) -> Iterator[Hit]:
    for loss in view.layers:
        if view.phase == pb.TRAIN and loss.is_loss and not any(_learned(layer) for layer in loss.below()):
            yield loss.hit("nothing that learns reaches this loss", "check its bottoms", "bottom", 0)


def learned_for_nothing(view: NetView) -> Iterator[Hit]:
    if view.phase != pb.TRAIN or not view.has_loss:
        return
    for layer in view.layers:
        if _learned(layer) and not layer.is_loss and not any(above.is_loss for above in layer.above()):
            yield layer.hit(
                "the layer feeds no loss, so its parameters never change",
                "connect it to a loss, or remove it from phase TRAIN",
                "name",
            )


def silent_losses(view: NetView) -> Iterator[Hit]:
    for layer in view.layers:
        kind = LAYER_TYPES.get(layer.type)
        weights = layer.spec.loss_weight
        if kind and kind.is_loss and len(weights) and not any(weights):
            yield layer.hit(
                "a loss of weight 0 sends no gradient", "remove it or its loss_weight", "loss_weight", 0
            )


def unused_tops(view: NetView) -> Iterator[Hit]:
    if not view.has_loss:
        return  # a net for use: its outputs are what it is for
    for layer in view.layers:
        made_for_nothing = _learned(layer) and view.phase == pb.TRAIN  # the rule above says so
        if layer.is_loss or layer.type in RESULT_TYPES or made_for_nothing:
            continue
        for position, top in enumerate(layer.spec.top):
            if top not in layer.read_tops:
                yield layer.hit(
                    f"no layer of phase {view.phase_name} reads {top!r}",
                    'remove it, or give it to layer { type: "Silence" } if it is meant to be left',
                    "top",
                    position,
                )


def nothing_learns(view: NetView) -> Iterator[Hit]:
    learned = [layer for layer in view.layers if _learned(layer)]
    if view.phase == pb.TRAIN and view.has_loss and learned and all(map(_is_frozen, learned)):
        yield learned[0].hit(
            "every lr_mult is 0: nothing in the net learns", "set lr_mult: 1 where it is to learn", "param", 0
        )


def frozen_layers(view: NetView) -> Iterator[Hit]:
    if view.phase != pb.TRAIN or not view.has_loss:
        return
    for layer in view.layers:
        if not _learned(layer) or not len(layer.spec.param) or layer.spec.param[0].lr_mult:
            continue
        bias_learns = not _is_frozen(layer) and _has_bias(layer)
        yield layer.hit(
            "lr_mult: 0 holds the weights still" + (", while the bias learns" if bias_learns else ""),
            "right for fine-tuning; else set lr_mult: 1"
            + (", and a second param { lr_mult: 0 } if the bias is to hold still too" if bias_learns else ""),
            "param",
            0,
            "lr_mult",
        )


def missing_fillers(view: NetView) -> Iterator[Hit]:
    if view.phase != pb.TRAIN or not view.has_loss:
        return
    for layer in view.of(*FILLED_TYPES):
        options = layer.options
        if options is not None and not options.HasField("weight_filler") and not _is_frozen(layer):
            yield layer.hit_option(
                "without a weight_filler all weights start at 0, and stay alike",
                'add weight_filler { type: "xavier" } or "msra"; right only if -weights brings them',
            )


def batch_norm_without_scale(view: NetView) -> Iterator[Hit]:
    for layer in view.of("BatchNorm"):
        if layer.readers and not any(reader.type == "Scale" for reader, _ in layer.readers):
            yield layer.hit(
                "BatchNorm without Scale: what it normalises cannot be scaled and shifted back",
                'add layer { type: "Scale" scale_param { bias_term: true } } behind it',
                "type",
            )


def bias_before_batch_norm(view: NetView) -> Iterator[Hit]:
    for layer in view.of(*LINEAR_TYPES):
        if (
            _has_bias(layer)
            and layer.readers
            and all(reader.type == "BatchNorm" for reader, _ in layer.readers)
        ):
            yield layer.hit_option(
                "the bias has no effect: the BatchNorm behind subtracts it again",
                "set bias_term: false",
                "bias_term",
            )


def fixed_statistics(view: NetView) -> Iterator[Hit]:
    for layer in view.of("BatchNorm"):
        options = layer.spec.batch_norm_param
        if not options.HasField("use_global_stats"):
            continue
        if view.phase == pb.TEST and not options.use_global_stats:
            yield layer.hit_option(
                "use_global_stats: false makes tests hang on the other images of their batch",
                "leave it out: BatchNorm then uses the batch in TRAIN, and what it has gathered in TEST",
                "use_global_stats",
            )
        elif view.phase == pb.TRAIN and options.use_global_stats:
            yield layer.hit_option(
                "use_global_stats: true in phase TRAIN holds the statistics still",
                "right for fine-tuning; else leave it out",
                "use_global_stats",
            )


def stacked_linear(view: NetView) -> Iterator[Hit]:
    for layer in view.of(*LINEAR_TYPES):
        below = layer.first_input
        while below is not None and below.type == "Dropout":
            below = below.first_input
        if below is None or below.type not in LINEAR_TYPES or _is_factor(below) or _is_grouped(layer):
            continue
        if layer.type != "Deconvolution" and not _is_grouped(below):
            blob = below.spec.top[0]
            yield layer.hit(
                f"nothing lies between {below.spec.name} and this layer: both can do no more than one could",
                f'add layer {{ type: "ReLU" bottom: "{blob}" top: "{blob}" }} between them',
                "bottom",
                0,
            )


def applied_twice(view: NetView) -> Iterator[Hit]:
    for loss in view.of(*CONTAINED):
        below = loss.first_input
        if below is not None and below.type == CONTAINED[loss.type]:
            yield loss.hit(
                f"{loss.type} does itself what {below.spec.name} ({below.type}) has done already",
                f"let it read {below.spec.bottom[0] if below.spec.bottom else 'the scores'!r}",
                "bottom",
                0,
            )


def dropped_scores(view: NetView) -> Iterator[Hit]:
    for loss in view.layers:
        below = loss.first_input
        if loss.is_loss and below is not None and below.type == "Dropout":
            yield below.hit(
                "Dropout behind the last layer sets scores to 0 at random",
                f"move it before the layer that makes {below.spec.bottom[0]!r}",
                "type",
            )


def rectified_scores(view: NetView) -> Iterator[Hit]:
    for loss in view.of(*CLASS_LOSSES):
        below = loss.first_input
        if below is not None and below.type in ("ReLU", "ReLU6"):
            yield below.hit(
                "a ReLU right before the loss: no class can score below 0",
                "remove it",
                "type",
            )


def one_class(view: NetView) -> Iterator[Hit]:
    for loss in view.of("SoftmaxWithLoss"):
        below = loss.first_input
        if below is not None and below.type in LINEAR_TYPES and below.options.num_output == 1:
            yield below.hit_option(
                "a softmax over one class is always 1, and its loss 0",
                "set num_output: 2, or use SigmoidCrossEntropyLoss",
                "num_output",
            )


def skipping_pools(view: NetView) -> Iterator[Hit]:
    for layer in view.of("Pooling"):
        options = layer.spec.pooling_param
        if options.kernel_size and options.stride > options.kernel_size:
            yield layer.hit_option(
                f"stride {options.stride} is larger than the kernel: cells between windows are never seen",
                f"set stride: {options.kernel_size} or less",
                "stride",
            )


def ignored_transforms(view: NetView) -> Iterator[Hit]:
    for layer in view.layers:
        for message in TRANSFORM_MESSAGES:
            options = getattr(layer.spec, message)
            for name in OLD_TRANSFORMS:
                if layer.spec.HasField(message) and options.HasField(name):
                    yield layer.hit(
                        f"{name} in {message} has no effect, as in Caffe",
                        f"move it to transform_param {{ {name} }}",
                        message,
                        name,
                    )


def options_not_read(view: NetView) -> Iterator[Hit]:
    for layer in view.layers:
        if (known := LAYER_TYPES.get(layer.type)) is None:
            continue
        for name in unread_options(known, layer.spec):
            yield layer.hit(
                f"{name} has no effect on a layer of type {layer.type}",
                f"remove it, or correct the type; {say_what_is_read(known)}",
                name,
            )


def unknown_types(view: NetView) -> Iterator[Hit]:
    for layer in view.layers:
        if not layer.type:
            yield layer.hit("the layer has no type", 'add type: "..."')


def _learned(layer: Wired) -> bool:
    two_bottoms = layer.type in ("Scale", "Bias") and len(layer.spec.bottom) > 1
    return layer.type in LEARNED_TYPES and not two_bottoms


def _has_bias(layer: Wired) -> bool:
    return bool(getattr(layer.options, "bias_term", False))


def _is_frozen(layer: Wired) -> bool:
    """Whether every parameter's lr_mult is 0; one that is not stated is 1."""
    stated = layer.spec.param
    return len(stated) >= 1 + int(_has_bias(layer)) and all(param.lr_mult == 0 for param in stated)


def _is_factor(layer: Wired) -> bool:
    """Whether a layer is meant to have a linear one behind it, as the first of two low-rank factors is."""
    return not _has_bias(layer)


def _is_grouped(layer: Wired) -> bool:
    """Depthwise and grouped convolutions are followed by one across channels on purpose."""
    return layer.type in DEPTHWISE_TYPES or getattr(layer.options, "group", 1) > 1


NET_RULES: Final[tuple[Rule[NetView], ...]] = (
    Rule("broken-net", "error", "the net cannot be built", broken_nets),
    Rule(
        "unread-data",
        "note",
        "data that cannot be read from here, so that shapes are not checked",
        unread_data,
    ),
    Rule("duplicate-name", "warning", "two layers of one name in one phase", duplicate_names),
    Rule("no-loss", "warning", "data layers but no loss in phase TRAIN", no_loss),
    Rule("unreached-loss", "warning", "a loss below which nothing learns", losses_of_nothing_learned),
    Rule("feeds-no-loss", "warning", "a layer with parameters that leads to no loss", learned_for_nothing),
    Rule("loss-weight-zero", "warning", "a loss whose weight is 0", silent_losses),
    Rule("unused-top", "warning", "a top that no layer reads, in a net with a loss", unused_tops),
    Rule("nothing-learns", "warning", "lr_mult: 0 everywhere", nothing_learns),
    Rule("frozen-layer", "note", "lr_mult: 0 on a layer's weights", frozen_layers),
    Rule("no-weight-filler", "warning", "weights that start at 0", missing_fillers),
    Rule(
        "batch-norm-without-scale", "warning", "a BatchNorm that no Scale follows", batch_norm_without_scale
    ),
    Rule("bias-before-batch-norm", "note", "a bias that a BatchNorm takes away", bias_before_batch_norm),
    Rule("fixed-statistics", "warning", "use_global_stats against the phase", fixed_statistics),
    Rule("stacked-linear", "warning", "two linear layers with nothing between them", stacked_linear),
    Rule("applied-twice", "warning", "Softmax before SoftmaxWithLoss, and the like", applied_twice),
    Rule("dropped-scores", "warning", "Dropout behind the last layer", dropped_scores),
    Rule("rectified-scores", "warning", "a ReLU right before a loss over classes", rectified_scores),
    Rule("one-class", "warning", "a softmax over one class", one_class),
    Rule("skipping-pool", "warning", "a pooling stride larger than its kernel", skipping_pools),
    Rule(
        "ignored-transform", "warning", "old transform fields in data_param and its like", ignored_transforms
    ),
    Rule("unread-options", "warning", "options of another type of layer", options_not_read),
    Rule("no-type", "error", "a layer without a type", unknown_types),
    Rule("raw-pixels", "note", "images that reach the net without mean and scale", raw_pixels),
    Rule("mirrored-test", "warning", "test images mirrored at random", mirrored_tests),
    Rule("unshuffled-list", "note", "an image list read in its own order in phase TRAIN", unshuffled_images),
    Rule("label-beyond-outputs", "error", "a label for which the net has no output", labels_beyond_outputs),
)
