"""Whole nets whose image-shaped values have the channels of a cell side by side, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.iteration.recording import Recording
from netc.backends.form import NHWC, PLAIN
from netc.graph import Build, Graph, State, build_graph
from netc.passes import run_passes
from netc.passes.memory import AGAIN
from netc.proto import netc_pb2 as pb
from netc.pycaffe.net_spec import NetSpec
from netc.runtime import Net, layout_choice
from netc.runtime.demand import Demand
from netc.runtime.layout_choice import _key, choose_layout
from netc.runtime.program import Program, plan_program
from netc.schema.net import parse_net
from tests.cuda.clocked import ClockedDevice
from tests.cuda.layouts import LaidOut
from tests.cuda.test_training import inception, lenet, make_solver, resnet8
from tests.test_random_nets import RandomNet

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

# Reorders of each net: before its classifier, unless all values there have one cell.
NETS = {lenet: 1, resnet8: 0, inception: 1}
ITERATIONS = 4
# What rounding makes of losses whose sums are made in another order.
TOLERANCES = {"tf32": 2e-3, "bf16": 2e-2}


def losses_of(make: Callable[[], NetSpec], backend: CudaBackend) -> tuple[Program, list[float]]:
    solver, losses = make_solver(make(), backend), []
    for _ in range(ITERATIONS):
        solver.step(1)
        losses.append(solver.loss)
    program = solver.net.program
    solver.close()
    return program, losses


def reorders(program: Program) -> int:
    return sum(form.node.type == "Reorder" for form in program.forms)


@pytest.mark.parametrize("math", TOLERANCES)
@pytest.mark.parametrize("make", NETS)
def test_a_net_trains_alike_in_both_layouts(
    fast: EmulatedDevice, make: Callable[[], NetSpec], math: str
) -> None:
    _, wanted = losses_of(make, LaidOut(fast, math, layout=PLAIN))
    program, found = losses_of(make, LaidOut(fast, math, layout=NHWC))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCES[math])
    recordings = [step.run for step in program._unwatched["iteration"]]
    assert any(isinstance(run, Recording) and run.replays for run in recordings)
    assert reorders(program) == NETS[make]
    images = [value for value in program.graph.values() if len(value.shape) == 4 and max(value.shape[2:]) > 1]
    reordered = {
        value.name for form in program.forms if form.node.type == "Reorder" for value in form.outputs
    }
    assert {value.name for value in images if value.layout == PLAIN} <= {"data", *reordered}


@pytest.mark.parametrize("make", [resnet8, inception])
def test_an_iteration_in_check_mode(checked: EmulatedDevice, make: Callable[[], NetSpec]) -> None:
    checked.order, checked.seed = "random", 3
    solver = make_solver(make(), LaidOut(checked, "bf16", layout=NHWC))
    solver.step(1)
    assert np.isfinite(solver.loss)
    solver.close()


@pytest.mark.parametrize("make", NETS)
def test_nothing_is_read_that_another_layout_has_freed(
    fast: EmulatedDevice, make: Callable[[], NetSpec]
) -> None:
    """With all memory poisoned that holds nothing any more, a pass gives the same gradients."""
    grads = []
    for poison in (False, True):
        backend = LaidOut(fast, "tf32", layout=NHWC)
        net = Net(make().to_proto(), pb.TRAIN, keep="outputs", seed=3, poison=poison, backend=backend)
        net.clear_param_diffs()
        net.forward()
        net.backward()
        grads.append(np.array(net.parameters.grad))
    np.testing.assert_array_equal(*grads)
    assert np.isfinite(grads[0]).all()


@pytest.mark.parametrize("seed", [0, 4, 5, 7, 9])
def test_a_random_net_has_the_same_gradients_in_both_layouts(fast: EmulatedDevice, seed: int) -> None:
    """But for where rounding to tf32 falls."""
    drawn = RandomNet(seed)
    found = []
    for layout in (PLAIN, NHWC):
        numbers, backend = np.random.default_rng(seed), LaidOut(fast, "tf32", layout=layout)
        definition = parse_net(drawn.text).message
        net = Net(definition, pb.TRAIN, seed=seed, keep="outputs", poison=True, backend=backend)
        for name, shape in drawn.inputs.items():
            batch = numbers.integers(5, size=shape) if name == "label" else numbers.normal(size=shape)
            net.blobs[name].data[...] = batch
        net.clear_param_diffs()
        net.forward_backward()
        found.append(np.array(net.parameters.grad))
    plain, last = found
    np.testing.assert_allclose(last, plain, rtol=0, atol=3e-3 * np.abs(plain).max())


def test_a_net_within_a_memory_limit_computes_again_what_it_drops(fast: EmulatedDevice) -> None:
    free = LaidOut(fast, "tf32", layout=NHWC)
    whole, wanted = losses_of(resnet8, free)
    limited = LaidOut(fast, "tf32", layout=NHWC)
    limited.memory_limit = int(0.8 * whole.plan.arena_bytes)
    program, found = losses_of(resnet8, limited)
    assert program.plan.arena_bytes <= limited.memory_limit
    assert any(step.direction == AGAIN for step in program.backward_steps)
    assert NHWC in {value.layout for value in program.graph.values()}
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_layouts_are_offered_where_convolutions_use_tensor_cores(fast: EmulatedDevice) -> None:
    for math, keep_all, wanted in (
        ("fp32", False, (PLAIN,)),
        ("tf32", True, (PLAIN,)),
        ("tf32", False, (PLAIN, NHWC)),
        ("bf16", False, (PLAIN, NHWC)),
        ("fp16", False, (PLAIN, NHWC)),
    ):
        assert CudaBackend(fast, math).layouts(keep_all) == wanted


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The layouts whose time was taken; the second always comes out as the faster one."""
    monkeypatch.setattr(layout_choice, "cache_folder", lambda kind: tmp_path)
    monkeypatch.setattr(layout_choice, "LEAST_FLOPS", 1000)
    seen: list[str] = []
    measure = layout_choice._time

    def time(program: Program, demand: Demand) -> float:
        assert measure(program, demand) > 0
        seen.append(layout_of(program))
        return 1 / len(seen)

    monkeypatch.setattr(layout_choice, "_time", time)
    return seen


def layout_of(program: Program) -> str:
    return next(value.layout for value in program.graph.values() if value.name == "conv")


def timed(device: EmulatedDevice, compares: bool = True, deterministic: bool = False) -> CudaBackend:
    """A device whose time tells layouts, though not kernels, apart."""
    backend = CudaBackend(device, "bf16", deterministic)
    backend.compares_layouts = compares
    return backend


def make_graph() -> Graph:
    return run_passes(build_graph(inception().to_proto(), Build(State(pb.TRAIN))))


def make_net(backend: CudaBackend) -> Net:
    return Net(inception().to_proto(), pb.TRAIN, seed=1, keep="outputs", backend=backend)


def test_the_faster_layout_is_taken_and_remembered(asked: list[str]) -> None:
    device = EmulatedDevice()
    free = device.free_bytes()
    demand, backend = Demand(keep_all=False), timed(device)
    for _ in range(2):
        assert choose_layout(make_graph, demand, backend) == NHWC
        assert asked == [PLAIN, NHWC]
    device._arrays.free_unused()
    assert device.free_bytes() == free  # nothing is left of what was tried
    assert layout_of(make_net(backend).program) == NHWC


def test_another_kind_of_device_is_asked_anew(asked: list[str]) -> None:
    device, another = EmulatedDevice(), EmulatedDevice()
    another.properties = replace(another.properties, model="another")
    keys = [_key(make_graph(), Demand(keep_all=False), timed(each)) for each in (device, another, device)]
    assert keys[0] == keys[2] != keys[1]


@pytest.mark.parametrize(("compares", "deterministic"), [(False, False), (True, True)])
def test_the_first_layout_is_taken_where_no_clock_may_decide(
    asked: list[str], compares: bool, deterministic: bool
) -> None:
    backend = timed(EmulatedDevice(), compares, deterministic)
    assert choose_layout(make_graph, Demand(keep_all=False), backend) == PLAIN
    assert not asked


def test_only_a_device_with_a_clock_compares_layouts(fast: EmulatedDevice) -> None:
    assert CudaBackend(ClockedDevice()).compares_layouts
    assert CudaBackend(fast).compares_layouts == fast.has_clock


def test_the_kernels_of_a_layout_are_compiled_before_the_first_is_timed(
    monkeypatch: pytest.MonkeyPatch, timings_folder: Path
) -> None:
    device, begun = ClockedDevice(), []

    def elapsed(run: Callable[[], None]) -> float:
        begun.append(set(device._loader._kernels))
        return 1e-3

    monkeypatch.setattr(device, "elapsed", elapsed)
    plan_program(make_graph(), Demand(keep_all=False), LaidOut(device, "bf16", layout=NHWC))
    assert len(begun[0]) > 10
    assert begun[0] == begun[-1]
