"""The fused update gives the bits of the plain one, for every solver type and any number of threads."""

from __future__ import annotations

import logging
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend, loops, update
from netc.proto import netc_pb2 as pb
from netc.runtime.parameters import Segment
from netc.solver.rules import RULES
from netc.solver.update import Updater

pytest.importorskip("numba", reason="the fused update is compiled by numba (netc[cpu])")

CONSTANTS = {
    "SGD": "momentum: 0.9",
    "Nesterov": "momentum: 0.9",
    "AdaGrad": "delta: 1e-3",
    "RMSProp": "delta: 1e-3 rms_decay: 0.9",
    "AdaDelta": "delta: 1e-3 momentum: 0.9",
    "Adam": "delta: 1e-3 momentum: 0.9 momentum2: 0.99",
}
OPTIONS = ["", "weight_decay: 0.05", 'weight_decay: 0.05 regularization_type: "L1" iter_size: 3']
# (count, lr_mult, decay_mult): several rows of the table, a tail, a single element, a frozen parameter.
PARAMETERS = [(3 * update.CHUNK + 5, 1.0, 1.0), (70_003, 2.0, 0.0), (1, 1.0, 1.0), (333, 0.0, 1.0)]


class PlainBackend(CpuBackend):
    """Has no update of its own."""

    def make_update(self, *arguments: object) -> None:
        return None


class Arena:
    """Flat parameters and gradients, each parameter beginning at a multiple of 16 elements."""

    def __init__(self, parameters: list[tuple[int, float, float]] = PARAMETERS) -> None:
        self.segments: list[Segment] = []
        offset = 0
        for index, (count, lr_mult, decay_mult) in enumerate(parameters):
            self.segments.append(Segment("p", "l", index, offset, count, (count,), lr_mult, decay_mult))
            offset += -(-count // 16) * 16
        self.data = self.random(0, offset)
        self.grad = np.zeros_like(self.data)

    def random(self, seed: int, length: int) -> np.ndarray:
        """Normal numbers with some zeros, and zeros between the parameters."""
        rng = np.random.default_rng(seed)
        values = np.zeros(length, np.float32)
        for segment in self.segments:
            here = slice(segment.offset, segment.offset + segment.count)
            values[here] = rng.standard_normal(segment.count) * (rng.random(segment.count) < 0.9)
        return values


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "SMALLEST", 1)
    monkeypatch.setattr(update, "THREAD_ELEMENTS", 1)


@contextmanager
def team_of(threads: int) -> Iterator[None]:
    """That many threads in OpenMP's team."""
    openmp = loops.openmp()
    before = openmp.omp_get_max_threads()
    openmp.omp_set_num_threads(threads)
    try:
        yield
    finally:
        openmp.omp_set_num_threads(before)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with team_of(request.param):
        yield request.param


def updater(arena: Arena | SimpleNamespace, type_name: str, text: str, backend: CpuBackend) -> Updater:
    definition = text_format.Parse(f"{CONSTANTS[type_name]} {text}", pb.SolverParameter())
    return Updater(definition, RULES[type_name](definition), arena, backend)  # type: ignore[arg-type]


def trained(type_name: str, text: str, *, fused: bool, backend: CpuBackend | None = None) -> list[np.ndarray]:
    """Parameters, gradients and history after some updates, which must have been fused or plain ones."""
    arena = Arena()
    made = updater(arena, type_name, text, backend or (CpuBackend() if fused else PlainBackend()))
    assert (made._fast is not None) == fused
    for iteration in range(4):
        arena.grad[:] = arena.random(1 + iteration, len(arena.grad))
        made.apply(iteration, 0.01 * (iteration + 1))
    return [arena.data, arena.grad, *made.history]


@pytest.mark.parametrize("threads", [1, 2, 3], indirect=True)
@pytest.mark.parametrize("text", OPTIONS)
@pytest.mark.parametrize("type_name", RULES)
def test_the_fused_update_gives_the_plain_ones_bits(threads: int, type_name: str, text: str) -> None:
    found_arrays, expected_arrays = (trained(type_name, text, fused=fused) for fused in (True, False))
    for found, expected in zip(found_arrays, expected_arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("most", [0.0, 10.0, 1e6])
@pytest.mark.parametrize("type_name", ["SGD", "Adam"])
def test_clipped_gradients_agree(threads: int, type_name: str, most: float) -> None:
    text = f"clip_gradients: {most} iter_size: 2 weight_decay: 0.01"
    found_arrays, expected_arrays = (trained(type_name, text, fused=fused) for fused in (True, False))
    for found, expected in zip(found_arrays, expected_arrays, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_clipping_gives_the_same_bits_on_any_number_of_threads() -> None:
    found = []
    for threads in (1, 2, 5):
        with team_of(threads):
            found.append(trained("Adam", "clip_gradients: 10", fused=True))
    for one, two, five in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, five)


def test_the_norm_is_summed_in_double(caplog: pytest.LogCaptureFixture) -> None:
    arena = Arena([(1 << 20, 1.0, 1.0)])
    made = updater(arena, "SGD", "clip_gradients: 1", CpuBackend())
    arena.grad[:] = 1
    arena.grad[0] = 4096  # its square, 2**24, swallows ones in a float32 sum
    with caplog.at_level(logging.INFO, "netc"):
        made.apply(0, 0.0)
    norm = np.sqrt(2.0**24 + 2**20 - 1)
    assert caplog.messages == [
        f"Gradient clipping: scaling down gradients (L2 norm {norm:g} > 1) by scale factor {1 / norm:g}"
    ]


def test_numbers_that_are_none_spread_and_stop_nothing() -> None:
    arena = Arena()
    made = updater(arena, "SGD", "clip_gradients: 1", CpuBackend())
    arena.grad[5] = np.nan
    made.apply(0, 0.1)
    assert np.isnan(arena.data[5])
    assert np.isfinite(arena.data[6:]).all()


def test_an_update_allocates_no_arrays() -> None:
    arena = Arena()
    made = updater(arena, "Adam", "weight_decay: 0.1 clip_gradients: 1", CpuBackend())
    made.apply(0, 0.1)
    tracemalloc.start()
    made.apply(1, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5000


def test_small_and_double_nets_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena()
    total = sum(stretch.elements for stretch in updater(arena, "SGD", "", CpuBackend()).spec.stretches)
    monkeypatch.setattr(update, "SMALLEST", total)
    assert updater(arena, "SGD", "", CpuBackend())._fast is not None
    monkeypatch.setattr(update, "SMALLEST", total + 1)
    assert updater(arena, "SGD", "", CpuBackend())._fast is None
    monkeypatch.setattr(update, "SMALLEST", 1)
    double = SimpleNamespace(
        data=arena.data.astype(np.float64), grad=arena.grad.astype(np.float64), segments=arena.segments
    )
    assert updater(double, "SGD", "", CpuBackend())._fast is None


def test_numpy_updates_where_numba_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(module: str, name: str) -> None:
        raise RuntimeError("cannot be compiled")

    monkeypatch.setattr(update, "compiled", fail)
    found_arrays = trained("Adam", "", fused=False, backend=CpuBackend())
    for found, expected in zip(found_arrays, trained("Adam", "", fused=False), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "RuntimeError: cannot be compiled" in caplog.text


@pytest.mark.parametrize("missing", ["numba", "OpenMP"])
def test_numpy_updates_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    if missing == "numba":
        monkeypatch.setitem(sys.modules, "numba", None)
        monkeypatch.delitem(sys.modules, "netc.backends.cpu.loops.update", raising=False)
    else:
        monkeypatch.setattr(loops.loop, "OPENMP", "libthere_is_none.so.1")
    loops.compiled.cache_clear()
    loops.openmp.cache_clear()
    with caplog.at_level(logging.INFO, "netc"):
        found_arrays = trained("SGD", "", fused=False, backend=CpuBackend())
    loops.openmp.cache_clear()
    for found, expected in zip(found_arrays, trained("SGD", "", fused=False), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len([message for message in caplog.messages if "faster with numba" in message]) == 1
