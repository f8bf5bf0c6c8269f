"""Kernels are chosen by time, where there is a clock, and loaded when a net is made; it trains as ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.tuning.timings import Timings
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.solver import Solver
from tests.cuda.clocked import ClockedDevice
from tests.cuda.test_training import inception

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


class CountingDevice(ClockedDevice):
    """On which a run takes as long as it has blocks."""

    def _run_launch(self, *arguments: object) -> None:
        grid = arguments[1]
        self.now += 1e-4 * np.prod(grid)  # type: ignore[arg-type]
        super()._run_launch(*arguments)  # type: ignore[arg-type]


def make_solver(device: EmulatedDevice, deterministic: bool = False) -> Solver:
    definition = text_format.Parse(
        'base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 random_seed: 5 snapshot_after_train: false',
        pb.SolverParameter(),
    )
    definition.net_param.CopyFrom(inception().to_proto())
    return Solver(definition, backend=CudaBackend(device, deterministic=deterministic))


def losses_of(solver: Solver) -> list[float]:
    losses = []
    for _ in range(4):
        solver.step(1)
        losses.append(solver.loss)
    return losses


def test_a_tuned_net_trains_as_one_that_is_not(timings_folder: Path) -> None:
    device = CountingDevice()
    tuned = losses_of(make_solver(device))
    known = Timings(device.properties)._read()
    assert {work.split()[0] for work in known} >= {"forward", "backward_data", "backward_weights"}
    np.testing.assert_allclose(tuned, losses_of(make_solver(EmulatedDevice())), rtol=0, atol=1e-5)
    again = CountingDevice()
    assert losses_of(make_solver(again)) == tuned  # what was remembered decides: the same kernels
    assert again.now < device.now


def test_a_deterministic_net_is_never_tuned(timings_folder: Path) -> None:
    losses = losses_of(make_solver(CountingDevice(), deterministic=True))
    assert not list(timings_folder.iterdir())
    assert losses == losses_of(make_solver(EmulatedDevice(), deterministic=True))


def test_kernels_are_loaded_when_a_net_is_made(fast: EmulatedDevice) -> None:
    """Its first pass then compiles nothing, nor does the recording of its second."""
    net = make_solver(fast).net
    loaded = set(fast._loader._kernels)
    assert len(loaded) > 10
    assert all(kernel.handle for kernel in fast._loader._kernels.values())
    for _ in range(2):
        net.forward_backward()
    assert set(fast._loader._kernels) == loaded


def test_a_net_to_be_tuned_has_its_kernels_compiled_before_the_first_is_timed(
    timings_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that those of all layers are compiled at the same time."""
    device, begun = CountingDevice(), []

    def elapsed(run: Callable[[], None]) -> float:
        begun.append(set(device._loader._kernels))
        return 1e-3

    monkeypatch.setattr(device, "elapsed", elapsed)
    make_solver(device)
    assert len(begun[0]) > 10
    assert begun[0] == begun[-1]


def test_what_fails_in_a_rehearsal_fails_when_it_matters(
    timings_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that does not compile leaves the rule's choice where it is not that one."""
    device, build = CountingDevice(), EmulatedDevice._build

    def build_most(device: EmulatedDevice, variant: Variant) -> Path:
        if variant.name == "conv masked 64x128":
            raise NetcError("broken")
        return build(device, variant)

    monkeypatch.setattr(EmulatedDevice, "_build", build_most)
    assert np.isfinite(losses_of(make_solver(device))).all()
