"""The forms of convolutions and deconvolutions, alone and with a ReLU, agree with their layers both ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from netc.backends.cuda.convolution import channel_sum, winograd
from netc.backends.cuda.convolution import form as conv_form
from netc.backends.cuda.convolution.channel_sum import Relu, channel_sum_floats, sum_channels
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN, Form, Mode
from netc.graph import Node
from tests.cuda.arrays import get, put, room
from tests.cuda.one_chain import Array, OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

IN_PLACE = 'type: "ReLU" bottom: "y" top: "y"'
LEAKY = 'type: "ReLU" relu_param { negative_slope: 0.1 }'
LEAKY_IN_PLACE = 'type: "ReLU" bottom: "y" top: "y" relu_param { negative_slope: 0.1 }'


def layer(type_: str, options: str) -> str:
    return f'type: "{type_}" top: "y" convolution_param {{ {options} }}'


# A layer, its bottom's shape, its filters' shape.
LAYERS = {
    "3x3": (layer("Convolution", "num_output: 6 kernel_size: 3 pad: 1"), (2, 4, 7, 8), (6, 4, 3, 3)),
    "no bias": (
        layer("Convolution", "num_output: 6 kernel_size: 3 stride: 2 bias_term: false"),
        (2, 4, 7, 8),
        (6, 4, 3, 3),
    ),
    "1x1": (layer("Convolution", "num_output: 8 kernel_size: 1"), (3, 4, 4, 5), (8, 4, 1, 1)),
    "groups, hole": (
        layer("Convolution", "num_output: 6 group: 2 kernel_h: 3 kernel_w: 2 hole: 2 pad: 2"),
        (1, 4, 9, 8),
        (6, 2, 3, 2),
    ),
    "one spatial axis": (layer("Convolution", "num_output: 3 kernel_size: 4 pad: 1"), (2, 5, 9), (3, 5, 4)),
    "axis 2": (
        layer("Convolution", "num_output: 3 kernel_size: 2 axis: 2"),
        (2, 2, 4, 5, 6),
        (3, 4, 2, 2),
    ),
    "depthwise": (
        layer("DepthwiseConvolution", "num_output: 5 group: 5 kernel_size: 3 pad: 1 stride: 2"),
        (2, 5, 8, 7),
        (5, 1, 3, 3),
    ),
    "not quite depthwise": (
        layer("DepthwiseConvolution", "num_output: 8 group: 4 kernel_size: 3 pad: 1"),
        (2, 4, 5, 6),
        (8, 1, 3, 3),
    ),
    "ConvolutionDepthwise": (
        layer("ConvolutionDepthwise", "num_output: 1 kernel_size: 3 pad: 1 stride: 1"),
        (2, 5, 8, 7),
        (5, 1, 3, 3),
    ),
    "deconvolution": (
        layer("Deconvolution", "num_output: 6 kernel_size: 4 stride: 2 pad: 1"),
        (2, 3, 5, 4),
        (3, 6, 4, 4),
    ),
    "deconvolution in groups": (
        layer("Deconvolution", "num_output: 6 group: 2 kernel_size: 3 stride: 3 dilation: 2"),
        (2, 4, 3, 4),
        (4, 3, 3, 3),
    ),
    "enlarging": (
        layer("Deconvolution", "num_output: 3 group: 3 kernel_size: 4 stride: 2 pad: 1 bias_term: false"),
        (1, 3, 5, 6),
        (3, 1, 4, 4),
    ),
}
CHAINS = {"alone": (), "ReLU": (IN_PLACE,), "leaky": (LEAKY_IN_PLACE,), "leaky out of place": (LEAKY,)}


def whole(*shape: int, seed: int = 0) -> Array:
    """Small whole numbers, which every math mode takes as they are: no sign is lost to rounding."""
    return np.round(2 * drawn(*shape, seed=seed))


def form_of(
    device: EmulatedDevice,
    name: str,
    after: tuple[str, ...] = (),
    draw: Callable[..., Array] = drawn,
    **options: object,
) -> OneChain:
    text, bottom, filters = LAYERS[name]
    texts = [text, *after]
    top = chain_of(texts, bottom)[0].outputs[0].shape
    axis = 2 if name == "axis 2" else 1
    params = [draw(*filters, seed=1)]
    if "bias_term: false" not in text:
        params.append(draw(top[axis], seed=2))
    return OneChain(device, conv_form.make_convolution, texts, draw(*bottom), params=params, **options)


@pytest.mark.parametrize("after", CHAINS)
@pytest.mark.parametrize("name", LAYERS)
def test_forms_agree_with_their_layers(device: EmulatedDevice, name: str, after: str) -> None:
    one = form_of(device, name, CHAINS[after])
    one.check(drawn(*one.form.outputs[0].shape, seed=3), rtol=1e-4, atol=2e-6)
    assert one.form.flops() > 0


def test_no_gradient_is_made_that_nobody_wants(checked: EmulatedDevice) -> None:
    one = form_of(checked, "3x3", wanted=[False])
    one.check(drawn(2, 6, 7, 8, seed=3), rtol=1e-4, atol=2e-6)


def test_several_bottoms_share_the_filters(checked: EmulatedDevice) -> None:
    text = 'type: "Convolution" top: "a" top: "b" convolution_param { num_output: 3 kernel_size: 3 }'
    params = [drawn(3, 2, 3, 3, seed=1), drawn(3, seed=2)]
    one = OneChain(
        checked,
        conv_form.make_convolution,
        text,
        drawn(2, 2, 5, 6),
        drawn(2, 2, 5, 6, seed=4),
        params=params,
    )
    one.check(drawn(2, 3, 3, 4, seed=5), drawn(2, 3, 3, 4, seed=6), rtol=1e-4, atol=2e-6)
    one.check(drawn(2, 3, 3, 4, seed=5), None, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("after", [LEAKY, LEAKY_IN_PLACE])
def test_a_relu_changes_its_tops_gradient_only_in_place(checked: EmulatedDevice, after: str) -> None:
    one = form_of(checked, "3x3", (after,))
    dy = drawn(2, 6, 7, 8, seed=3)
    one.forward()
    one.backward([dy])
    changed = bool((one.buffers.top_grads[0] != dy).any())
    assert changed == (after == LEAKY_IN_PLACE)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ('type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 }', (2, 2, 3, 3, 3)),
        ('type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 2 }', (2, 2, 2, 3, 3)),
    ],
)
def test_three_spatial_axes_are_left_to_the_layer(
    fast: EmulatedDevice, text: str, shape: tuple[int, ...]
) -> None:
    assert conv_form.make_convolution(chain_of(text, shape), Mode(), fast) is None


def test_a_relu_that_falls_is_left_to_the_layer(fast: EmulatedDevice) -> None:
    falling = 'type: "ReLU" relu_param { negative_slope: -0.1 }'
    nodes = chain_of([LAYERS["3x3"][0], falling], (2, 4, 7, 8))
    assert conv_form.make_convolution(nodes, Mode(), fast) is None


# Half a unit in the last place of what numbers are rounded to, with room for the sums.
@pytest.mark.parametrize(("math", "tolerance"), [("tf32", 2e-3), ("bf16", 1.5e-2), ("fp16", 2e-3)])
@pytest.mark.parametrize("name", ["3x3", "deconvolution"])
def test_the_math_mode_decides_which_kernels_run(
    fast: EmulatedDevice, name: str, math: str, tolerance: float
) -> None:
    one = form_of(fast, name, (LEAKY_IN_PLACE,), mode=Mode(math=math))
    assert one.form.variant == f"mma {math}, ReLU"
    one.check(drawn(*one.form.outputs[0].shape, seed=3), rtol=tolerance, atol=tolerance)


# ---- channels last ----
TOLERANCES = {"tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}  # of a leaky gradient, which is not whole


@pytest.mark.parametrize("after", CHAINS)
@pytest.mark.parametrize("name", LAYERS)
def test_forms_agree_with_their_layers_over_channels_last(
    fast: EmulatedDevice, name: str, after: str
) -> None:
    """Where the images have four axes; the others stay plain."""
    math = list(TOLERANCES)[(list(LAYERS).index(name) + list(CHAINS).index(after)) % 3]
    one = form_of(fast, name, CHAINS[after], whole, mode=Mode(math=math), layout=NHWC)
    images = name not in ("one spatial axis", "axis 2")
    assert one.form.bottom_layouts == one.form.top_layouts == [NHWC if images else PLAIN]
    family = "depthwise" if one.form.shape.is_depthwise else f"{'last' if images else 'mma'} {math}"
    assert one.form.variant.startswith(family)
    top_grad = whole(*one.form.outputs[0].shape, seed=3)
    one.check(top_grad, rtol=TOLERANCES[math], atol=TOLERANCES[math], passes=2)


@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("math", TOLERANCES)
@pytest.mark.parametrize(("bottom", "top"), [(PLAIN, NHWC), (NHWC, PLAIN)])
def test_either_side_may_lie_plain(
    checked: EmulatedDevice, bottom: str, top: str, math: str, wanted: bool
) -> None:
    """As what is fed to a first layer does, and what a user reads."""

    def make(nodes: Sequence[Node], mode: Mode, device: EmulatedDevice) -> Form | None:
        nodes[0].inputs[0].layout = bottom
        return conv_form.make_convolution(nodes, mode, device)

    text = layer("Convolution", "num_output: 6 kernel_size: 3 stride: 2")
    params = [whole(6, 3, 3, 3, seed=1), whole(6, seed=2)]
    one = OneChain(
        checked, make, [text, LEAKY_IN_PLACE], whole(2, 3, 9, 8), params=params, wanted=[wanted],
        mode=Mode(math=math), layout=top,
    )  # fmt: skip
    assert (one.form.bottom_layouts, one.form.top_layouts) == ([bottom], [top])
    one.check(whole(*one.form.outputs[0].shape, seed=3), rtol=TOLERANCES[math], atol=TOLERANCES[math])


def test_a_gradient_that_both_directions_pack_is_packed_once(fast: EmulatedDevice) -> None:
    one = form_of(fast, "3x3", (LEAKY_IN_PLACE,), whole, mode=Mode(math="bf16"), layout=NHWC)
    one.forward()
    one.backward([whole(2, 6, 7, 8, seed=3)])
    assert one.form.packs == one.form.kernels.backward_data.packs == one.form.kernels.backward_weights.packs
    with fast.tracing() as kernels:
        one.form.backward(one.buffers)()
    packings = [kernel for kernel in kernels if kernel.startswith("pack images")]
    assert len(packings) == 2  # the top's gradient, and the bottom for the filters
    for name, math in (("3x3", "fp32"), ("deconvolution", "bf16")):
        assert form_of(fast, name, mode=Mode(math=math), layout=NHWC).form.packs is None


def test_in_full_precision_images_lie_plain(fast: EmulatedDevice) -> None:
    one = form_of(fast, "3x3", mode=Mode(math="fp32"), layout=NHWC)
    assert one.form.bottom_layouts == one.form.top_layouts == [PLAIN]


def test_old_devices_have_no_other_math(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "properties", replace(fast.properties, architecture=75))
    assert form_of(fast, "3x3", mode=Mode(math="tf32")).form.variant == "simt"


def test_winograd_runs_where_it_pays(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "pays", lambda *_: True)
    one = form_of(fast, "3x3", (IN_PLACE,))
    assert one.form.variant == "winograd 2x2, ReLU"
    one.check(drawn(*one.form.outputs[0].shape, seed=3), rtol=1e-4, atol=1e-5)


# ---- sums over channels ----
def summed(device: EmulatedDevice, dy: Array, y: Array | None, slope: float) -> tuple[Array, Array]:
    """1 + the sums, and the masked gradient."""
    channels = dy.shape[1]
    gradient, bias = put(device, dy, "dy"), put(device, np.ones(channels, np.float32), "dbias")
    masked = room(device, dy.size, name="masked")
    relu = None if y is None else Relu(put(device, y, "y"), masked, slope)
    floats = channel_sum_floats(device, *dy.shape)
    workspace = room(device, floats, name="workspace") if floats else None
    sum_channels(device, dy.shape, gradient, bias, relu, workspace)()
    return get(device, bias), get(device, masked, dy.shape) if y is not None else dy


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (2, 3, 4), (5, 2, 2000), (3, 2, 4099)])
def test_sums_over_images_and_cells(
    device: EmulatedDevice, sizes: tuple[int, int, int], masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_sum, "LEAST_CELLS", 1000)
    dy, y = drawn(*sizes), drawn(*sizes, seed=1)
    sums, masked = summed(device, dy, y if masks else None, 0.25)
    wanted = dy * np.where(y > 0, 1, np.float32(0.25)) if masks else dy
    np.testing.assert_array_equal(masked, wanted)
    np.testing.assert_allclose(sums, 1 + wanted.sum(axis=(0, 2), dtype=np.float64), rtol=1e-5, atol=1e-4)
