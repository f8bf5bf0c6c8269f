"""Convolutions with the normalisation, the sum and the ReLU that follow them agree with their layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.convolution import bn_form as conv_bn_form
from netc.backends.cuda.convolution.bn_form import ConvolutionBatchNorm, FinishedConvolution
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN, Mode
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def layer(kind: str, bottoms: str, top: str, options: str = "") -> str:
    read = " ".join(f'bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{kind}" type: "{kind}" {read} top: "{top}" {options} }}\n'


def convolution(options: str = "num_output: 6 kernel_size: 3 pad: 1") -> str:
    return layer("Convolution", "x0", "y", f"convolution_param {{ {options} }}")


NORM = layer("BatchNorm", "y", "y")
SCALE = layer("Scale", "y", "y", "scale_param { bias_term: true }")
SUM = layer("Eltwise", "x1 y", "z")
SUM_TURNED = layer("Eltwise", "y x1", "z")
RELU = layer("ReLU", "y", "y")
LAST_RELU = layer("ReLU", "z", "z")
# What follows the convolution, in place as nets write it, and with tops apart.
NORMALISED = {
    "norm": NORM,
    "norm relu": NORM + RELU,
    "scaled": NORM + SCALE,
    "scaled relu": NORM + SCALE + RELU,
    "scaled apart": layer("BatchNorm", "y", "n") + layer("Scale", "n", "s") + layer("ReLU", "s", "r"),
    "own factor": layer("BatchNorm", "y", "y", "batch_norm_param { scale_bias: true }") + RELU,
    "PSPNet": layer("BN", "y", "y") + RELU,
}
RESIDUAL = {
    "scaled sum": NORM + SCALE + SUM,
    "scaled sum relu": NORM + SCALE + SUM + LAST_RELU,
    "turned": NORM + SCALE + SUM_TURNED + LAST_RELU,
}
SUMS = {"sum": SUM, "sum relu": SUM + LAST_RELU, "turned": SUM_TURNED + LAST_RELU}
FILTERS = {"3x3": (6, 4, 3, 3), "no bias": (6, 4, 1, 1), "in groups": (8, 2, 3, 3), "depthwise": (4, 1, 3, 3)}
CONVOLUTIONS = {
    "3x3": convolution(),
    "no bias": convolution("num_output: 6 kernel_size: 1 bias_term: false"),
    "in groups": convolution("num_output: 8 kernel_size: 3 pad: 1 group: 2"),
    "depthwise": convolution("num_output: 4 kernel_size: 3 pad: 1 group: 4"),
}


def one_of(
    device: EmulatedDevice,
    name: str,
    after: str,
    *,
    shape: Sequence[int] = (3, 4, 5, 6),
    draw: Callable[..., Any] = drawn,
    **options: Any,
) -> OneChain:
    """A convolution of that name, and the layers after it, over numbers that are drawn."""
    text, filters = CONVOLUTIONS[name] + after, FILTERS[name]
    top = (shape[0], filters[0], *shape[2:])
    bottoms = [draw(*shape), draw(*top, seed=9)][: 1 + ("x1" in after)]
    nodes = chain_of(text, *(bottom.shape for bottom in bottoms))
    random = np.random.default_rng(5)
    owners = [param for node in nodes for param in node.params]
    params = [draw(*filters, seed=1), *(random.uniform(0.5, 1.5, param.shape) for param in owners[1:])]
    return OneChain(device, conv_bn_form.FORMS, text, *bottoms, params=params, **options)


@pytest.mark.parametrize("holds", [False, True])
@pytest.mark.parametrize("after", [*NORMALISED, *RESIDUAL])
def test_given_statistics_are_applied_to_the_sums(device: EmulatedDevice, after: str, holds: bool) -> None:
    mode = Mode(backward=False, holds=holds)
    for name in CONVOLUTIONS:
        one = one_of(device, name, {**NORMALISED, **RESIDUAL}[after], phase=pb.TEST, mode=mode)
        assert isinstance(one.form, FinishedConvolution)
        prepare = one.form.prepare(one.buffers)
        assert (prepare is not None) is holds
        if prepare:
            prepare()
        one.check(rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("after", SUMS)
def test_a_residual_is_added_to_the_sums(device: EmulatedDevice, after: str) -> None:
    for name in CONVOLUTIONS:
        one = one_of(device, name, SUMS[after], phase=pb.TEST, mode=Mode(backward=False))
        assert isinstance(one.form, FinishedConvolution)
        one.check(rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("after", [*NORMALISED, *RESIDUAL])
def test_chains_in_training(device: EmulatedDevice, after: str) -> None:
    for name in CONVOLUTIONS:
        one = one_of(device, name, {**NORMALISED, **RESIDUAL}[after])
        assert isinstance(one.form, ConvolutionBatchNorm)
        assert ("moments" in one.form.variant) is (name != "depthwise")
        one.check(rtol=1e-4, atol=2e-5, passes=2)


def whole(*shape: int, seed: int = 0) -> Any:
    """Small whole numbers, which every math mode takes as they are."""
    return np.round(2 * drawn(*shape, seed=seed))


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
@pytest.mark.parametrize("math", ["tf32", "bf16", "fp16"])
def test_batches_on_tensor_cores(checked: EmulatedDevice, math: str, layout: str) -> None:
    """Forward: the numbers are exact but for those of the normalisation, whose gradient would be rounded."""
    mode = Mode(backward=False, math=math)
    for name in ("3x3", "no bias", "in groups"):
        for after in (NORMALISED["scaled relu"], RESIDUAL["turned"]):
            one = one_of(checked, name, after, shape=(3, 4, 9, 15), draw=whole, mode=mode, layout=layout)
            assert "with moments" in one.form.variant
            assert set(one.form.top_layouts or ()) == {layout}
            one.check(rtol=1e-4, atol=2e-5, passes=2)


@pytest.mark.parametrize("layout", [PLAIN, NHWC])
@pytest.mark.parametrize("math", ["tf32", "bf16", "fp16"])
def test_given_statistics_on_tensor_cores(checked: EmulatedDevice, math: str, layout: str) -> None:
    """Filters are not rounded otherwise than without the normalisation: whole ones stay exact."""
    mode = Mode(backward=False, holds=True, math=math)
    for name in CONVOLUTIONS:
        options: dict[str, Any] = {"draw": whole, "mode": mode, "layout": layout, "phase": pb.TEST}
        one = one_of(checked, name, RESIDUAL["scaled sum relu"], shape=(3, 4, 9, 15), **options)
        run = one.form.prepare(one.buffers)
        assert run is not None
        run()
        one.check(rtol=1e-4, atol=2e-6)


def test_images_get_no_gradient_that_nobody_wants(checked: EmulatedDevice) -> None:
    one = one_of(checked, "3x3", RESIDUAL["scaled sum relu"], wanted=[False])
    one.check(rtol=1e-4, atol=2e-5)


def test_moments_come_of_several_tiles(fast: EmulatedDevice) -> None:
    one = one_of(fast, "no bias", NORMALISED["scaled relu"], shape=(5, 4, 23, 21))
    parts = one.form.forward_workspace["1 partial"].shape[1]
    assert parts == -(-5 * 23 * 21 // 128)
    one.check(rtol=1e-4, atol=2e-5, passes=2)


def test_the_order_of_threads_changes_no_bit(checked: EmulatedDevice) -> None:
    tops = []
    for seed in (1, 2):
        checked.order, checked.seed = "random", seed
        one = one_of(checked, "in groups", NORMALISED["scaled relu"], shape=(5, 4, 23, 21))
        tops.append((one.forward()[0], *map(one.values, one.buffers.params)))
    for first, second in zip(*tops, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("after", [NORM + layer("Scale", "y", "y", "scale_param { axis: 0 }"), "", SUM])
def test_what_has_no_form(fast: EmulatedDevice, after: str) -> None:
    """A Scale over images; a convolution over another axis than the normalisation's; a sum in training."""
    text = CONVOLUTIONS["3x3"] + after
    if not after:
        text = convolution("num_output: 3 kernel_size: 2 axis: 2") + NORM
    shapes = ((3, 4, 5, 6, 7) if not after else (3, 4, 5, 6), (3, 6, 5, 6))
    nodes = chain_of(text, *shapes)
    assert conv_bn_form.FORMS[tuple(node.type for node in nodes)](nodes, Mode(), fast) is None


def residual_net() -> pb.NetParameter:
    body = CONVOLUTIONS["3x3"] + RESIDUAL["turned"]
    inputs = "".join(
        f'layer {{ name: "x{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {dims} }} }} }}'
        for i, dims in enumerate(("dim: 2 dim: 4 dim: 5 dim: 6", "dim: 2 dim: 6 dim: 5 dim: 6"))
    )
    return text_format.Parse(inputs + body, pb.NetParameter())


@pytest.mark.parametrize("backend", ["cpu", "device"])
def test_a_net_for_use_takes_in_what_its_user_writes(fast: EmulatedDevice, backend: str) -> None:
    """What it has made of its parameters it makes again when they may have changed."""
    made = CudaBackend(fast) if backend == "device" else CpuBackend()
    net = Net(residual_net(), pb.TEST, keep="outputs", backward=False, seed=3, backend=made)
    plain = Net(residual_net(), pb.TEST, seed=3, backend=CpuBackend(fast=False))
    random = np.random.default_rng(1)
    for _ in range(3):
        for name, blobs in net.params.items():
            for blob, other in zip(blobs, plain.params[name], strict=True):
                blob.data[...] = other.data[...] = random.uniform(0.5, 1.5, blob.data.shape)
        for _ in range(3):
            for name in ("x0", "x1"):
                batch = random.standard_normal(net.blobs[name].data.shape)
                net.blobs[name].data[...] = plain.blobs[name].data[...] = batch
            net.forward()
            plain.forward()
            found, wanted = (each.blobs["z"].data for each in (net, plain))
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    if backend == "device":
        assert [form.variant for form in net.program.forms if "bn" in form.variant]
