"""Finite differences in float64 for every layer type that has a gradient, over awkward shapes: one table.

A new differentiable type needs rows in CASES, or a reason in NO_SLOPE why its gradient is not the slope.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from netc.layer import LAYER_TYPES
from tests.layer.gradient_check import check_gradients

PLACES_MOVED = 40  # numbers of each blob, drawn at random
RANDOM = np.random.default_rng(3)
GAUSSIAN = '{ type: "gaussian" std: 0.5 }'
WEIGHT = f"weight_filler {GAUSSIAN}"
BOTH = f"{WEIGHT} bias_filler {GAUSSIAN}"


@dataclass(frozen=True)
class Fixed:
    """Values of a bottom that gets no gradient."""

    values: Any


@dataclass(frozen=True)
class Case:
    """One layer to check.

    options: the rest of its prototxt. bottoms: shapes of random values, arrays of given ones, or Fixed ones.
    tops, silent: how many tops there are, and how many of the last ones take no gradient, as in Caffe.
    apart: whether in place the gradient is another.
    """

    type: str
    options: str
    bottoms: tuple[Any, ...]
    tops: int
    silent: int
    tolerance: float
    apart: bool

    def __str__(self) -> str:
        shapes = [b if isinstance(b, tuple) else np.shape(getattr(b, "values", b)) for b in self.bottoms]
        return f"{self.type} {' '.join(self.options.split())} {shapes}"

    def values(self) -> dict[str, Any]:
        """The given values of the bottoms, by blob name."""
        given = {f"x{i}": getattr(bottom, "values", bottom) for i, bottom in enumerate(self.bottoms)}
        return {name: values for name, values in given.items() if not isinstance(values, tuple)}

    def fixed(self) -> list[str]:
        return [f"x{i}" for i, bottom in enumerate(self.bottoms) if isinstance(bottom, Fixed)]

    def net(self, in_place: bool = False) -> str:
        """The net's prototxt; in place the first bottom comes from a layer, so that the input stays."""
        lines = ["force_backward: true"]
        for i, bottom in enumerate(self.bottoms):
            shape = bottom if isinstance(bottom, tuple) else np.shape(getattr(bottom, "values", bottom))
            dims = " ".join(f"dim: {n}" for n in shape)
            lines.append(
                f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}'
            )
        bottoms, tops = [f"x{i}" for i in range(len(self.bottoms))], [f"y{i}" for i in range(self.tops)]
        if in_place:
            lines.append('layer { name: "h" type: "Power" bottom: "x0" top: "h" power_param { scale: 1.2 } }')
            bottoms[0] = tops[0] = "h"
        wired = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in tops)])
        lines.append(f'layer {{ name: "layer" type: "{self.type}" {wired} {self.options} }}')
        for top in tops[self.tops - self.silent :]:
            lines.append(f'layer {{ name: "silence_{top}" type: "Silence" bottom: "{top}" }}')
        return "\n".join(lines)


def case(
    type_name: str,
    options: str = "",
    *bottoms: Any,
    tops: int = 1,
    silent: int = 0,
    tolerance: float = 1e-5,
    apart: bool = False,
) -> Case:
    return Case(type_name, options, bottoms, tops, silent, tolerance, apart)


def positive(*shape: int) -> Any:
    return RANDOM.uniform(0.5, 1.5, shape)


def labels(classes: int, *shape: int) -> Fixed:
    return Fixed(RANDOM.integers(0, classes, shape))


def convolution(options: str, kind: str = "Convolution") -> str:
    return f"convolution_param {{ {options} {BOTH if kind != 'Im2col' else ''} }}"


ODD = (3, 5, 7, 1)  # N C H W: primes, and an axis of one cell
IMAGES = (2, 3, 7, 6)
CONT = Fixed([[0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])  # (T, N): where the sequences go on

ELEMENTWISE = [
    case("AbsVal", "", ODD),
    case("BNLL", "", ODD),
    case("Clip", "clip_param { min: -0.5 max: 0.7 }", ODD),
    case("Dropout", "dropout_param { dropout_ratio: 0.3 }", ODD),
    case("ELU", "elu_param { alpha: 0.7 }", ODD),
    case("Exp", "exp_param { base: 1.7 scale: 0.5 shift: 0.3 }", ODD),
    case("Log", "", positive(*ODD)),
    case("Log", "log_param { base: 3 scale: 2 shift: 0.5 }", positive(11)),
    case("PReLU", f"prelu_param {{ filler {GAUSSIAN} }}", ODD),
    case("PReLU", "prelu_param { channel_shared: true }", (4, 1)),
    case("Power", "power_param { power: 3 scale: 0.5 shift: 0.2 }", ODD),
    case("Power", "power_param { power: 0.5 scale: 2 shift: 1 }", positive(5)),
    case("ReLU", "", ODD),
    case("ReLU", "relu_param { negative_slope: 0.2 }", (1,)),
    case("Sigmoid", "", ODD),
    case("Swish", "swish_param { beta: 1.5 }", ODD),
    case("TanH", "", ODD),
    case("Softmax", "", ODD),
    case("Softmax", "softmax_param { axis: -1 }", (2, 1, 5)),
    case("Bias", f"bias_param {{ filler {GAUSSIAN} }}", ODD),
    case("Bias", "bias_param { axis: 2 }", (2, 3, 5, 2), (5, 2)),
    case("Scale", f"scale_param {{ filler {GAUSSIAN} bias_term: true }}", ODD),
    case("Scale", "scale_param { axis: 0 }", (2, 3, 5), (2, 3)),
    case("Scale", f"scale_param {{ axis: -1 num_axes: 0 filler {GAUSSIAN} }}", (3, 5)),
    case("Eltwise", "eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }", ODD, ODD, ODD),
    case("Eltwise", "eltwise_param { operation: PROD }", ODD, ODD),
    case("Eltwise", "eltwise_param { operation: PROD stable_prod_grad: false }", ODD, ODD, ODD),
    case("Eltwise", "eltwise_param { operation: MAX }", ODD, ODD, ODD),
]

SHAPES = [
    case("BatchReindex", "", (5, 2, 3), Fixed([3, 0, 3, 4, 3, 4, 3])),
    case("BatchReindex", "", (3,), Fixed([2])),
    case("Concat", "concat_param { axis: 2 }", (2, 3, 1), (2, 3, 5)),
    case("Concat", "", (2, 3)),
    case("Crop", "crop_param { axis: 1 offset: 1 offset: 0 offset: 2 }", (2, 4, 3, 7), (1, 2, 3, 4)),
    case("Crop", "crop_param { axis: -1 offset: 4 }", (3, 5), (1, 1)),
    case("Flatten", "flatten_param { axis: 1 end_axis: 2 }", IMAGES),
    case("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 1 } }", ODD),
    case("Slice", "slice_param { slice_point: 1 slice_point: 4 }", ODD, tops=3),
    case("Slice", "slice_param { axis: -1 }", (3, 1, 6), tops=2),
    case("Split", "", ODD, tops=3),
    case("Tile", "tile_param { axis: 2 tiles: 3 }", (2, 3, 5)),
    case("Tile", "tile_param { axis: -1 tiles: 2 }", (1,)),
    case("Reduction", "reduction_param { operation: SUM axis: 1 coeff: -2 }", ODD),
    case("Reduction", "reduction_param { operation: ASUM axis: -1 coeff: 0.5 }", (3, 2, 5)),
    case("Reduction", "reduction_param { operation: SUMSQ axis: 2 }", ODD),
    case("Reduction", "reduction_param { operation: MEAN coeff: 3 }", ODD),
    case("Parameter", "parameter_param { shape { dim: 3 dim: 1 dim: 2 } }"),
    case("Parameter", "parameter_param { }"),
]

WINDOWS = [
    *(
        case(kind, convolution(options, kind), shape)
        for kind in ("Convolution", "Deconvolution", "Im2col")
        for options, shape in (
            ("num_output: 4 kernel_size: 3 stride: 2 pad: 1", IMAGES),
            ("num_output: 2 kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 2", IMAGES),
            ("num_output: 4 group: 2 kernel_size: 2 dilation: 2", (3, 4, 3, 5)),
            ("num_output: 3 kernel_size: 3 stride: 2 bias_term: false", (2, 2, 7)),
            ("num_output: 2 kernel_size: 2 stride: 1 stride: 2 stride: 1", (1, 2, 2, 3, 4)),
            ("num_output: 5 kernel_size: 1", (2, 3, 9, 8)),
            ("num_output: 2 kernel_size: 2 axis: 2", (2, 3, 2, 4, 3)),
        )
    ),
    *(
        case("Pooling", f"pooling_param {{ {options} }}", shape)
        for options, shape in (
            ("kernel_size: 3 stride: 2 pad: 1", IMAGES),
            ("kernel_h: 2 kernel_w: 5 stride: 3", (2, 1, 7, 11)),
            ("pool: AVE kernel_size: 3 stride: 2 pad: 1", IMAGES),
            ("pool: AVE global_pooling: true", ODD),
            ("global_pooling: true", IMAGES),
        )
    ),
    case("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 }", positive(*IMAGES)),
    case("SPP", "spp_param { pyramid_height: 3 }", (2, 2, 7, 9)),
    case("SPP", "spp_param { pyramid_height: 2 pool: AVE }", (1, 3, 5, 2)),
    case("SPP", "spp_param { pyramid_height: 1 pool: AVE }", (2, 3, 1, 4)),
]

DENSE = [
    case("InnerProduct", f"inner_product_param {{ num_output: 3 {BOTH} }}", ODD),
    case(
        "InnerProduct", f"inner_product_param {{ num_output: 1 axis: 2 transpose: true {WEIGHT} }}", (2, 3, 5)
    ),
    case("Embed", f"embed_param {{ input_dim: 5 num_output: 3 {BOTH} }}", Fixed([[4, 0], [4, 1], [4, 4]])),
    case("Embed", f"embed_param {{ input_dim: 1 num_output: 1 bias_term: false {WEIGHT} }}", Fixed([0])),
]

NORMALISED = [
    case("BatchNorm", "", ODD),
    case("BatchNorm", "batch_norm_param { use_global_stats: true }", ODD),
    case("BatchNorm", "batch_norm_param { eps: 0.1 }", (7, 3)),
    case("BatchNorm", f"batch_norm_param {{ scale_filler {GAUSSIAN} bias_filler {GAUSSIAN} }}", ODD),
    case("BatchNorm", f"batch_norm_param {{ use_global_stats: true scale_filler {GAUSSIAN} }}", ODD),
    case("LRN", "lrn_param { local_size: 3 alpha: 0.5 beta: 0.6 k: 2 }", (2, 7, 3, 1)),
    case("LRN", "lrn_param { local_size: 5 alpha: 2 norm_region: WITHIN_CHANNEL }", ODD),
    case("MVN", "", (2, 3, 5, 1)),
    case("MVN", "mvn_param { across_channels: true }", (3, 1, 2, 7)),
    case("MVN", "mvn_param { normalize_variance: false }", (2, 3, 5)),
]

LOSSES = [
    case(
        "ContrastiveLoss",
        "contrastive_loss_param { legacy_version: true margin: 9 }",
        (5, 3),
        (5, 3),
        labels(2, 5),
    ),
    # Its slope divides by d + 0.0001.
    case(
        "ContrastiveLoss",
        "contrastive_loss_param { margin: 4 }",
        (5, 3),
        (5, 3),
        labels(2, 5),
        tolerance=1e-4,
    ),
    case("EuclideanLoss", "loss_weight: 0.3", (3, 5, 2), (3, 5, 2)),
    case("HingeLoss", "", (3, 5), labels(5, 3)),
    case("HingeLoss", "hinge_loss_param { norm: L2 }", (3, 5, 1), labels(5, 3)),
    case("InfogainLoss", "", (3, 5), labels(5, 3), Fixed(positive(5, 5))),
    case(
        "InfogainLoss", "loss_param { ignore_label: 1 }", (2, 3, 1, 4), labels(3, 2, 1, 4), Fixed(positive(9))
    ),
    case(
        "InfogainLoss", "infogain_loss_param { axis: -1 }", (2, 1, 3), labels(3, 2, 1), Fixed(positive(3, 3))
    ),
    case("MultinomialLogisticLoss", "loss_weight: 2", positive(3, 5), labels(5, 3)),
    case("MultinomialLogisticLoss", "", positive(2, 1, 2, 3), labels(6, 2, 1)),
    case("SigmoidCrossEntropyLoss", "", (3, 5), Fixed(RANDOM.uniform(0, 1, (3, 5)))),
    case(
        "SigmoidCrossEntropyLoss", "loss_param { ignore_label: 1 normalization: VALID }", (7,), labels(2, 7)
    ),
    case("SoftmaxWithLoss", "", (3, 5), labels(5, 3)),
    case("SoftmaxWithLoss", "loss_param { ignore_label: 1 }", (2, 3, 1, 4), labels(3, 2, 1, 4)),
    case("SoftmaxWithLoss", "softmax_param { axis: -1 }", (2, 1, 3), labels(3, 2, 1)),
    case(
        "SoftmaxWithLoss",
        "loss_param { ignore_label: 0 class_weight: 2 class_weight: 0.5 class_weight: 3 }",
        (5, 3),
        labels(3, 5),
    ),
]

EXPOSED = f"recurrent_param {{ num_output: 2 expose_hidden: true {BOTH} }}"
FIRST = Fixed(RANDOM.standard_normal((1, 3, 2)))
RECURRENT = [
    case("LSTM", f"recurrent_param {{ num_output: 3 {BOTH} }}", (4, 3, 2), CONT),
    case("LSTM", f"recurrent_param {{ num_output: 1 {BOTH} }}", (4, 3, 2), CONT, (3, 5)),
    case("LSTM", EXPOSED, (4, 3, 1), CONT, FIRST, FIRST, tops=3, silent=2),
    case("LSTMUnit", "", (1, 3, 2), (1, 3, 8), Fixed([[1, 0, 1]]), tops=2),
    case("RNN", f"recurrent_param {{ num_output: 3 {BOTH} }}", (4, 3, 2), CONT),
    case("RNN", EXPOSED, (4, 3, 1), CONT, FIRST, tops=2, silent=1),
    case("Filter", "", (5, 2, 3), (5,), Fixed([0, 1, 1, 0, 1]), tops=2),
]

REGIONS = Fixed([[0, 1, 1, 5, 4], [1, 0, 2, 3, 6], [0, 4, 0, 5, 0]])
CORNERS = [[0.1, 0.1, 0.5, 0.4], [0.3, 0.5, 0.9, 0.8], [0.0, 0.6, 0.2, 1.0], [0.5, 0.1, 1.0, 0.6]]
PRIORS = Fixed(np.reshape([CORNERS, np.full((4, 4), 0.2)], (1, 2, 16)))
TRUTH = Fixed(
    [[[[0, 1, 0, 0.1, 0.1, 0.5, 0.5, 0], [1, 2, 0, 0.3, 0.4, 0.9, 0.8, 0], [1, 1, 1, 0.5, 0.1, 1, 0.5, 0]]]]
)
PLACES = Fixed(RANDOM.permuted(np.tile(np.arange(20), (6, 1)), axis=1)[:, :4].reshape(2, 3, 2, 2))
DEPTHWISE = f"convolution_param {{ num_output: 3 group: 3 kernel_size: 3 stride: 2 pad: 1 {BOTH} }}"
UNEVEN = f"kernel_h: 2 kernel_w: 4 stride_h: 1 stride_w: 3 pad_h: 0 pad_w: 2 dilation: 1 {BOTH}"
FORKS = [
    case("Axpy", "", (2, 3), (2, 3, 5, 1), (2, 3, 5, 1)),
    case("Axpy", "", (1, 3, 1, 1), (1, 3, 2, 2), (1, 3, 2, 2)),
    case("BN", f"bn_param {{ slope_filler {GAUSSIAN} bias_filler {GAUSSIAN} }}", ODD),
    case("BN", f"bn_param {{ frozen: true slope_filler {GAUSSIAN} }}", ODD),
    case("BN", f"bn_param {{ scale_filler {GAUSSIAN} shift_filler {GAUSSIAN} }}", (7, 3)),
    case("BN", f"bn_param {{ bn_mode: INFERENCE scale_filler {GAUSSIAN} }}", ODD, apart=True),
    case("DepthwiseConvolution", DEPTHWISE, IMAGES),
    case("ConvolutionDepthwise", DEPTHWISE, IMAGES),
    case("ConvolutionDepthwise", f"convolution_param {{ num_output: 1 {UNEVEN} }}", (1, 2, 3, 7)),
    case("Interp", "interp_param { height: 5 width: 11 }", IMAGES),
    case("Interp", "interp_param { zoom_factor: 3 shrink_factor: 2 pad_beg: -1 }", IMAGES),
    case("L1Loss", "", (3, 5), (3, 5)),
    *(
        case(
            "MultiBoxLoss",
            f"multibox_loss_param {{ num_classes: 3 {options} }}",
            (2, 16),
            (2, 12),
            PRIORS,
            TRUTH,
        )
        for options in (
            "",
            "loc_loss_type: L2 loc_weight: 2 code_type: CENTER_SIZE neg_pos_ratio: 1",
            "conf_loss_type: LOGISTIC mining_type: NONE",
        )
    ),
    case("Normalize", f"norm_param {{ scale_filler {GAUSSIAN} }}", ODD),
    case("Normalize", "norm_param { across_spatial: false channel_shared: false }", IMAGES),
    case("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }", ODD),
    case("Permute", "permute_param { order: 0 order: 1 }", (2, 3, 5)),
    case(
        "PSROIPooling",
        "psroi_pooling_param { spatial_scale: 1 output_dim: 2 group_size: 2 }",
        (2, 8, 7, 6),
        REGIONS,
    ),
    case("ROIPooling", "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.8 }", IMAGES, REGIONS),
    case("ReLU6", "", RANDOM.uniform(-3, 9, ODD)),
    case("SeLU", "", ODD),
    case("SeLu", "selu_param { alpha: 1.5 }", ODD),
    case("SeLUDropout", "selu_dropout_param { dropout_ratio: 0.3 }", ODD),
    case("SeLuDropout", "", ODD),
    case("ShuffleChannel", "shuffle_channel_param { group: 3 }", (2, 6, 1, 5)),
    case("SmoothL1Loss", "", (3, 5), (3, 5)),
    case("SmoothL1Loss", "smooth_l1_loss_param { sigma: 2 } loss_weight: 3", (3, 5), (3, 5)),
    case("SmoothL1Loss", "loss_weight: 1", (3, 5), (3, 5), Fixed(positive(3, 5)), Fixed(positive(3, 5))),
    case("SmoothL1LossOHEM", "loss_weight: 2", (3, 5, 1, 2), (3, 5, 1, 2)),
    case("SoftmaxWithLossOHEM", "", (3, 5), labels(5, 3)),
    case("SoftmaxWithLossOHEM", "", (2, 3, 1, 4), labels(3, 2, 1, 4), tops=3, silent=2),
    case("Upsample", "upsample_param { upsample_h: 4 upsample_w: 5 }", (2, 3, 2, 2), PLACES),
]

CASES = [*ELEMENTWISE, *SHAPES, *WINDOWS, *DENSE, *NORMALISED, *LOSSES, *RECURRENT, *FORKS]

# Types whose gradient cannot be held to a slope, and why; their own tests and golden cases decide.
NO_SLOPE = {
    "BoxAnnotatorOHEM": "it passes on what it chooses, and no gradient",
    "Python": "its meaning is its user's",
    "Silence": "it has no tops",
}
# Types whose gradient in place is Caffe's, not the slope.
NO_SLOPE_IN_PLACE = {
    "BNLL": "it reads the bottom, which is the top by then",
    "Clip": "it reads the bottom, which is the top by then",
    "Eltwise": "its first bottom is overwritten while the others are taken in",
    "Log": "it reads the bottom, which is the top by then",
    "Power": "it writes the slope over the top's gradient before it multiplies by that",
    "SeLU": "it takes exp of what it wrote",
    "SeLu": "it takes exp of what it wrote",
}


def check(checked: Case, net: str) -> None:
    check_gradients(
        net, checked.values(), fixed=checked.fixed(), tolerance=checked.tolerance, places=PLACES_MOVED
    )


@pytest.mark.parametrize("checked", CASES, ids=str)
def test_gradients_are_slopes(checked: Case) -> None:
    check(checked, checked.net())


@pytest.mark.parametrize(
    "checked",
    [c for c in CASES if LAYER_TYPES[c.type].in_place and c.type not in NO_SLOPE_IN_PLACE and not c.apart],
    ids=str,
)
def test_gradients_are_slopes_in_place(checked: Case) -> None:
    check(checked, checked.net(in_place=True))


def without_a_row(types: Sequence[str]) -> set[str]:
    """The differentiable types among these that the tables do not know."""
    return {t for t in types if LAYER_TYPES[t].differentiable} - {c.type for c in CASES} - set(NO_SLOPE)


def test_every_differentiable_type_is_checked() -> None:
    assert not without_a_row(list(LAYER_TYPES)), "add rows to CASES, or a reason to NO_SLOPE"


def test_the_tables_name_types_that_exist_and_do_not_overlap() -> None:
    checked = {c.type for c in CASES}
    assert checked | {*NO_SLOPE, *NO_SLOPE_IN_PLACE} <= set(LAYER_TYPES)
    assert not checked & set(NO_SLOPE)
    assert not without_a_row(["Accuracy"])  # it has no gradient, and needs no row
