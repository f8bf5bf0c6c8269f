"""Values whose channels lie side by side on the device: forms that take them as they lie, and reorders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device.arrays import empty_like
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.layers import activation, axpy, concat, dropout, eltwise, scale, split
from netc.backends.form import NHWC, PLAIN, Mode
from netc.backends.layout import insert_reorder, lay_out, view
from netc.errors import NetcError
from netc.graph import Value
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from tests.cuda.one_chain import OneChain, chain_of, drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

SHAPE = (3, 8, 5, 7)
TWO = [(3, 8, 5, 7), (3, 8, 5, 7)]
FAMILIES = (activation, axpy, concat, dropout, eltwise, scale, split)
FORMS = {chain: maker for family in FAMILIES for chain, maker in family.FORMS.items()}
# Layers that keep the layout of their bottoms, whose shapes follow.
KEEPING: dict[str, tuple[str | list[str], Sequence[Sequence[int]]]] = {
    "sum": ('type: "Eltwise" eltwise_param { coeff: 1 coeff: -2 }', TWO),
    "product": ('type: "Eltwise" eltwise_param { operation: PROD }', TWO),
    "maximum": ('type: "Eltwise" eltwise_param { operation: MAX }', TWO),
    "sum, ReLU": (['type: "Eltwise"', 'type: "ReLU" bottom: "y" top: "y"'], TWO),
    "split": ('type: "Split" top: "a" top: "b" top: "c"', [SHAPE]),
    "ReLU in place": ('type: "ReLU" bottom: "x0" top: "x0"', [SHAPE]),
    "swish": ('type: "Swish"', [SHAPE]),
    "PReLU": ('type: "PReLU"', [SHAPE]),
    "PReLU in place": ('type: "PReLU" bottom: "x0" top: "x0"', [(2, 5, 3, 3)]),
    "PReLU, one slope": ('type: "PReLU" prelu_param { channel_shared: true }', [SHAPE]),
    "scale": ('type: "Scale" scale_param { bias_term: true }', [SHAPE]),
    "scale in place": (
        'type: "Scale" bottom: "x0" top: "x0" scale_param { bias_term: true }',
        [(2, 3, 4, 5)],
    ),
    "bias": ('type: "Bias"', [(2, 5, 4, 3)]),
    "concat": ('type: "Concat"', [(3, 8, 5, 7), (3, 4, 5, 7), (3, 12, 5, 7)]),
    "concat, odd channels": ('type: "Concat"', [(2, 3, 4, 4), (2, 5, 4, 4)]),
    "concat of images": ('type: "Concat" concat_param { axis: 0 }', [(2, 3, 4, 4), (1, 3, 4, 4)]),
    "concat of rows": ('type: "Concat" concat_param { axis: 2 }', [(2, 3, 2, 4), (2, 3, 5, 4)]),
    "concat of columns": ('type: "Concat" concat_param { axis: -1 }', [(2, 3, 5, 2), (2, 3, 5, 4)]),
    "slice": ('type: "Slice" top: "a" top: "b" slice_param { slice_point: 3 }', [SHAPE]),
    "dropout of one cell": ('type: "Dropout"', [(3, 8, 1, 1)]),
}
# Layers whose forms want plain values all the same: the numbers they draw, or meet, follow each other so.
PLAIN_ONES: dict[str, tuple[str, Sequence[Sequence[int]]]] = {
    "dropout": ('type: "Dropout"', [SHAPE]),
    "scale of images and rows": ('type: "Scale" scale_param { axis: 0 }', [(2, 3, 4, 5), (2, 3, 4)]),
    "scale of cells": ('type: "Scale" scale_param { axis: 1 num_axes: 3 }', [(2, 3, 4, 5)]),
}


def chain(
    device: EmulatedDevice, text: str | list[str], shapes: Sequence[Sequence[int]], **options: Any
) -> OneChain:
    bottoms = [drawn(*shape, seed=i) for i, shape in enumerate(shapes)]
    return OneChain(device, FORMS, text, *bottoms, layout=NHWC, **options)


@pytest.mark.parametrize("name", KEEPING)
def test_forms_that_keep_the_layout(checked: EmulatedDevice, name: str) -> None:
    one = chain(checked, *KEEPING[name])
    assert set(one.form.bottom_layouts or ()) == set(one.form.top_layouts or ()) == {NHWC}
    one.check(atol=1e-5, passes=2)


@pytest.mark.parametrize("name", PLAIN_ONES)
def test_forms_that_want_plain_values(checked: EmulatedDevice, name: str) -> None:
    one = chain(checked, *PLAIN_ONES[name])
    assert {*(one.form.bottom_layouts or [PLAIN]), *(one.form.top_layouts or [PLAIN])} == {PLAIN}
    one.check(atol=1e-5)


def test_dropout_that_drops_nothing_keeps_the_layout(checked: EmulatedDevice) -> None:
    one = chain(checked, 'type: "Dropout"', [SHAPE], phase=pb.TEST)
    assert one.form.top_layouts == [NHWC]
    one.check()


def test_a_factor_from_a_bottom_lies_plain_beside_values_that_do_not(checked: EmulatedDevice) -> None:
    one = chain(checked, 'type: "Scale"', [(2, 3, 4, 5), (3,)])
    assert one.form.bottom_layouts == [NHWC, PLAIN]
    one.check(atol=1e-5)


@pytest.mark.parametrize("wanted", [[True, True], [False, True], [True, False]])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 8, 3, 3), (1, 130, 2, 5), (5, 33, 6, 6)])
def test_factors_of_each_image(checked: EmulatedDevice, shape: tuple[int, ...], wanted: list[bool]) -> None:
    checked.order, checked.seed = "random", 6
    text = 'type: "Scale" scale_param { axis: 0 }'
    one = chain(checked, text, [shape, shape[:2]], wanted=wanted)
    assert one.form.bottom_layouts == [NHWC, PLAIN]
    one.check(atol=1e-5)
    one = chain(
        checked, 'type: "Axpy"', [(*shape[:2], 1, 1), shape, shape], wanted=[wanted[1], wanted[0], True]
    )
    assert one.form.bottom_layouts == [PLAIN, NHWC, NHWC]
    one.check(atol=1e-5)


def test_of_several_bottoms_the_commonest_layout_is_taken(fast: EmulatedDevice) -> None:
    nodes = chain_of('type: "Eltwise"', SHAPE, SHAPE, SHAPE)
    nodes[0].inputs[1].layout = nodes[0].inputs[2].layout = NHWC
    form = CudaBackend(fast).form(FORMS["Eltwise",], nodes, Mode(layout=NHWC))
    assert form is not None
    assert form.bottom_layouts == [NHWC] * 3


def filled(device: EmulatedDevice, value: Value, values: np.ndarray | None, backend: CudaBackend) -> Any:
    """The array of a value; undefined without values."""
    memory = backend.allocate(4 * math.prod(value.shape))
    array = view(backend, memory, 0, value, np.float32)
    if values is None:
        device.poison(device.memory_of(memory))
    else:
        backend.write(array, values)
    return array


@pytest.mark.parametrize("shape", [
    (2, 3, 31, 33), (1, 1, 4, 5), (3, 40, 8, 9), (2, 33, 1, 1), (2, 32, 32, 2), (1, 65, 3, 11), (4, 5, 2, 3),
])  # fmt: skip
@pytest.mark.parametrize("layouts", [(PLAIN, NHWC), (NHWC, PLAIN)])
def test_reorders_there_and_back(
    checked: EmulatedDevice, layouts: tuple[str, str], shape: tuple[int, ...]
) -> None:
    checked.order, checked.seed = "random", 4
    backend = CudaBackend(checked, "tf32")
    (consumer,) = chain_of('type: "ReLU"', shape)
    (bottom,) = consumer.inputs
    bottom.layout = layouts[0]
    node, top = insert_reorder(bottom, consumer, layouts[1], backend)
    top.layout = layouts[1]
    form = backend.reorder(node, served=consumer)
    assert form.variant == f"reorder {layouts[0]} to {layouts[1]}"
    x, dy = drawn(*shape), drawn(*shape, seed=1)
    b = Buffers(
        bottoms=[filled(checked, bottom, x, backend)],
        tops=[filled(checked, top, None, backend)],
        bottom_grads=[filled(checked, bottom, None, backend)],
        top_grads=[filled(checked, top, dy, backend)],
    )
    for run in (form.forward(b), form.backward(b)):
        assert run is not None
        run()
    np.testing.assert_array_equal(backend.read(b.tops[0]), x)
    np.testing.assert_array_equal(backend.read(b.bottom_grads[0]), dy)


def test_what_users_read_and_write_is_in_the_order_of_the_shape(fast: EmulatedDevice) -> None:
    backend = CudaBackend(fast, "tf32")
    memory, x = backend.allocate(4 * math.prod(SHAPE)), drawn(*SHAPE)
    array = backend.array(memory, 0, (3, 5, 7, 8), np.float32).transpose(0, 3, 1, 2)
    backend.write(array, x)
    np.testing.assert_array_equal(backend.read(array), x)
    as_it_lies = backend.read(backend.array(memory, 0, (3, 5, 7, 8), np.float32))
    np.testing.assert_array_equal(as_it_lies, x.transpose(0, 2, 3, 1))
    shown = backend.view(array)
    np.testing.assert_array_equal(shown, x)
    shown[...] = 2 * x
    backend.push()
    np.testing.assert_array_equal(backend.read(array), 2 * x)
    assert empty_like(array).strides == array.strides


def test_an_array_with_gaps_or_in_another_order_is_no_memory(fast: EmulatedDevice) -> None:
    array = CudaBackend(fast).allocate(4 * 120).view(np.float32).reshape(2, 3, 4, 5)
    assert fast.memory_of(array).nbytes == 480
    for wrong in (array.transpose(0, 2, 3, 1), array[:, :2], array.transpose(1, 0, 2, 3)):
        with pytest.raises(NetcError, match="not contiguous"):
            fast.memory_of(wrong)


def test_a_value_of_one_cell_or_one_channel_lies_plain_whatever_it_is_called(fast: EmulatedDevice) -> None:
    backend = CudaBackend(fast, "tf32")
    for shape, wanted in (((3, 8, 1, 1), PLAIN), ((3, 1, 4, 4), PLAIN), ((3, 2, 1, 2), NHWC)):
        (node,) = chain_of('type: "ReLU"', shape)
        (value,) = node.outputs
        lay_out(value, NHWC, backend)
        assert value.layout == wanted
