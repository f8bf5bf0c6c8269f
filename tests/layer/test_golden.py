"""Every golden case of the layers agrees with Caffe: structure, forward, parameters, backward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.layer import LAYER_TYPES
from tests.layer.golden_case import GoldenCase, GoldenRun, all_cases, spoil_what_backward_does_not_read

# Layer types with golden cases that netc does not have yet; a type that it has may not stand here.
NOT_BUILT_YET: set[str] = set()

CASES = [case for case in all_cases() if not case.types & NOT_BUILT_YET]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.path.stem)


@every_case
def test_layers_agree_with_caffe(case: GoldenCase, tmp_path: Path) -> None:
    GoldenRun(case, tmp_path).check()


@every_case
def test_layers_agree_with_caffe_in_double_precision(case: GoldenCase, tmp_path: Path) -> None:
    GoldenRun(case, tmp_path, dtype=np.float64).check()


@pytest.mark.parametrize("case", [c for c in CASES if c.runs_backward], ids=lambda case: case.path.stem)
def test_backward_reads_only_what_layers_declare(case: GoldenCase, tmp_path: Path) -> None:
    GoldenRun(case, tmp_path).check(before_backward=spoil_what_backward_does_not_read)


@every_case
def test_layers_agree_in_shared_memory_poisoned_when_freed(case: GoldenCase, tmp_path: Path) -> None:
    GoldenRun(case, tmp_path, keep="outputs", poison=True).check_what_stays()


def test_only_types_that_are_not_built_are_left_out() -> None:
    assert not NOT_BUILT_YET & set(LAYER_TYPES)
    assert set.union(*(case.types for case in all_cases())) >= NOT_BUILT_YET


def test_the_golden_cases_are_there() -> None:
    assert len(all_cases()) == 244
    assert len(CASES) >= 170
