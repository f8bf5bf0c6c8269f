"""What the tests of kernels share: devices in both modes, and why they are skipped where none can be made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.cuda.emulator.compiler import why_unavailable

MODES = {"fast": False, "check": True}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: runs kernels, on the emulator")


@pytest.fixture(scope="session")
def emulator() -> None:
    """Skips where the emulator cannot run."""
    reason = why_unavailable()
    if reason:
        pytest.skip(reason)


@pytest.fixture(params=MODES)
def device(emulator: None, request: pytest.FixtureRequest) -> Iterator[EmulatedDevice]:
    """An emulated device in fast mode, then one in check mode."""
    made = EmulatedDevice(check=MODES[request.param])
    yield made
    made.close()


@pytest.fixture
def checked(emulator: None) -> Iterator[EmulatedDevice]:
    """An emulated device in check mode."""
    made = EmulatedDevice(check=True)
    yield made
    made.close()


@pytest.fixture
def fast(emulator: None) -> Iterator[EmulatedDevice]:
    """An emulated device in fast mode."""
    made = EmulatedDevice()
    yield made
    made.close()
