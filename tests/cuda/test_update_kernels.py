"""The update of a whole arena agrees with the solver's own rules, over several iterations."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.device import Memory
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.iteration import update as kernels
from netc.backends.loss_scale import LEAST, MOST, PATIENCE, LossScale
from netc.proto import netc_pb2 as pb
from netc.solver.rules import RULES
from tests.cuda.arrays import get, put

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

CONSTANTS = {
    "SGD": {"momentum": 0.9},
    "Nesterov": {"momentum": 0.9},
    "AdaGrad": {"delta": 1e-6},
    "RMSProp": {"rms_decay": 0.95, "delta": 1e-6},
    "AdaDelta": {"momentum": 0.95, "delta": 1e-6},
    "Adam": {"momentum": 0.9, "momentum2": 0.999, "delta": 1e-8},
}
# (start, count, rate multiplier, decay): several chunks and a short one, with a gap that must stay as it is.
RUNS = [(0, 2 * kernels.CHUNK_ELEMENTS + 5, 1.0, 0.01), (16400, 33, 2.0, 0.0)]
UNALIGNED_RUNS = [(0, 7, 1.0, 0.01), (7, 301, 2.0, 0.0)]
RATE, SCALE = 0.05, 0.5


def one_scalars(iteration: int, rule: object) -> np.ndarray:
    rule.begin(iteration)  # type: ignore[attr-defined]
    return np.array([(RATE, SCALE, getattr(rule, "correction", 1.0), 0, 0)], kernels.SCALARS)


def train(device: EmulatedDevice, type_: str, runs: list, l1: bool) -> tuple[np.ndarray, ...]:
    """Data, gradients and history after two updates by the kernel, then by the rule itself."""
    definition = pb.SolverParameter(type=type_, **CONSTANTS[type_])
    rule = RULES[type_](definition)
    size = max(start + count for start, count, _, _ in runs) + 3
    rng = np.random.default_rng(0)
    data, *gradients = (rng.standard_normal(size).astype(np.float32) for _ in range(3))
    history = [np.zeros(size, np.float32) for _ in range(rule.history_count)]
    names = {"momentum2": definition.rms_decay} if type_ == "RMSProp" else {"momentum2": definition.momentum2}
    constants = kernels.UpdateConstants(definition.momentum, delta=definition.delta, l1=l1, **names)
    chunks = kernels.chunks_of(runs)
    chunk_memory, scalars = (
        put(device, chunks, "chunks"),
        device.allocate(kernels.SCALARS.itemsize, "scalars"),
    )
    on_device = [put(device, array, "arena") for array in (data, gradients[0], *history)]
    for iteration, gradient in enumerate(gradients):
        device.upload(scalars, one_scalars(iteration, rule))
        device.upload(on_device[1], gradient)
        kernels.update(device, type_, constants, chunks, chunk_memory, scalars, *on_device[:2], on_device[2:])
        scratch = [np.empty(size, np.float32) for _ in range(rule.scratch_count)]
        for start, count, multiplier, decay in runs:
            here = slice(start, start + count)
            w, g = data[here], gradient[here]
            g *= np.float32(SCALE)
            g += np.float32(decay) * (np.sign(w) if l1 else w)
            views = [array[here] for array in history], [array[:count] for array in scratch]
            rule.update(np, g, *views, RATE * multiplier)
            w -= g
    results = [get(device, memory) for memory in on_device]
    return (*results, data, gradients[-1], *history)


@pytest.mark.parametrize("l1", [False, True], ids=["L2", "L1"])
@pytest.mark.parametrize("type_", CONSTANTS)
def test_updates_agree_with_the_solver(device: EmulatedDevice, type_: str, l1: bool) -> None:
    results = train(device, type_, RUNS, l1)
    half = len(results) // 2
    for got, wanted in zip(results[:half], results[half:], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_chunks_that_begin_anywhere(device: EmulatedDevice) -> None:
    results = train(device, "Adam", UNALIGNED_RUNS, False)
    half = len(results) // 2
    for got, wanted in zip(results[:half], results[half:], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-6)


def test_every_rule_of_the_solver_has_a_kernel() -> None:
    assert set(kernels.RULES) == set(RULES)
    assert {type_: history for type_, (_, history) in kernels.RULES.items()} == {
        type_: rule.history_count for type_, rule in RULES.items()
    }


def clip(
    device: EmulatedDevice, gradient: np.ndarray, most: float, scale: float, loss_scale: float | None = None
) -> np.void:
    memory = put(device, gradient, "gradient")
    sums: Memory = device.allocate(8 * 4096, "sums")
    scalars = put(device, np.zeros(1, kernels.SCALARS), "scalars")
    times = None if loss_scale is None else put(device, np.array([loss_scale, 0], np.float32), "loss scale")
    kernels.clip_gradients(device, memory, sums, scalars, most, scale, times)
    return device.download(scalars, np.empty(1, kernels.SCALARS))[0]


@pytest.mark.parametrize("count", [1, 255, 9001])
def test_gradients_are_clipped_by_their_norm(device: EmulatedDevice, count: int) -> None:
    gradient = np.random.default_rng(1).standard_normal(count).astype(np.float32)
    norm = np.linalg.norm(gradient.astype(np.float64))
    clipped = clip(device, gradient, norm / 4, 0.5)
    np.testing.assert_allclose(clipped["norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(clipped["gradient_scale"], 0.5 / 4, rtol=1e-6)
    assert clip(device, gradient, 2 * norm, 0.5)["gradient_scale"] == 0.5
    assert clip(device, gradient, -1, 0.5)["gradient_scale"] == 0.5


def test_the_loss_scale_is_taken_back_before_clipping(device: EmulatedDevice) -> None:
    gradient = np.full(16, 8, np.float32)  # of norm 32, which is 4 times a norm of 8
    scaled = clip(device, gradient, 2, 0.5, loss_scale=4)
    assert (scaled["norm"], scaled["gradient_scale"], scaled["overflowed"]) == (8, 0.5 / 4 * 2 / 8, 0)
    assert clip(device, gradient, -1, 0.5, loss_scale=4)["gradient_scale"] == 0.5 / 4


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_only_gradients_of_a_scaled_loss_overflow(device: EmulatedDevice, value: float) -> None:
    gradient = np.array([1, value, 2], np.float32)
    assert clip(device, gradient, -1, 1, loss_scale=2)["overflowed"]
    assert not clip(device, gradient, -1, 1)["overflowed"]


@pytest.mark.parametrize("held", [0, 7, PATIENCE - 1])
@pytest.mark.parametrize("value", [LEAST, 2.0**15, MOST, 2.0**60])
@pytest.mark.parametrize("gradient", [1.0, np.inf], ids=["fits", "overflows"])
def test_the_device_moves_the_loss_scale_as_the_rule_says(
    device: EmulatedDevice, gradient: float, value: float, held: int
) -> None:
    wanted = LossScale(value, held)
    wanted.note(np.isfinite(gradient))
    memory = put(device, np.full(5, gradient, np.float32), "gradient")
    sums, scalars = device.allocate(8 * 4096, "sums"), put(device, np.zeros(1, kernels.SCALARS), "scalars")
    scale = put(device, np.array([value, held], np.float32), "loss scale")
    kernels.clip_gradients(device, memory, sums, scalars, -1, 1, scale)
    assert get(device, scale).tolist() == [wanted.value, wanted.held]


def test_an_update_that_has_overflowed_changes_nothing(device: EmulatedDevice) -> None:
    chunks = kernels.chunks_of([(0, 9, 1.0, 0.1)])
    arrays = [np.arange(9, dtype=np.float32) + i for i in range(3)]
    on_device = [put(device, array, "arena") for array in arrays]
    scalars = put(device, np.array([(0.1, 1, 1, 1, 1)], kernels.SCALARS), "scalars")
    chunk_memory, constants = put(device, chunks, "chunks"), kernels.UpdateConstants(0.9)
    kernels.update(device, "SGD", constants, chunks, chunk_memory, scalars, *on_device[:2], on_device[2:])
    for memory, array in zip(on_device, arrays, strict=True):
        np.testing.assert_array_equal(get(device, memory), array)
