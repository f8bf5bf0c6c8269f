"""Whole nets train on the device as they do on the CPU: the same losses, recorded once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.iteration.recording import Recording
from netc.backends.loss_scale import PATIENCE, LossScale
from netc.proto import netc_pb2 as pb
from netc.pycaffe.net_spec import NetSpec, layers, params
from netc.solver import Solver

pytestmark = pytest.mark.cuda
ITERATIONS = 20
XAVIER = {"type": "xavier"}


def dummy_data(spec: NetSpec, *shape: int) -> None:
    """Images of noise, other ones in each iteration, and labels."""
    labels = {"type": "uniform", "min": 0, "max": 10}
    spec.data = layers.DummyData(shape=[{"dim": shape}], data_filler=[{"type": "gaussian", "std": 1}])
    spec.floats = layers.DummyData(shape=[{"dim": shape[:1]}], data_filler=[labels])
    spec.label = layers.Threshold(spec.floats, threshold=5)  # whether it is above 5: two classes


def lenet() -> NetSpec:
    n = NetSpec()
    dummy_data(n, 4, 1, 28, 28)
    n.conv1 = layers.Convolution(n.data, num_output=20, kernel_size=5, weight_filler=XAVIER)
    n.pool1 = layers.Pooling(n.conv1, pool=params.Pooling.MAX, kernel_size=2, stride=2)
    n.conv2 = layers.Convolution(n.pool1, num_output=50, kernel_size=5, weight_filler=XAVIER)
    n.pool2 = layers.Pooling(n.conv2, pool=params.Pooling.MAX, kernel_size=2, stride=2)
    n.ip1 = layers.InnerProduct(n.pool2, num_output=500, weight_filler=XAVIER)
    n.relu1 = layers.ReLU(n.ip1, in_place=True)
    n.ip2 = layers.InnerProduct(n.ip1, num_output=10, weight_filler=XAVIER)
    n.loss = layers.SoftmaxWithLoss(n.ip2, n.label)
    return n


def normalised(n: NetSpec, name: str, bottom: str, channels: int, stride: int = 1, relu: bool = True) -> str:
    """Convolution 3x3, BatchNorm, Scale and perhaps ReLU, in place as residual nets write them."""
    n[name] = layers.Convolution(
        n[bottom],
        num_output=channels,
        kernel_size=3,
        pad=1,
        stride=stride,
        bias_term=False,
        weight_filler=XAVIER,
    )
    n[f"{name}_bn"] = layers.BatchNorm(n[name], in_place=True)
    n[f"{name}_scale"] = layers.Scale(n[f"{name}_bn"], bias_term=True, in_place=True)
    last = f"{name}_scale"
    if relu:
        n[f"{name}_relu"] = layers.ReLU(n[last], in_place=True)
        last = f"{name}_relu"
    return last


def resnet8() -> NetSpec:
    """Three residual blocks for CIFAR's size of image, halved. (He et al., 2015)"""
    n = NetSpec()
    dummy_data(n, 4, 3, 16, 16)
    top = normalised(n, "conv1", "data", 8)
    for block, (channels, stride) in enumerate(((8, 1), (16, 2), (32, 2)), start=1):
        inner = normalised(n, f"a{block}", top, channels, stride)
        inner = normalised(n, f"b{block}", inner, channels, relu=False)
        if stride > 1:
            n[f"short{block}"] = layers.Convolution(
                n[top], num_output=channels, kernel_size=1, stride=stride, weight_filler=XAVIER
            )
            top = f"short{block}"
        n[f"sum{block}"] = layers.Eltwise(n[inner], n[top])
        n[f"out{block}"] = layers.ReLU(n[f"sum{block}"], in_place=True)
        top = f"out{block}"
    n.pool = layers.Pooling(n[top], pool=params.Pooling.AVE, global_pooling=True)
    n.ip = layers.InnerProduct(n.pool, num_output=10, weight_filler=XAVIER)
    n.loss = layers.SoftmaxWithLoss(n.ip, n.label)
    return n


def inception() -> NetSpec:
    """One inception block with LRN before it. (Szegedy et al., 2014)"""
    n = NetSpec()
    dummy_data(n, 4, 3, 16, 16)
    n.conv = layers.Convolution(n.data, num_output=8, kernel_size=3, pad=1, weight_filler=XAVIER)
    n.relu = layers.ReLU(n.conv, in_place=True)
    n.norm = layers.LRN(n.relu, local_size=5, alpha=1e-4, beta=0.75)
    for name, kernel in (("one", 1), ("three", 3), ("five", 5)):
        n[name] = layers.Convolution(
            n.norm, num_output=6, kernel_size=kernel, pad=kernel // 2, weight_filler=XAVIER
        )
        n[f"relu_{name}"] = layers.ReLU(n[name], in_place=True)
    n.pool = layers.Pooling(n.norm, pool=params.Pooling.MAX, kernel_size=3, stride=1, pad=1)
    n.mixed = layers.Concat(n.relu_one, n.relu_three, n.relu_five, n.pool)
    n.average = layers.Pooling(n.mixed, pool=params.Pooling.AVE, kernel_size=4, stride=4)
    n.ip = layers.InnerProduct(n.average, num_output=10, weight_filler=XAVIER)
    n.loss = layers.SoftmaxWithLoss(n.ip, n.label)
    return n


def make_solver(net: NetSpec, backend: Backend) -> Solver:
    definition = text_format.Parse(
        'base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 max_iter: 100 random_seed: 5 '
        "snapshot_after_train: false",
        pb.SolverParameter(),
    )
    definition.net_param.CopyFrom(net.to_proto())
    return Solver(definition, backend=backend)


def train(net: NetSpec, backend: Backend) -> tuple[Solver, list[float]]:
    solver, losses = make_solver(net, backend), []
    for _ in range(ITERATIONS):
        solver.step(1)
        losses.append(solver.loss)
    return solver, losses


@pytest.mark.parametrize("make", [lenet, resnet8, inception])
def test_a_net_trains_on_the_device_as_on_the_cpu(fast: EmulatedDevice, make: Callable[[], NetSpec]) -> None:
    _, wanted = train(make(), CpuBackend(fast=False))
    solver, found = train(make(), CudaBackend(fast))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-3)
    runs = [step.run for step in solver.net.program._unwatched["iteration"]]
    recordings = [run for run in runs if isinstance(run, Recording)]
    assert recordings
    assert all(recording.replays for recording in recordings)
    kernels = [form for form in solver.net.program.forms if form.variant != "reference"]
    assert len(kernels) > 5


@pytest.mark.parametrize(("math", "tolerance"), [("tf32", 0.05), ("bf16", 0.3), ("fp16", 0.05)])
def test_a_net_trains_in_narrow_math(fast: EmulatedDevice, math: str, tolerance: float) -> None:
    """The losses are near those of fp32 for the first iterations; later, chaos takes them apart."""
    _, wanted = train(inception(), CpuBackend(fast=False))
    _, found = train(inception(), CudaBackend(fast, math))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def test_scaled_gradients_make_the_same_update(fast: EmulatedDevice) -> None:
    """fp16 scales the loss; with a scale of 1 the parameters after an update are the same to rounding."""
    scaled, plain = (make_solver(inception(), CudaBackend(fast, "fp16")) for _ in range(2))
    plain._iteration.begin_scaling(LossScale(1.0))
    for solver in (scaled, plain):
        solver.step(3)
    assert scaled._iteration.loss_scale is not None
    assert scaled._iteration.loss_scale.held == 3
    one, other = (solver.net.parameters.data for solver in (scaled, plain))
    np.testing.assert_allclose(one, other, rtol=0, atol=2e-3 * np.abs(other).max())


def test_an_update_that_overflows_is_left_out_and_the_scale_halved(fast: EmulatedDevice) -> None:
    solver = make_solver(inception(), CudaBackend(fast, "fp16"))
    solver._iteration.begin_scaling(LossScale(2.0**126))
    before = np.array(solver.net.parameters.data)
    solver.step(1)
    assert solver._iteration.loss_scale is not None
    assert solver._iteration.loss_scale.value == 2.0**125
    np.testing.assert_array_equal(solver.net.parameters.data, before)
    solver._iteration.begin_scaling(LossScale())
    solver.step(1)
    assert not np.array_equal(solver.net.parameters.data, before)


def test_the_scale_is_doubled_after_a_long_run_without_overflow() -> None:
    scale = LossScale(8.0, held=PATIENCE - 1)
    scale.note(True)
    assert (scale.value, scale.held) == (16.0, 0)
