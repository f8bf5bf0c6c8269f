"""The cores that a process may use, by its affinity and its control groups, and the threads that follow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from netc import cores

VERSION_1 = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores; the folder where its control groups are mounted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_GROUPS", tmp_path / "self")
    return tmp_path / "cgroup"


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_control_groups_affinity_decides(machine: Path) -> None:
    assert cores.cores_allowed() == 8


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("1600000 100000", 8),
        ("rubbish", 8),
        ("", 8),
    ],
)
def test_a_group_of_version_2_limits_the_cores(machine: Path, limit: str, allowed: int) -> None:
    put(cores.OWN_GROUPS, "0::/user/job\n")
    put(machine / "user" / "job" / "cpu.max", limit)
    assert cores.cores_allowed() == allowed


def test_the_smallest_limit_above_a_group_counts(machine: Path) -> None:
    put(cores.OWN_GROUPS, "0::/user/job\n")
    put(machine / "user" / "job" / "cpu.max", "600000 100000")
    put(machine / "user" / "cpu.max", "300000 100000")
    put(machine / "other" / "cpu.max", "100000 100000")
    assert cores.cores_allowed() == 3


def test_inside_a_container_its_own_group_is_the_root(machine: Path) -> None:
    put(cores.OWN_GROUPS, "0::/\n")
    put(machine / "cpu.max", "400000 100000")
    assert cores.cores_allowed() == 4


@pytest.mark.parametrize("folder", ["cpu,cpuacct/docker/abc", "cpu/docker/abc", "cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "allowed"), [("150000", 2), ("-1", 8)])
def test_a_group_of_version_1_limits_the_cores(machine: Path, folder: str, quota: str, allowed: int) -> None:
    put(cores.OWN_GROUPS, VERSION_1)
    put(machine / folder / "cpu.cfs_quota_us", quota + "\n")
    put(machine / folder / "cpu.cfs_period_us", "100000\n")
    assert cores.cores_allowed() == allowed


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "2"}, 3),
        ({"MKL_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
    ],
)
def test_the_environment_sets_the_threads(
    machine: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], threads: int
) -> None:
    for variable in cores.THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert cores.thread_count() == threads
