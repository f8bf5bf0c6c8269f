"""OpenMP's threads."""

from __future__ import annotations

import ctypes
import os

import pytest

from netc.backends.cpu import threads


def test_openmp_is_told_and_holds_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        openmp = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("GNU's OpenMP is not installed")
    before = openmp.omp_get_max_threads()
    monkeypatch.setenv("OMP_DYNAMIC", "true")
    openmp.omp_set_dynamic(1)
    threads.set_threads(3)
    threads.forbid_changing_teams()
    assert openmp.omp_get_max_threads() == 3
    assert openmp.omp_get_dynamic() == 0
    assert "OMP_DYNAMIC" not in os.environ
    threads.set_threads(before)
