"""Concat and Slice: along any axis, by the older options too, gradients nobody gives or wants, errors."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net
from tests.layer.one_layer import OneLayer, check_slopes, make_layer, run

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat_joins_and_slice_takes_apart(axis: int) -> None:
    parts = np.split(X, [1], axis=axis)
    text = f'type: "Concat" concat_param {{ axis: {axis} }}'
    np.testing.assert_array_equal(run(text, *parts)[0], X)
    check_slopes(text, *parts)
    text = f'type: "Slice" top: "a" top: "b" slice_param {{ axis: {axis} slice_point: 1 }}'
    for part, top in zip(parts, run(text, X), strict=True):
        np.testing.assert_array_equal(top, part)
    check_slopes(text, X)


def test_slice_cuts_into_equal_parts() -> None:
    tops = run('type: "Slice" top: "a" top: "b" slice_param { axis: 2 }', X)
    np.testing.assert_array_equal(tops, np.split(X, 2, axis=2))


def test_the_older_options_name_the_axis() -> None:
    np.testing.assert_array_equal(
        run('type: "Concat" concat_param { concat_dim: 0 }', X, X)[0], np.vstack([X, X])
    )
    tops = run('type: "Slice" top: "a" top: "b" slice_param { slice_dim: 0 }', X)
    np.testing.assert_array_equal(tops, [X[:1], X[1:]])


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("kind", ["Concat", "Slice"])
def test_one_bottom_or_one_top_is_the_same_memory(kind: str, fast: bool) -> None:
    text = f"""
        force_backward: true
        layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 }} }} }}
        layer {{ name: "y" type: "{kind}" bottom: "x" top: "y" }}
        layer {{ name: "relu" type: "ReLU" bottom: "y" top: "y" }}
    """
    with closing(Net(parse_net(text).message, pb.TRAIN, backend=CpuBackend(fast=fast))) as net:
        net.blobs["x"].data[...] = X - 10
        net.forward()
        for blob in ("x", "y"):  # the ReLU has written into both
            np.testing.assert_array_equal(net.blobs[blob].data, np.maximum(X - 10, 0))
        net.blobs["y"].diff[...] = X
        net.backward()
        np.testing.assert_array_equal(net.blobs["x"].diff, X * (X > 10))


def test_a_gradient_nobody_gives_to_a_slice_is_zero() -> None:
    layer = OneLayer('type: "Slice" top: "a" top: "b" slice_param { axis: 0 }', X)
    layer.forward()
    (dx,) = layer.backward(np.ones((1, 3, 4)), None)
    np.testing.assert_array_equal(dx, np.stack([np.ones((3, 4)), np.zeros((3, 4))]))


def test_a_gradient_nobody_wants_from_a_concat_is_skipped() -> None:
    layer = OneLayer('type: "Concat"', X, X[:, :1])
    layer.forward()
    dy = np.random.default_rng(0).standard_normal((2, 4, 4))
    first, second = layer.backward(dy, wanted=[False, True])
    assert first is None
    np.testing.assert_array_equal(second, np.float32(dy[:, 3:]))


@pytest.mark.parametrize("shapes", [[(2, 3), (3, 3)], [(2, 3), (2, 3, 1)]])
def test_concat_refuses_bottoms_that_differ_elsewhere(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(NetcError, match="may differ along axis 1 only") as error:
        make_layer('type: "Concat" bottom: "a" bottom: "b"').infer(shapes)
    assert error.value.blob == "b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("slice_point: 1 slice_point: 2", "one slice_point less than tops"),
        ("slice_point: 0", "must rise"),
        ("slice_point: 5", "must rise"),
        ("slice_point: 9", "must rise"),
        ("", "cannot be cut into 2 equal parts"),
        ("axis: 4", "axis 4 does not exist"),
        ("slice_dim: 4", "axis 4 does not exist"),
        ("axis: 1 slice_dim: 1", "both axis and slice_dim"),
    ],
)
def test_slice_refuses_cuts_that_do_not_fit(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(f'type: "Slice" top: "a" top: "b" slice_param {{ {options} }}').infer([(2, 5)])
