"""What the tests of kernels share: devices in both modes, and why they are skipped where none can be made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netc.backends.cuda.device import Device
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.compiler import why_unavailable
from netc.backends.cuda.gpu import CupyDevice
from netc.backends.cuda.tuning import timings
from netc.backends.open import gpu_is_there
from tests.cuda.clocked import ClockedDevice
from tests.cuda.counted import Counted

MODES = {"fast": False, "check": True}
GPU = ["gpu"] if gpu_is_there() else []  # where there is one, what runs on the emulator runs on it as well


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: runs kernels, on the emulator")


@pytest.fixture(scope="session")
def emulator() -> None:
    """Skips where the emulator cannot run."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)


def open_device(kind: str) -> Device:
    """A GPU, or an emulated device in one of its modes."""
    return CupyDevice(0) if kind == "gpu" else EmulatedDevice(check=MODES[kind])


@pytest.fixture(params=[*MODES, *GPU])
def device(emulator: None, request: pytest.FixtureRequest) -> Iterator[Device]:
    """An emulated device in fast mode, then one in check mode; then a GPU, where there is one."""
    made = open_device(request.param)
    yield made
    made.close()


@pytest.fixture
def checked(emulator: None) -> Iterator[EmulatedDevice]:
    """An emulated device in check mode."""
    made = EmulatedDevice(check=True)
    yield made
    made.close()


@pytest.fixture(params=["fast", *GPU])
def fast(emulator: None, request: pytest.FixtureRequest) -> Iterator[Device]:
    """An emulated device in fast mode; then a GPU, where there is one."""
    made = open_device(request.param)
    yield made
    made.close()


@pytest.fixture
def timings_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tuners keep their times during a test."""
    monkeypatch.setattr(timings, "cache_folder", lambda kind: tmp_path)
    return tmp_path


@pytest.fixture
def clocked(emulator: None, timings_folder: Path) -> Iterator[ClockedDevice]:
    """An emulated device with a clock, and times of its own."""
    made = ClockedDevice()
    yield made
    made.close()


@pytest.fixture
def counted(fast: Device, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """What the fast device is asked for."""
    return Counted(fast, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
