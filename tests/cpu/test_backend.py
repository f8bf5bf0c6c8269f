"""The CPU's memory: what is written arrives, whatever it is written from."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from tests.cpu.form_case import NHWC, pack


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
        np.arange(24, dtype=np.float64).reshape(2, 3, 2, 2),
        np.arange(24, dtype=np.float32).reshape(4, 3, 2, 1).transpose(2, 1, 0, 3).reshape(2, 3, 2, 2),
        np.asfortranarray(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)),
        np.arange(3, dtype=np.uint8).reshape(3, 1, 1),
        np.float32(7),
    ],
    ids=["alike", "another type", "copied before", "another order", "spread", "one number"],
)
@pytest.mark.parametrize("layout", ["plain", NHWC])
def test_values_are_written_as_they_are(values: np.ndarray, layout: str) -> None:
    target = pack(np.zeros((2, 3, 2, 2), np.float32), layout, 8)
    CpuBackend(fast=False).write(target, values)
    np.testing.assert_array_equal(target, np.broadcast_to(values, target.shape))


@pytest.mark.parametrize("shape", [(), (0,), (5, 0)])
def test_scalars_and_empty_arrays_are_written(shape: tuple[int, ...]) -> None:
    target = np.zeros(shape, np.float32)
    CpuBackend(fast=False).write(target, np.ones(shape, np.float32))
    np.testing.assert_array_equal(target, np.ones(shape, np.float32))


def test_every_bit_of_a_value_is_kept() -> None:
    values = np.array([-0.0, np.nan, np.inf, 1e-45], np.float32)
    values.view(np.uint32)[1] = 0x7FC12345
    target = np.zeros(4, np.float32)
    CpuBackend(fast=False).write(target, values)
    np.testing.assert_array_equal(target.view(np.uint32), values.view(np.uint32))
