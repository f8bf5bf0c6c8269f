"""Reshape and Flatten: the shapes they make, the shapes they refuse, and that they copy nothing."""

from __future__ import annotations

import pytest

from netc.errors import NetcError
from netc.layer import Shape
from tests.layer.one_layer import make_layer

BOTTOM = (2, 3, 4, 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 2", (2, 3, 20)),
        ("axis: -2", (2, 3, 20)),
        ("axis: 1 end_axis: 2", (2, 12, 5)),
        ("axis: 3", (2, 3, 4, 5)),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),
    ],
)
def test_flatten_joins_axes(options: str, expected: Shape) -> None:
    assert make_layer(f'type: "Flatten" flatten_param {{ {options} }}').infer([BOTTOM]) == [expected]


@pytest.mark.parametrize("options", ["axis: 4", "end_axis: 4", "axis: 3 end_axis: 1"])
def test_flatten_refuses_axes_that_do_not_fit(options: str) -> None:
    with pytest.raises(NetcError, match="axis"):
        make_layer(f'type: "Flatten" flatten_param {{ {options} }}').infer([BOTTOM])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("shape { dim: 0 dim: -1 }", (2, 60)),
        ("shape { dim: 6 dim: 20 }", (6, 20)),
        ("shape { dim: -1 dim: 1 dim: 5 }", (24, 1, 5)),
        ("shape { dim: 0 dim: 0 dim: 0 dim: 0 dim: 1 }", (2, 3, 4, 5, 1)),
        ("shape { dim: 12 } axis: 1 num_axes: 2", (2, 12, 5)),
        ("shape { dim: -1 } axis: 1", (2, 60)),
        ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 1, 3, 4, 5)),
        ("shape { dim: 1 } axis: -1 num_axes: 0", (2, 3, 4, 5, 1)),
        ("shape { } axis: 4", (2, 3, 4, 5)),
        ("shape { dim: 10 dim: 2 } axis: -3 num_axes: -1", (2, 3, 10, 2)),
    ],
)
def test_reshape_follows_caffe(options: str, expected: Shape) -> None:
    assert make_layer(f'type: "Reshape" reshape_param {{ {options} }}').infer([BOTTOM]) == [expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("shape { dim: 7 dim: -1 }", "counts do not agree"),
        ("shape { dim: 2 dim: 3 }", "counts do not agree"),
        ("shape { dim: -1 dim: -1 }", "one -1"),
        ("shape { dim: -2 }", "one -1"),
        ("shape { dim: 0 dim: 0 } axis: 3", "does not exist"),
        ("shape { dim: -1 } axis: 5", "axis 5 does not exist"),
        ("shape { dim: -1 } axis: -6", "axis -6 does not exist"),
        ("shape { dim: -1 } axis: 2 num_axes: 3", "num_axes reaches beyond"),
        ("shape { dim: -1 } num_axes: -2", "num_axes reaches beyond"),
    ],
)
def test_reshape_refuses_what_does_not_fit(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(f'type: "Reshape" reshape_param {{ {options} }}').infer([BOTTOM])


@pytest.mark.parametrize("kind", ["Reshape", "Flatten"])
def test_views_share_data_and_gradients_and_read_nothing(kind: str) -> None:
    layer = make_layer(f'type: "{kind}"')
    assert layer.shares_data
    assert layer.shares_diff
    assert (layer.backward_bottoms, layer.backward_tops) == ((), ())
