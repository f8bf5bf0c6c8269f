"""Every golden case of the layers, and of the forks' layers, agrees with Caffe on the device."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from tests.layer.golden_case import FOLDER, GoldenCase, GoldenRun, all_cases

pytestmark = pytest.mark.cuda
CASES = all_cases()
FORK_CASES = all_cases(FOLDER.parent / "fork_layers")
MULTIPLYING = {"Convolution", "Deconvolution", "InnerProduct", "DepthwiseConvolution", "LSTM", "RNN"}
# Of the largest element: what rounding the factors of every product to 10 or 7 bits of mantissa leaves, for
# the sums of a few dozen products that the cases have.
TOLERANCES = {"tf32": 4e-3, "fp16": 4e-3, "bf16": 4e-2}


def name_of(case: GoldenCase) -> str:
    return case.path.stem


@pytest.mark.parametrize("case", [*CASES, *FORK_CASES], ids=name_of)
def test_layers_agree_with_caffe_on_the_device(
    fast: EmulatedDevice, case: GoldenCase, tmp_path: Path
) -> None:
    GoldenRun(case, tmp_path, backend=CudaBackend(fast)).check()


@pytest.mark.parametrize("math", TOLERANCES)
@pytest.mark.parametrize("case", [case for case in CASES if case.types & MULTIPLYING], ids=name_of)
def test_products_agree_with_caffe_in_every_math(
    fast: EmulatedDevice, case: GoldenCase, math: str, tmp_path: Path
) -> None:
    GoldenRun(case, tmp_path, backend=CudaBackend(fast, math), tolerance=TOLERANCES[math]).check()


@pytest.mark.parametrize("case", [case for case in CASES if case.runs_backward], ids=name_of)
def test_layers_agree_in_shared_memory_poisoned_when_freed(
    fast: EmulatedDevice, case: GoldenCase, tmp_path: Path
) -> None:
    GoldenRun(case, tmp_path, keep="outputs", poison=True, backend=CudaBackend(fast)).check_what_stays()
