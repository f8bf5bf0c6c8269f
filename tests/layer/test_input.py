"""Input and DummyData: shapes stated once or for each top, random fillers drawn anew in each pass."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer import Shape
from tests.layer.one_layer import OneLayer, make_layer

GAUSSIAN = 'type: "DummyData" dummy_data_param { shape { dim: 50 dim: 4 } data_filler { type: "gaussian" } }'


@pytest.mark.parametrize("kind", ["Input", "DummyData"])
@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ("shape { dim: 2 dim: 3 }", [(2, 3), (2, 3)]),
        ("shape { dim: 2 dim: 3 } shape { dim: 2 }", [(2, 3), (2,)]),
    ],
)
def test_shapes_are_stated_once_or_for_each_top(kind: str, shapes: str, expected: list[Shape]) -> None:
    field = {"Input": "input_param", "DummyData": "dummy_data_param"}[kind]
    assert make_layer(f'type: "{kind}" top: "a" top: "b" {field} {{ {shapes} }}', 0).infer([]) == expected


@pytest.mark.parametrize("kind", ["Input", "DummyData"])
@pytest.mark.parametrize("count", [0, 3])
def test_another_number_of_shapes_is_refused(kind: str, count: int) -> None:
    field = {"Input": "input_param", "DummyData": "dummy_data_param"}[kind]
    shapes = "shape { dim: 1 } " * count
    text = f'type: "{kind}" top: "a" top: "b" {field} {{ {shapes} }}'
    with pytest.raises(NetcError, match="once, or once for each top") as error:
        make_layer(text, 0).infer([])
    assert error.value.found == count


def test_older_dims_make_four_axes() -> None:
    dims = "num: 2 num: 5 channels: 3 height: 4 width: 1"
    text = f'type: "DummyData" top: "a" top: "b" dummy_data_param {{ {dims} }}'
    assert make_layer(text, 0).infer([]) == [(2, 3, 4, 1), (5, 3, 4, 1)]


@pytest.mark.parametrize(
    "options",
    [
        "num: 2 channels: 3 height: 4",
        "num: 2 num: 2 num: 2 channels: 3 height: 4 width: 5",
        "shape { dim: 2 } num: 2 channels: 3 height: 4 width: 5",
        "shape { dim: 2 } data_filler { } data_filler { } data_filler { }",
    ],
)
def test_dummy_data_refuses_options_that_do_not_fit(options: str) -> None:
    with pytest.raises(NetcError, match="stated"):
        make_layer(f'type: "DummyData" top: "a" top: "b" dummy_data_param {{ {options} }}', 0).infer([])


def test_dummy_data_is_zero_without_a_filler() -> None:
    (top,) = OneLayer('type: "DummyData" dummy_data_param { shape { dim: 3 } }').forward()
    np.testing.assert_array_equal(top, [0, 0, 0])


def test_a_random_filler_draws_anew_in_every_pass() -> None:
    layer = OneLayer(GAUSSIAN)
    first = layer.forward()[0].copy()
    second = layer.forward()[0].copy()
    assert not np.array_equal(first, second)
    assert abs(first.mean()) < 0.4
    assert 0.7 < first.std() < 1.3
    again = OneLayer(GAUSSIAN)
    np.testing.assert_array_equal(again.forward()[0], first)
    again.buffers.states["draws"][0] = 0
    np.testing.assert_array_equal(again.forward()[0], first)


def test_tops_of_one_layer_draw_different_numbers() -> None:
    a, b = OneLayer(GAUSSIAN + ' top: "a" top: "b"').forward()
    assert not np.array_equal(a, b)


def test_a_seed_of_its_own_draws_its_own_numbers() -> None:
    layer = OneLayer(GAUSSIAN)
    layer.layer.seed = 5
    assert not np.array_equal(layer.forward()[0], OneLayer(GAUSSIAN).forward()[0])
