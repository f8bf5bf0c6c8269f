"""`netc device_query`: Caffe's figures of a GPU, and clear words without one."""

import ctypes
from typing import Any

import pytest

from netc.cli.main import main
from netc.errors import NetcError
from netc.tools import cuda_driver
from netc.tools.cuda_driver import ATTRIBUTES, Gpu


def test_without_a_driver_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARIES", ("libnone.so.1",))
    assert main(["device_query", "-gpu=0"]) == 1
    err = capsys.readouterr().err
    assert "caffe.cpp:138] Querying GPUs 0" in err
    assert "there is no NVIDIA driver on this machine" in err
    assert "Traceback" not in err


class NoDevices:
    def cuInit(self, flags: int) -> int:
        return cuda_driver.NO_DEVICE


def test_with_a_driver_but_no_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: NoDevices())
    with pytest.raises(NetcError, match="no NVIDIA GPU"):
        cuda_driver.gpus()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, Any] = {name: code + 1000 for name, code in ATTRIBUTES.items()}
    found = [Gpu(number, f"GPU of a test {number}", 12_345_678, facts) for number in range(2)]
    monkeypatch.setattr(cuda_driver, "gpus", lambda: found)


@pytest.mark.parametrize(("arguments", "shown"), [([], [0, 1]), (["-gpu=1"], [1]), (["-gpu", "all"], [0, 1])])
def test_the_gpus_asked_for_are_shown(
    arguments: list[str], shown: list[int], two_gpus: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["device_query", *arguments]) == 0
    out = capsys.readouterr().out
    assert [int(line.split()[-1]) for line in out.splitlines() if line.startswith("Device id:")] == shown
    assert "Total global memory:            12345678\n" in out
    assert "Maximum dimension of block:     1002, 1003, 1004\n" in out


def test_a_gpu_that_is_not_there_is_an_error(two_gpus: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device_query", "-gpu=5"]) == 1
    assert "there is no GPU 5" in capsys.readouterr().err


def test_ids_must_be_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device_query", "-gpu=first"]) == 2
    assert "ids separated by commas" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_driver_knows_its_gpus() -> None:
    try:
        found = cuda_driver.gpus()
    except NetcError as error:
        pytest.skip(f"needs a GPU: {error.what}")
    assert found[0].memory > 1 << 30
    assert found[0].facts["warp_size"] == 32
