"""The cores that a process may use, and OpenMP's threads."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from netc.backends.cpu import threads


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The control group /a/b of a process on a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    monkeypatch.setattr(threads, "SELF", tmp_path / "self")
    (tmp_path / "self").write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path / "a" / "b"


def test_all_cores_of_the_affinity(group: Path) -> None:
    assert threads.cores_allowed() == 8


@pytest.mark.parametrize(
    ("limit", "cores"), [("300000 100000", 3), ("250000 100000", 3), ("10000 100000", 1), ("max 100000", 8)]
)
def test_a_quota_cuts_them(group: Path, limit: str, cores: int) -> None:
    (group / "cpu.max").write_text(limit + "\n")
    assert threads.cores_allowed() == cores


def test_the_narrowest_of_the_groups_above_counts(group: Path) -> None:
    (group / "cpu.max").write_text("600000 100000")
    (group.parent / "cpu.max").write_text("200000 100000")
    assert threads.cores_allowed() == 2


def test_version_1_of_control_groups(group: Path) -> None:
    threads.SELF.write_text("5:memory:/m\n4:cpu,cpuacct:/c\n")
    folder = threads.CGROUP / "cpu" / "c"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("400000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.cores_allowed() == 4
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert threads.cores_allowed() == 8


def test_what_cannot_be_read_sets_no_limit(group: Path) -> None:
    (group / "cpu.max").write_text("nonsense")
    assert threads.cores_allowed() == 8
    threads.SELF.unlink()
    assert threads.cores_allowed() == 8


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
