"""A source goes on from what was trained on, whatever has gone up ahead; a run that was killed, too."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.runtime import Net
from netc.solver import Solver, latest
from tests.cuda.feeding.databases import (
    IMAGES,
    TRANSFORMS,
    batches,
    data_layer,
    net_of,
    raw,
    same,
    write_database,
)
from tests.cuda.feeding.watched import Sent
from tests.solver.small_run import make_small_run
from tests.solver.test_kill import ENVIRONMENT, final_files

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


@pytest.mark.usefixtures("always_ahead")
def test_a_source_goes_on_from_what_was_trained_on(fast: EmulatedDevice, sent: Sent) -> None:
    """What has gone up ahead is no part of the position, and is forgotten where the position changes."""
    write_database([raw(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS["crop, mirror, a mean, scale"])
    wanted = batches(net_of(text, CpuBackend()), 9)
    net = net_of(text, CudaBackend(fast))
    same(batches(net, 5), wanted[:5])
    assert sent.copies == 6
    source = net.sources["d"]
    state = source.state()
    assert state == {"position": 25}
    same(batches(net, 4), wanted[5:])
    source.restore(state)
    same(batches(net, 4), wanted[5:])
    resumed = net_of(text, CudaBackend(fast))
    resumed.sources["d"].restore(state)
    same(batches(resumed, 4), wanted[5:])


CHILD = """
import os, signal
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator.device import EmulatedDevice
from netc.solver import Solver
from netc.solver.hooks import Hook
class Killer(Hook):
    def on_iteration(self, solver):
        if solver.iter == 8:
            os.kill(os.getpid(), signal.SIGKILL)
Solver("solver.prototxt", hooks=[Killer()], backend=CudaBackend(EmulatedDevice())).solve()
"""


def test_a_killed_run_resumes_to_the_same_numbers(
    fast: EmulatedDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        make_small_run(folder, max_iter=12)
    monkeypatch.chdir(whole)
    Solver("solver.prototxt", backend=CudaBackend(fast)).solve()
    assert sent.copies >= 12
    monkeypatch.chdir(broken)
    child = subprocess.run([sys.executable, "-c", CHILD], env=ENVIRONMENT, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    solver = Solver("solver.prototxt", backend=CudaBackend(fast))
    newest = latest("snap")
    assert newest == "snap_iter_5.solverstate"
    solver.restore(newest)
    solver.solve()
    assert final_files(broken, 12) == final_files(whole, 12)


def test_training_reads_what_the_cpu_reads(fast: EmulatedDevice, folder: Path) -> None:
    """Train and test net take the same batches in the same order."""
    make_small_run(folder, max_iter=7, snapshot=7)
    seen: dict[str, list[bytes]] = {}
    for name, backend in (("cpu", CpuBackend(fast=False)), ("device", CudaBackend(fast))):
        recorder = seen[name] = []
        solver = Solver("solver.prototxt", backend=backend, keep="all")
        for net in (solver.net, *solver.test_nets):
            net.callbacks.after_forward.append(partial(note_batch, net, recorder))
        solver.solve()
    assert seen["device"] == seen["cpu"]
    assert len(seen["cpu"]) > 7


def note_batch(net: Net, recorder: list[bytes], layer: int) -> None:
    if layer == 0:
        recorder += [net.blobs[name].data.tobytes() for name in ("data", "label")]
