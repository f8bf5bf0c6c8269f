"""The golden cases of layers that have fast forms, in each layout, and without oneDNN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.cpu.forms import FORMS
from tests.cpu.form_case import BLOCKED, NHWC, engine
from tests.layer.golden_case import GoldenCase, GoldenRun, all_cases

FAST = {type_ for chain in FORMS for type_ in chain}
CASES = [case for case in all_cases() if case.types & FAST]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)


class OneLayout(CpuBackend):
    """Works in one layout wherever it can."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.wanted = layout

    def layouts(self, keep_all: bool) -> Sequence[str]:
        return (self.wanted,)


@every_case
@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
def test_layers_agree_with_caffe_in_every_layout(case: GoldenCase, layout: str, tmp_path: Path) -> None:
    engine()
    GoldenRun(case, tmp_path, keep="outputs", poison=True, backend=OneLayout(layout)).check_what_stays()


@every_case
def test_layers_agree_with_caffe_without_onednn(case: GoldenCase, tmp_path: Path) -> None:
    GoldenRun(case, tmp_path, backend=CpuBackend(fast=False)).check()


def test_there_are_cases_of_most_fast_layers() -> None:
    tested = set.union(*(case.types for case in CASES))
    assert FAST - tested <= {"DepthwiseConvolution", "ConvolutionDepthwise", "Split"}
