"""Im2col: columns by hand, a convolution from columns, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from tests.layer.one_layer import check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(2)


def im2col(options: str) -> str:
    return f'type: "Im2col" convolution_param {{ {options} }}'


def test_columns_by_hand() -> None:
    y = run(im2col("kernel_size: 2"), [[[[1, 2, 3], [4, 5, 6]]]])[0]
    np.testing.assert_array_equal(y, [[[[1, 2]], [[2, 3]], [[4, 5]], [[5, 6]]]])


def test_padding_is_zero_and_its_gradient_is_lost() -> None:
    text = im2col("kernel_size: 3 pad: 1")
    assert run(text, np.ones((1, 1, 1, 1)))[0].reshape(-1).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    dy = np.arange(9).reshape(1, 9, 1, 1)
    assert gradients(text, np.ones((1, 1, 1, 1)), top_grads=[dy])[0].item() == 4


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("kernel_size: 3 stride: 2 pad: 1", (2, 3, 7, 6)),
        ("kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 1 pad_w: 0", (1, 2, 5, 4)),
        ("kernel_size: 2 dilation: 3", (2, 2, 5, 7)),
        ("kernel_size: 3 stride: 2", (2, 2, 7)),
        ("kernel_size: 2 stride: 1 stride: 2 stride: 1", (1, 2, 3, 4, 3)),
        ("kernel_size: 2 force_nd_im2col: true", (1, 2, 3, 3)),
        ("kernel_size: 2 axis: 2", (2, 2, 3, 4, 3)),
    ],
)
def test_a_product_with_columns_is_a_convolution(options: str, shape: tuple[int, ...]) -> None:
    layer = make_layer(
        f'type: "Convolution" convolution_param {{ num_output: 3 bias_term: false {options} }}'
    )
    expected = layer.infer([shape])[0]
    weight, x = RNG.standard_normal(layer.params[0].shape), RNG.standard_normal(shape)
    direct = run(
        f'type: "Convolution" convolution_param {{ num_output: 3 bias_term: false {options} }}',
        x,
        params=[weight],
        dtype=np.float64,
    )[0]
    columns = run(im2col(options), x, dtype=np.float64)[0]
    axis = layer.canonical_axis(layer.options.axis, len(shape))
    columns = columns.reshape(-1, weight[0].size, int(np.prod(expected[axis + 1 :])))
    np.testing.assert_allclose((weight.reshape(3, -1) @ columns).reshape(expected), direct, atol=1e-12)
    check_slopes(im2col(options), x)


def test_refuses_a_kernel_that_does_not_fit() -> None:
    with pytest.raises(NetcError, match="larger than its padded input"):
        make_layer(im2col("kernel_size: 5 pad: 1")).infer([(1, 1, 2, 9)])
