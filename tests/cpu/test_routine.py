"""Routines: reorders come by themselves, nothing is reordered twice, failures say what failed."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest

from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import Descriptor, Product, Refused, Routine, describe, kinds
from netc.backends.form import BLOCKED, NHWC, PLAIN
from netc.errors import NetcError
from tests.cpu.form_case import aligned, allocate, engine, pack, unpack

SHAPE = (2, 5, 4, 3)


def relu(values: Descriptor) -> object:
    arguments = (kinds.FORWARD_INFERENCE, kinds.RELU, values, values, 0.0, 0.0)
    return describe(values.engine, "eltwise_forward", *arguments)


def test_operands_are_reordered_for_a_primitive_that_wants_them_otherwise() -> None:
    opened = engine()
    plain, blocked = (descriptor_of(opened, SHAPE, layout) for layout in (PLAIN, BLOCKED))
    routine = Routine(opened)
    reads = {kinds.SOURCE: routine.operand("x", plain)}
    routine.add(relu(blocked), reads, {kinds.DESTINATION: routine.operand("y", plain)})
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    y = np.zeros_like(x)
    run = routine.bind({"x": x, "y": y}, allocate(routine.workspace))
    run()
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    x *= -1  # the arrays are bound, their values are not
    run()
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_a_copy_serves_all_who_want_it_until_its_operand_is_written() -> None:
    opened = engine()
    plain, blocked = (descriptor_of(opened, SHAPE, layout) for layout in (PLAIN, BLOCKED))
    routine = Routine(opened)
    for name in ("x", "y", "z"):
        routine.operand(name, plain)
    for target in ("y", "z"):
        routine.add(relu(blocked), {kinds.SOURCE: "x"}, {kinds.DESTINATION: target})
    assert [step.description.kind for step in routine.steps].count("reorder") == 3
    routine.add(relu(plain), {kinds.SOURCE: "y"}, {kinds.DESTINATION: "x"})
    routine.add(relu(blocked), {kinds.SOURCE: "x"}, {kinds.DESTINATION: "z"})
    assert [step.description.kind for step in routine.steps].count("reorder") == 5


def test_results_are_added_to_what_is_there() -> None:
    opened = engine()
    routine = Routine(opened)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    y = aligned(pack(np.ones_like(x), NHWC, opened.block))
    source = routine.operand("x", descriptor_of(opened, SHAPE))
    target = routine.operand("y", descriptor_of(opened, SHAPE, NHWC))
    routine.add(relu(descriptor_of(opened, SHAPE)), {kinds.SOURCE: source}, {}, {kinds.DESTINATION: target})
    run = routine.bind({"x": x, "y": y}, allocate(routine.workspace))
    run()
    run()
    np.testing.assert_allclose(unpack(y, SHAPE, NHWC, 0), 1 + 2 * np.maximum(x, 0), rtol=1e-6)


def test_a_run_allocates_no_memory() -> None:
    opened = engine()
    values = descriptor_of(opened, SHAPE)
    routine = Routine(opened)
    arguments = {kinds.SOURCE: routine.operand("x", values), kinds.DESTINATION: routine.operand("y", values)}
    routine.add_as_given(relu(values), arguments)
    array = np.ones(SHAPE, np.float32)
    run = routine.bind({"x": array, "y": array}, allocate(routine.workspace))
    run()
    gc.collect()
    tracemalloc.start()
    for _ in range(100):
        run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2048


def test_what_has_no_implementation_is_refused() -> None:
    opened = engine()
    one, other = (Descriptor.strided(opened, shape) for shape in ((2, 3), (2, 4)))
    with pytest.raises(Refused, match="dnnl_eltwise_forward_primitive_desc_create"):
        describe(opened, "eltwise_forward", kinds.FORWARD_INFERENCE, kinds.RELU, one, other, 0.0, 0.0)


def test_a_layout_that_onednn_does_not_know_is_an_error() -> None:
    with pytest.raises(NetcError, match="no layout aBcd7b"):
        Descriptor.tagged(engine(), SHAPE, "aBcd7b")


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("sizes", [(3, 4, 5), (1, 7, 1), (17, 1, 9)])
def test_products(left: bool, right: bool, add: bool, sizes: tuple[int, int, int]) -> None:
    opened = engine()
    rows, inner, columns = sizes
    random = np.random.default_rng(1)

    def matrix(height: int, width: int, transposed: bool) -> np.ndarray:
        values = random.standard_normal((width, height) if transposed else (height, width))
        values = values.astype(np.float32)
        return values.T if transposed else values

    a, b, c = matrix(rows, inner, left), matrix(inner, columns, right), matrix(rows, columns, False)
    expected = a @ b + (c if add else 0)
    Product(opened, a, b, c, add=add)()
    np.testing.assert_allclose(c, expected, rtol=1e-5, atol=1e-5)
