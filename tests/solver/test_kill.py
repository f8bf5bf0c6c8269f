"""A run killed at any moment, also between the files of a snapshot, loses nothing and ends the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netc.solver import Solver, latest
from tests.solver.small_run import make_small_run

ROOT = Path(__file__).parents[2]
KILLS = 10
LAST = 100  # more iterations than ten broken runs get through
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}
# Trains, and ends itself as by kill -9 before or after a file of a given name gets its final name.
KILLED_AT_RENAME = """
import os, signal, sys
from netc.solver import Solver
moment, name = sys.argv[1:]
replace = os.replace
def killing_replace(source, target):
    hit = os.path.basename(target) == name
    if hit and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if hit:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = killing_replace
Solver("solver.prototxt").solve()
"""


def final_files(folder: Path, iteration: int) -> dict[str, bytes]:
    names = [f"snap_iter_{iteration}.{suffix}" for suffix in ("caffemodel", "solverstate", "netcstate")]
    return {name: (folder / name).read_bytes() for name in names}


def iteration_of(path: str | None) -> int:
    match = re.search(r"_iter_(\d+)\.", path or "")
    return int(match[1]) if match else 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    broken = tmp_path / "broken"
    broken.mkdir()
    monkeypatch.chdir(broken)
    return broken


def unbroken(folder: Path, **options: object) -> dict[str, bytes]:
    """The last snapshot's files of the same run, made without a break beside the folder."""
    whole = folder.parent / "whole"
    whole.mkdir()
    path = make_small_run(whole, **options)
    os.chdir(whole)
    try:
        solver = Solver(path)
        solver.solve()
    finally:
        os.chdir(folder)
    return final_files(whole, solver.iter)


@pytest.mark.parametrize(
    ("moment", "suffix", "survives"),
    [
        ("before", "caffemodel", 5),
        ("after", "caffemodel", 5),
        ("after", "netcstate", 5),
        ("after", "solverstate", 10),
    ],
)
def test_a_kill_between_the_files_of_a_snapshot_loses_nothing(
    folder: Path, moment: str, suffix: str, survives: int
) -> None:
    expected = unbroken(folder, max_iter=15)
    make_small_run(folder, max_iter=15)
    child = subprocess.run(
        [sys.executable, "-c", KILLED_AT_RENAME, moment, f"snap_iter_10.{suffix}"],
        env=ENVIRONMENT,
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    newest = latest("snap")
    assert newest == f"snap_iter_{survives}.solverstate"
    solver = Solver("solver.prototxt")
    solver.restore(newest)
    solver.solve()
    assert final_files(folder, 15) == expected
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def train_until_killed(folder: Path, rng: random.Random) -> int:
    """Resumes by command line, kills it at a random moment; the iteration of the last snapshot begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "netc", "train", "-solver", "solver.prototxt", "-snapshot", "latest"],
        env=ENVIRONMENT,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    snapshots, begun, output = rng.randrange(1, 6), 0, []
    for line in process.stderr:
        output.append(line)
        match = re.search(r"Snapshotting to binary proto file snap_iter_(\d+)\.", line)
        if match:
            begun = int(match[1])
            snapshots -= 1
            if snapshots == 0:
                break
    time.sleep(rng.uniform(0, 0.02))
    process.kill()
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == -signal.SIGKILL, "".join(output) + rest
    return max([begun, *map(int, re.findall(r"Snapshotting to binary proto file snap_iter_(\d+)\.", rest))])


@pytest.mark.slow
def test_ten_kills_at_random_moments_end_bit_identical(folder: Path) -> None:
    options: dict[str, object] = {"max_iter": LAST, "snapshot": 1}
    expected = unbroken(folder, **options)
    make_small_run(folder, **options)
    rng = random.Random(3)
    for _ in range(KILLS):
        begun = train_until_killed(folder, rng)
        assert iteration_of(latest("snap")) >= begun - 1
    finish = subprocess.run(
        [sys.executable, "-m", "netc", "train", "-solver", "solver.prototxt", "-snapshot", "latest"],
        env=ENVIRONMENT,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finish.returncode == 0, finish.stderr
    assert "Resuming from snap_iter_" in finish.stderr
    assert final_files(folder, LAST) == expected
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") or "probe" in path.name]
