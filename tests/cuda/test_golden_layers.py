"""Every golden case of the layers agrees with Caffe on the device, recorded and replayed as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulated_device import EmulatedDevice
from tests.layer.golden_case import GoldenCase, GoldenRun, all_cases

pytestmark = pytest.mark.cuda
CASES = all_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)
def test_layers_agree_with_caffe_on_the_device(
    fast: EmulatedDevice, case: GoldenCase, tmp_path: Path
) -> None:
    GoldenRun(case, tmp_path, backend=CudaBackend(fast)).check()
