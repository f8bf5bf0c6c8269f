"""Permute and ShuffleChannel: where values go, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.one_layer import gradients, make_layer, run

X = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)


def permute(*order: int) -> str:
    return f'type: "Permute" permute_param {{ {" ".join(f"order: {axis}" for axis in order)} }}'


@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3), (2, 0, 3, 1)])
def test_permute_is_a_transposition_and_back(order: tuple[int, ...]) -> None:
    (y,) = run(permute(*order), X, dtype=np.float64)
    np.testing.assert_array_equal(y, X.transpose(order))
    (dx,) = gradients(permute(*order), X, top_grads=[y], dtype=np.float64)
    np.testing.assert_array_equal(dx, X)


def test_axes_that_are_not_listed_follow_in_order() -> None:
    assert make_layer(permute(2)).infer([(2, 3, 4, 5)]) == [(4, 2, 3, 5)]
    assert make_layer(permute(3, 1)).infer([(2, 3, 4, 5)]) == [(5, 3, 2, 4)]


def test_where_nothing_moves_the_top_is_the_bottoms_memory() -> None:
    net = Net(
        parse_text(
            'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } } '
            'layer { name: "p" type: "Permute" bottom: "x" top: "y" permute_param { order: 0 } }',
            pb.NetParameter,
            "net.prototxt",
        ).message
    )
    net.blobs["x"].data[...] = 5
    assert np.shares_memory(net.blobs["x"].data, net.blobs["y"].data)
    assert net.blobs["y"].data[1, 2] == 5


@pytest.mark.parametrize(("order", "message"), [((4,), "does not exist"), ((1, 1), "listed twice")])
def test_permute_refuses(order: tuple[int, ...], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(permute(*order)).infer([(2, 3, 4, 5)])


def test_channels_of_the_groups_are_interleaved() -> None:
    text = 'type: "ShuffleChannel" shuffle_channel_param { group: 2 }'
    x = np.arange(6, dtype=float).reshape(1, 6)
    (y,) = run(text, x)
    assert y.tolist() == [[0, 3, 1, 4, 2, 5]]
    (dx,) = gradients(text, x, top_grads=[y])
    assert dx.tolist() == x.tolist()


@pytest.mark.parametrize(("group", "shape"), [(0, (1, 6)), (4, (1, 6, 2, 2)), (1, (6,))])
def test_shuffle_refuses(group: int, shape: tuple[int, ...]) -> None:
    layer = make_layer(f'type: "ShuffleChannel" shuffle_channel_param {{ group: {group} }}')
    with pytest.raises(NetcError, match=r"equal groups|channel axis"):
        layer.infer([shape])
