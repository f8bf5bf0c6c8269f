"""-threads reaches the libraries that compute, through what they read when they are loaded."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from netc.cli import net_flags
from netc.cli.flags import UsageError
from netc.cli.net_flags import limit_threads
from netc.cores import THREAD_VARIABLES

OTHERS = ("OMP_DYNAMIC", "OPENCV_FOR_THREADS_NUM")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of eight cores in which nobody has set any threads."""
    kept = {name: value for name, value in os.environ.items() if name not in (*THREAD_VARIABLES, *OTHERS)}
    monkeypatch.setattr(os, "environ", kept)
    monkeypatch.setattr(net_flags, "cores_allowed", lambda: 8)
    return kept


def limit(threads: int) -> None:
    limit_threads(SimpleNamespace(threads=threads))  # type: ignore[arg-type]


def test_the_flag_is_everybodys_number(environment: dict[str, str]) -> None:
    environment["OPENBLAS_NUM_THREADS"] = "5"
    limit(3)
    assert [environment[variable] for variable in THREAD_VARIABLES] == ["3", "3", "3"]


def test_by_default_all_cores_compute_and_numpy_leaves_one(environment: dict[str, str]) -> None:
    limit(0)
    assert [environment[variable] for variable in THREAD_VARIABLES] == ["8", "7", "7"]


def test_one_core_computes_in_numpy_too(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_flags, "cores_allowed", lambda: 1)
    limit(0)
    assert [environment[variable] for variable in THREAD_VARIABLES] == ["1", "1", "1"]


@pytest.mark.parametrize("variable", THREAD_VARIABLES)
def test_what_the_environment_says_stands(environment: dict[str, str], variable: str) -> None:
    environment[variable] = "2"
    limit(0)
    assert {name: environment.get(name) for name in THREAD_VARIABLES} == {
        name: "2" if name == variable else None for name in THREAD_VARIABLES
    }


def test_teams_of_changing_size_are_forbidden(environment: dict[str, str]) -> None:
    environment["OMP_DYNAMIC"] = "true"
    limit(0)
    assert "OMP_DYNAMIC" not in environment


def test_opencv_starts_no_threads_unless_told_to(environment: dict[str, str]) -> None:
    limit(0)
    assert environment["OPENCV_FOR_THREADS_NUM"] == "1"
    environment["OPENCV_FOR_THREADS_NUM"] = "4"
    limit(0)
    assert environment["OPENCV_FOR_THREADS_NUM"] == "4"


def test_fewer_threads_than_none_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="-threads is negative"):
        limit(-1)
