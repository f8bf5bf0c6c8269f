"""An iteration of training is one piece of recorded work, and its numbers are those of a pass and an update
apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device import Device
from netc.backends.loss_scale import LossScale
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.solver import Hook, Solver
from tests.cuda.counted import Counted
from tests.cuda.test_training import lenet
from tests.solver.small_run import make_small_run

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "floats"
  dummy_data_param { shape { dim: 5 dim: 2 dim: 7 dim: 6 } shape { dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: 0 max: 10 } } }
layer { name: "label" type: "Threshold" bottom: "floats" top: "label" threshold_param { threshold: 5 } }
"""
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" dropout_param { dropout_ratio: 0.2 } }
"""
SCORES = """
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
# Whether there are errors to learn from is decided on the host: recorded are what is before it and after it.
ON_THE_HOST = """
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "HingeLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
RULES = {
    "momentum": "momentum: 0.9 weight_decay: 0.01",
    "a rate that changes": 'lr_policy: "exp" gamma: 0.7 momentum: 0.9',
    "clipped": "momentum: 0.9 clip_gradients: 0.2",
    "Adam": 'type: "Adam" momentum: 0.9 momentum2: 0.999 delta: 1e-6 weight_decay: 0.01',
}
ITERATIONS = 6


class Waiting(Hook):
    """Makes a solver update apart from the pass."""

    def on_gradients(self, solver: Solver) -> None:
        """Looks at nothing."""


def make_solver(backend: Backend, net: str, text: str = "", *hooks: Hook, **options: Any) -> Solver:
    policy = "" if "lr_policy" in text else 'lr_policy: "fixed"'
    definition = text_format.Parse(
        f"base_lr: 0.1 max_iter: 100 random_seed: 5 snapshot_after_train: false {policy} {text}",
        pb.SolverParameter(),
    )
    text_format.Parse(net, definition.net_param)
    return Solver(definition, backend=backend, hooks=hooks, **options)


def trained(solver: Solver, iterations: int = ITERATIONS) -> list[np.ndarray]:
    """The losses, parameters, gradients and history after some iterations; the solver is closed."""
    losses = []
    for _ in range(iterations):
        solver.step(1)
        losses.append(solver.loss)
    flat = solver.net.parameters
    arrays = [solver.backend.read(array).copy() for array in (flat.data, flat.grad, *solver._updater.history)]
    solver.close()
    return [np.array(losses), *arrays]


def assert_same(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def without_data(net: pb.NetParameter) -> str:
    """The same net over inputs that stay as they are."""
    shapes = "shape { dim: 4 dim: 1 dim: 28 dim: 28 } shape { dim: 4 }"
    inputs = f'layer {{ name: "in" type: "Input" top: "data" top: "label" input_param {{ {shapes} }} }}'
    del net.layer[:3]
    return inputs + text_format.MessageToString(net)


def test_an_iteration_of_lenet_is_one_launch(fast: Device, counted: Counted) -> None:
    """Beside it only the losses come down, of all iterations at once."""
    solver = make_solver(CudaBackend(fast), without_data(lenet().to_proto()), "momentum: 0.9")
    solver.step(2)
    assert counted.of(lambda: solver.step(3)) == {"replay": 3, "_download": 1}


def test_a_new_rate_goes_up_before_the_launch(fast: Device, counted: Counted) -> None:
    text = 'lr_policy: "step" gamma: 0.1 stepsize: 4'
    solver = make_solver(CudaBackend(fast), without_data(lenet().to_proto()), text)
    solver.step(3)
    assert counted.of(lambda: solver.step(2)) == {"replay": 2, "_download": 1, "_upload": 1}


def test_batches_that_are_summed_are_a_launch_each(fast: Device, counted: Counted) -> None:
    """The update is one more: recorded with the last batch, that batch would be held twice."""
    solver = make_solver(CudaBackend(fast), without_data(lenet().to_proto()), "iter_size: 3")
    solver.step(2)
    assert counted.of(lambda: solver.step(1))["replay"] == 4


@pytest.mark.parametrize("text", RULES.values(), ids=RULES)
def test_it_gives_the_numbers_of_a_pass_and_an_update_apart(fast: Device, text: str) -> None:
    net = DATA + BODY + SCORES
    one = trained(make_solver(CudaBackend(fast), net, text))
    apart = trained(make_solver(CudaBackend(fast), net, text, Waiting()))
    assert_same(one, apart)
    wanted = trained(make_solver(CpuBackend(fast=False), net, text))
    for found, expected in zip(one, wanted, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("clip", ["", "clip_gradients: 0.2"], ids=["free", "clipped"])
def test_updates_that_overflow_are_left_out_of_it(fast: Device, counted: Counted, clip: str) -> None:
    """fp16 begins with a scale of 2^126, which takes several halvings; the device leaves the updates out."""
    runs, scales = [], []
    for hooks in ([], [Waiting()]):
        solver = make_solver(CudaBackend(fast, "fp16"), DATA + BODY + SCORES, f"momentum: 0.9 {clip}", *hooks)
        solver._iteration.begin_scaling(LossScale(2.0**126))
        before = solver.backend.read(solver.net.parameters.data).copy()
        solver.step(3)
        np.testing.assert_array_equal(solver.backend.read(solver.net.parameters.data), before)
        solver._iteration.begin_scaling(LossScale(2.0**20))
        runs.append(trained(solver, 20))
        assert solver._iteration.loss_scale is not None
        scales.append((solver._iteration.loss_scale.value, solver._iteration.loss_scale.held))
    assert_same(*runs)
    assert scales[0] == scales[1]
    assert scales[0][1] > 0
    assert not np.array_equal(runs[0][1], before)


def test_layers_that_decide_on_the_host_stand_between_recordings(fast: Device, counted: Counted) -> None:
    net = DATA + BODY + ON_THE_HOST
    solver = make_solver(CudaBackend(fast), net, "momentum: 0.9")
    solver.step(2)
    # Before the loss; between its forward and its backward, where gradients are set; behind it.
    assert counted.of(lambda: solver.step(1))["replay"] == 3
    solver.close()
    one = trained(make_solver(CudaBackend(fast), net, "momentum: 0.9"))
    apart = trained(make_solver(CudaBackend(fast), net, "momentum: 0.9", Waiting()))
    assert_same(one, apart)


def write_images(folder: Path) -> str:
    """A list of images of two sizes that take turns; the layers that read them, one at a time."""
    for index in range(5):
        size = (9, 8) if index % 2 else (12, 7)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        cv2.imwrite(f"{folder}/{index}.png", pixels)
    (folder / "list.txt").write_text("".join(f"{index}.png {index % 3}\n" for index in range(5)))
    return """
    layer { name: "data" type: "ImageData" top: "data" top: "label" transform_param { scale: 0.01 }
      image_data_param { source: "list.txt" } }
    """


def test_every_set_of_shapes_has_a_recording_of_its_own(fast: Device, counted: Counted, folder: Path) -> None:
    net = write_images(folder) + BODY + SCORES
    solver = make_solver(CudaBackend(fast), net, "momentum: 0.9")
    solver.step(5)
    assert len(solver.net._programs._compiled) == 2
    assert counted.of(lambda: solver.step(5))["replay"] == 5
    solver.close()
    one = trained(make_solver(CudaBackend(fast), net, "momentum: 0.9"), 12)
    apart = trained(make_solver(CudaBackend(fast), net, "momentum: 0.9", Waiting()), 12)
    assert_same(one, apart)


def test_tests_displays_and_snapshots_come_in_between(fast: Device, tmp_path: Path) -> None:
    """A run of all of them ends in the same files, bit by bit, also where the update is made apart."""
    weights = []
    for name, hooks in (("one", []), ("apart", [Waiting()])):
        folder = tmp_path / name
        folder.mkdir()
        make_small_run(folder, max_iter=12)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            solver = Solver("solver.prototxt", backend=CudaBackend(fast), hooks=hooks)
            solver.solve()
            solver.close()
        weights.append([path.read_bytes() for path in sorted(folder.glob("snap_*.caffemodel"))])
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]


class Halving(Hook):
    """Halves the gradients on their way to the update, and looks at a parameter."""

    def on_gradients(self, solver: Solver) -> None:
        weight = solver.net.params["ip"][0]
        weight.diff[...] *= 0.5
        assert np.isfinite(weight.data).all()


class Looking(Hook):
    """Looks at a parameter whenever it can."""

    def on_forward(self, solver: Solver) -> None:
        assert np.isfinite(solver.net.params["ip"][0].data).all()

    def on_display(self, solver: Solver) -> None:
        self.on_forward(solver)

    def on_iteration(self, solver: Solver) -> None:
        self.on_forward(solver)


@pytest.mark.parametrize("hook", [Halving, Looking])
def test_what_hooks_see_and_write_counts_as_on_the_cpu(fast: Device, hook: Callable[[], Hook]) -> None:
    net, text = DATA + BODY + SCORES, "momentum: 0.9 display: 1"
    found = trained(make_solver(CudaBackend(fast), net, text, hook(), keep="all"))
    wanted = trained(make_solver(CpuBackend(fast=False), net, text, hook(), keep="all"))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_layers_that_are_watched_run_one_by_one(fast: Device, counted: Counted) -> None:
    """With `debug_info` every second iteration is logged step by step, with the same numbers."""
    net = DATA + BODY + SCORES
    watched = make_solver(CudaBackend(fast), net, "momentum: 0.9 display: 2 debug_info: true")
    plain = trained(make_solver(CudaBackend(fast), net, "momentum: 0.9"))
    assert_same(trained(watched), plain)


def test_layer_callbacks_see_what_the_update_begins_from(fast: Device) -> None:
    """What a callback looks at is not taken back to the device over the update."""
    net, seen = DATA + BODY + SCORES, list[bool]()
    solver = make_solver(CudaBackend(fast), net, "momentum: 0.9", keep="all")
    blobs = solver.net.params["ip"]
    solver.net.callbacks.after_backward.append(
        lambda layer: seen.append(bool(np.isfinite(blobs[0].data).all()))
    )
    found = trained(solver)
    assert len(seen) > ITERATIONS
    assert_same(found, trained(make_solver(CudaBackend(fast), net, "momentum: 0.9", keep="all")))


WRONG_LABELS = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 5 dim: 2 dim: 7 dim: 6 } shape { dim: 5 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 3 } } }
"""


@pytest.mark.parametrize("hooks", [[], [Waiting()]], ids=["in one", "apart"])
def test_a_label_that_is_no_class_ends_training_as_on_the_cpu(fast: Device, hooks: list[Hook]) -> None:
    errors = []
    for backend in (CpuBackend(fast=False), CudaBackend(fast)):
        solver = make_solver(backend, WRONG_LABELS + BODY + SCORES, "momentum: 0.9", *hooks)
        with pytest.raises(NetcError, match="label 3 is not a class") as caught:
            solver.step(1)
        errors.append((str(caught.value), caught.value.layer, caught.value.blob, caught.value.found))
        solver.close()
    assert errors[0] == errors[1]


def test_a_loss_that_is_lost_otherwise_is_only_warned_of(
    fast: Device, caplog: pytest.LogCaptureFixture
) -> None:
    solver = make_solver(CudaBackend(fast), DATA + BODY + SCORES, "momentum: 0.9")
    solver.net.parameters.data.fill(np.nan)
    solver.step(2)
    assert np.isnan(solver.loss)
    assert sum("the loss is nan and will not recover" in line for line in caplog.messages) == 1
    solver.close()


def test_an_accuracy_of_labels_that_are_no_classes_is_an_error(fast: Device) -> None:
    accuracy = SCORES.replace("SoftmaxWithLoss", "Accuracy")
    definition = text_format.Parse(WRONG_LABELS + BODY + accuracy, pb.NetParameter())
    net = Net(definition, pb.TEST, backend=CudaBackend(fast))
    with pytest.raises(NetcError, match="label 3 is not a class"):
        net.forward()
