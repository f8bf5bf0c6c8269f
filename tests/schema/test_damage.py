"""Files cut short, with flipped bits or foreign bytes: they load, or give a NetcError that names the file."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.errors import NetcError
from netc.schema import hdf5
from netc.schema.blobs import read_mean
from netc.schema.net import read_net
from netc.schema.solver import read_solver
from netc.schema.state import read_state
from netc.schema.weights import read_weights

SETTINGS = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "derandomize": True,
}
Change = tuple[str, float, int]

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "drop", "repeat"]),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


def changed(content: bytes, changes: list[Change]) -> bytes:
    """`content` with each change made at its place: a bit, a byte, the end, a stretch lost or doubled."""
    data = bytearray(content)
    for kind, where, value in changes:
        at = int(where * len(data))
        if kind == "cut":
            del data[max(at, len(data) - 3 * value) :]
        elif kind == "drop":
            del data[at : at + value]
        elif kind == "repeat":
            data[at:at] = data[at : at + value]
        elif at < len(data):
            data[at] = data[at] ^ 1 << value % 8 if kind == "flip" else value
    return bytes(data)


def load(read: Callable[[Path], object], path: Path) -> None:
    """Reads a file that may be damaged; any failure but a NetcError that names it fails the test."""
    error = None
    try:
        read(path)
    except NetcError as caught:
        error = caught
    assert error is None or str(error.at).startswith(str(path))


@settings(max_examples=300, **SETTINGS)
@given(name=st.sampled_from(["shared", "conv_mult", "bn"]), changes=CHANGES)
def test_damaged_nets(golden: Path, tmp_path: Path, name: str, changes: list[Change]) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(changed((golden / "solvers" / f"{name}.prototxt").read_bytes(), changes))
    load(read_net, path)


@settings(max_examples=200, **SETTINGS)
@given(name=st.sampled_from(["adadelta", "nesterov", "rmsprop"]), changes=CHANGES)
def test_damaged_solvers(golden: Path, tmp_path: Path, name: str, changes: list[Change]) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(changed((golden / "upgrade" / f"solver_{name}.in.prototxt").read_bytes(), changes))
    load(read_solver, path)


BINARY = [
    (read_weights, "solvers/shared_init.caffemodel"),
    (read_weights, "upgrade/legacy_model_v1.caffemodel"),
    (read_state, "solvers/Adam__conv_iter_12.solverstate"),
    (read_mean, "imageset/resize_gray.mean.binaryproto"),
]
HDF5 = [
    (read_weights, "solvers/shared_init.caffemodel.h5"),
    (read_state, "solvers/SGD__conv_iter_12.solverstate.h5"),
]


@settings(max_examples=400, **SETTINGS)
@given(case=st.sampled_from(BINARY), changes=CHANGES)
def test_damaged_binary_files(
    golden: Path, tmp_path: Path, case: tuple[Callable[[Path], object], str], changes: list[Change]
) -> None:
    read, name = case
    path = tmp_path / "damaged"
    path.write_bytes(changed((golden / name).read_bytes(), changes))
    load(read, path)


@pytest.mark.parametrize(("read", "name"), BINARY[:3])
def test_binary_files_cut_anywhere(
    golden: Path, tmp_path: Path, read: Callable[[Path], object], name: str
) -> None:
    content = (golden / name).read_bytes()
    path = tmp_path / "damaged"
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        load(read, path)


@settings(max_examples=25, **SETTINGS)
@given(case=st.sampled_from(HDF5), changes=CHANGES)
def test_damaged_hdf5_files(
    golden: Path, tmp_path: Path, case: tuple[Callable[[Path], object], str], changes: list[Change]
) -> None:
    read, name = case
    path = tmp_path / "damaged"
    path.write_bytes(changed((golden / name).read_bytes(), changes))
    load(read, path)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 2))\nwhile True: pass",
            "did not come to an end",
        ),
        ("print('bad heap', end=''); raise SystemExit(1)", "bad heap"),
    ],
    ids=["dies", "hangs", "reports"],
)
def test_an_hdf5_library_that_fails_takes_only_its_own_process_down(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes((golden / "solvers/shared_init.caffemodel.h5").read_bytes())
    monkeypatch.setattr(hdf5, "_PROBE", program)
    with pytest.raises(NetcError, match=words) as caught:
        read_weights(path)
    assert str(caught.value.at) == str(path)


def test_an_hdf5_file_is_probed_once(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.h5"
    content = (golden / "solvers/shared_init.caffemodel.h5").read_bytes()
    path.write_bytes(content)
    runs = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (runs.append(a), run(*a, **k))[1])
    read_weights(path)
    read_weights(path)
    assert len(runs) == 1
    path.unlink()
    path.write_bytes(content[:-1] + b"x")
    read_weights(path)
    assert len(runs) == 2


def test_a_probe_that_cannot_run_says_nothing_of_the_file(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes((golden / "solvers/shared_init.caffemodel.h5").read_bytes())
    monkeypatch.setattr(hdf5, "_PROBE", "import no_such_module")
    assert set(read_weights(path)) == {"a", "o"}
    assert "no_such_module" in caplog.text


def test_without_an_interpreter_there_is_no_probe(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.h5"
    path.write_bytes((golden / "solvers/shared_init.caffemodel.h5").read_bytes())
    monkeypatch.setattr(sys, "executable", "")
    assert set(read_weights(path)) == {"a", "o"}
