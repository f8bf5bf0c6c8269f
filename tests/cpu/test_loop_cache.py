"""Loops in the cache folder: compiled once, run without numba from then on, and never run damaged."""

from __future__ import annotations

import ctypes
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cpu.loops import OPENMP, Loop, bound, openmp
from netc.backends.cpu.loops import cache as loop_cache
from netc.backends.cpu.loops.accuracy_job import JOB
from netc.backends.cpu.loops.cache import loop_code, version
from netc.backends.cpu.loops.image import Image, MappedImage, Slot, unpacked
from netc.errors import NetcError

pytest.importorskip("numba", reason="loops are compiled by numba (netc[cpu])")
LOOP = "accuracy", "forward"
HERE = Path(loop_cache.__file__).parent
NETC = HERE.parents[2]
LOOPS = "netc.backends.cpu.loops"
COMPILER = f"{LOOPS}.compiler"
NET = """
layer { name: "x" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 8 dim: 3 dim: 64 dim: 64 } shape { dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 16 kernel_size: 7 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "t" top: "loss" }
"""
TRAIN = """
import sys, netc
solver = netc.SGDSolver(sys.argv[1])
solver.step(2)
print(*sorted({name.split(".")[0] for name in sys.modules} & {"numba", "llvmlite"}))
print(solver.net.blobs["loss"].data.tobytes().hex())
print(float(abs(solver.net.params["conv"][0].diff).sum()).hex())
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache folder."""
    try:
        openmp()
    except OSError:
        pytest.skip("GNU's OpenMP is not installed")
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    version.cache_clear()
    yield tmp_path / "cache"
    version.cache_clear()


def entry(cache: Path) -> Path:
    """The file of the loop."""
    (path,) = cache.glob(f"cpu-loops-*/{'.'.join(LOOP)}")
    return path


def accuracy(code: Any) -> float:
    """What the loop gives for four items, of which three are right."""
    scores = np.array([[3, 1, 2], [0, 1, 2], [0, 9, 1], [7, 8, 1]], np.float32)
    labels, wrong, top = np.array([0, 2, 1, 0], np.float32), np.zeros(1, np.int64), np.zeros(1, np.float32)
    arrays: dict[str, np.ndarray] = {"scores": scores, "labels": labels, "wrong": wrong, "top": top}
    bound(Loop(openmp(), code), JOB, 1, {"rows": 4, "classes": 3, "top_k": 1}, arrays)()
    return float(top[0])


def written_in_numba() -> set[Path]:
    """The files of loops, and of what they are put together from."""
    return {path for path in HERE.glob("*.py") if re.search(r"^from numba", path.read_text(), re.MULTILINE)}


def imported_by(path: Path) -> set[str]:
    """The modules of netc that a file imports, anywhere in it."""
    return set(re.findall(r"^ *from (netc[\w.]*) import", path.read_text(), re.MULTILINE))


def forbid_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, COMPILER, None)


def test_a_loop_is_compiled_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75
    forbid_compiling(monkeypatch)
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75
    with pytest.raises(ImportError, match=r"loops\.compiler"):
        loop_code("accuracy", "another", OPENMP)


def test_training_needs_neither_numba_nor_llvmlite_again(tmp_path: Path) -> None:
    """The same bits from loops that have just been compiled and from those in the cache."""
    (tmp_path / "net.prototxt").write_text(NET)
    solver = tmp_path / "solver.prototxt"
    net = tmp_path / "net.prototxt"
    solver.write_text(f'net: "{net}" base_lr: 0.1 lr_policy: "fixed" solver_mode: CPU random_seed: 3\n')
    printed = []
    for _ in range(2):
        command = [sys.executable, "-c", TRAIN, str(solver)]
        run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        printed.append(run.stdout.splitlines())
    assert printed[0][0] == "llvmlite numba"
    assert printed[1][0] == ""
    assert printed[0][1:] == printed[1][1:]


@pytest.mark.parametrize("kept", [0, 20, 500, -1])
def test_what_is_cut_short_is_compiled_again(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    loop_code(*LOOP, OPENMP)
    path, whole = entry(cache), entry(cache).read_bytes()
    path.write_bytes(whole[:kept])
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75
    assert f"{path} is ignored: it is damaged" in caplog.text
    assert path.read_bytes() == whole
    forbid_compiling(monkeypatch)
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75


def test_a_changed_byte_is_noticed() -> None:
    content = Image(bytes(64), 16, (Slot(8, "memset", 0), Slot(16, None, 32))).packed()
    assert unpacked(content).slots == (Slot(8, "memset", 0), Slot(16, None, 32))
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 4
        with pytest.raises(ValueError, match="damaged"):
            unpacked(bytes(damaged))


def test_code_for_another_processor_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = version()
    monkeypatch.setattr(loop_cache, "processor", lambda: "another")
    version.cache_clear()
    assert version() != ours


def test_code_of_another_compiler_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = version()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1")
    version.cache_clear()
    assert version() != ours


def test_the_version_covers_all_that_loops_are_written_with() -> None:
    """Sources from elsewhere could change without the loops being compiled anew."""
    for path in written_in_numba():
        assert all(module.startswith(LOOPS) for module in imported_by(path)), path.name


def test_only_compiling_imports_loops() -> None:
    """Any other import of them would bring numba into every process."""
    loops = written_in_numba()
    forbidden = {f"{LOOPS}.{path.stem}" for path in loops}
    for path in set(NETC.rglob("*.py")) - loops:
        assert not imported_by(path) & forbidden, path.name


def test_without_numba_no_loops_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they have been compiled: what runs must not hang on what happens to lie in a folder."""
    loop_code(*LOOP, OPENMP)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="numba"):
        loop_code(*LOOP, OPENMP)


def test_a_loop_runs_where_it_cannot_be_kept(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise NetcError("cannot write the file: the disk is full")

    monkeypatch.setattr(loop_cache, "replacing", refuse)
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75
    assert "a compiled loop is not kept: " in caplog.text
    assert not list(cache.glob(f"cpu-loops-*/{'.'.join(LOOP)}"))


def test_a_loop_that_calls_what_is_not_found_runs_as_numbas_own(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_cache, "ERRORS", ())
    with caplog.at_level(logging.DEBUG, "netc"):
        assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75
    assert "no library has numba_gil_ensure" in caplog.text
    assert not list(cache.glob(f"cpu-loops-*/{'.'.join(LOOP)}"))


def test_a_loop_runs_as_numbas_own_where_the_system_maps_no_code(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Image, find: Any) -> None:
        raise OSError("the system runs no code from memory")

    monkeypatch.setattr(loop_cache, "MappedImage", refuse)
    assert accuracy(loop_code(*LOOP, OPENMP)) == 0.75


@pytest.mark.skipif(sys.platform != "linux", reason="looks into Linux's table of mappings")
def test_code_cannot_be_written() -> None:
    mapped = MappedImage(Image(bytes(64), 0, ()), lambda symbol: 0)
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= mapped.address < last:
            assert line.split()[1] == "r-xp"
            return
    pytest.fail("the code is not in memory")


def test_slots_hold_the_addresses_of_symbols_and_of_the_code_itself() -> None:
    addresses = {"there": 4096}
    image = Image(bytes(64), 8, (Slot(16, "there", 3), Slot(40, None, 24)))
    mapped = MappedImage(image, addresses.__getitem__)
    start = mapped.address - 8
    words = np.frombuffer(ctypes.string_at(start, 64), np.uint64)
    assert {i: int(word) for i, word in enumerate(words) if word} == {2: 4099, 5: start + 24}
