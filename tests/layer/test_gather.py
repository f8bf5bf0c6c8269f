"""Embed and BatchReindex: rows by number, gradients of rows named twice, and numbers that name none."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer.gather import add_rows
from tests.layer.one_layer import OneLayer, check_slopes, gradients, make_layer, run

RNG = np.random.default_rng(7)
TABLE = [[1, 2], [3, 4], [5, 6]]


def embed(options: str = "") -> str:
    return f'type: "Embed" embed_param {{ input_dim: 3 num_output: 2 {options} }}'


def test_embed_by_hand() -> None:
    y = run(embed(), [[2, 0], [2, 2]], params=[TABLE, [0.5, -0.5]])[0]
    np.testing.assert_array_equal(y, [[[5.5, 5.5], [1.5, 1.5]], [[5.5, 5.5], [5.5, 5.5]]])


def test_embed_adds_up_the_gradients_of_a_row() -> None:
    layer = OneLayer(embed(), [2, 0, 2, 2], params=[TABLE, [0, 0]])
    layer.forward()
    layer.backward([[1, 10], [2, 20], [3, 30], [4, 40]])
    np.testing.assert_array_equal(layer.param_grads[0], [[2, 20], [0, 0], [8, 80]])
    np.testing.assert_array_equal(layer.param_grads[1], [10, 100])


def test_embed_is_an_inner_product_with_one_hot_rows() -> None:
    numbers, weight = RNG.integers(0, 3, (4, 1, 5)), RNG.standard_normal((3, 2))
    y = run(embed("bias_term: false"), numbers, params=[weight], dtype=np.float64)[0]
    np.testing.assert_allclose(y, np.eye(3)[numbers] @ weight)


def test_embed_has_its_table_by_row() -> None:
    layer = make_layer(embed())
    assert layer.infer([(4, 1, 1, 1)]) == [(4, 1, 1, 1, 2)]
    assert [param.shape for param in layer.params] == [(3, 2), (2,)]
    assert not layer.gives_gradient(0)


def test_batch_reindex_by_hand() -> None:
    text = 'type: "BatchReindex"'
    assert run(text, TABLE, [2, 0, 2])[0].tolist() == [[5, 6], [1, 2], [5, 6]]
    dx = gradients(text, TABLE, [2, 0, 2], top_grads=[[[1, 10], [2, 20], [4, 40]]])[0]
    assert dx.tolist() == [[2, 20], [0, 0], [5, 50]]


def test_batch_reindex_changes_the_batch_only() -> None:
    layer = make_layer('type: "BatchReindex"', bottoms=2)
    assert layer.infer([(5, 2, 3), (7,)]) == [(7, 2, 3)]
    assert layer.infer([(5,), (0,)]) == [(0,)]
    assert (layer.gives_gradient(0), layer.gives_gradient(1)) == (True, False)
    check_slopes('type: "BatchReindex"', RNG.standard_normal((3, 2)), [1, 1, 1, 0, 1])


@pytest.mark.parametrize("number", [-1, 3, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("text", [embed("bias_term: false"), 'type: "BatchReindex"'])
def test_a_number_that_names_no_row_is_an_error(text: str, number: float) -> None:
    table, numbers = np.array(TABLE), [0, number, 1]
    reindexes = "BatchReindex" in text
    with pytest.raises(NetcError, match=r"row .* does not exist") as caught:
        run(text, *([table] if reindexes else []), numbers, params=[] if reindexes else [table])
    assert caught.value.blob == ("x1" if reindexes else "x0")
    assert "0 to 2" in str(caught.value)
    assert "1 of 3" in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 64, 1000])
def test_rows_add_up_however_often_an_index_comes(size: int) -> None:
    for span in (1, 2, 7, 10 * size + 1):
        index, rows = RNG.integers(0, span, size), RNG.standard_normal((size, 3))
        target = RNG.standard_normal((span, 3))
        expected = target.copy()
        np.add.at(expected, index, rows)
        before = rows.copy()
        add_rows(np, target, index, rows)
        np.testing.assert_allclose(target, expected, atol=1e-12)
        np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ('type: "Embed" embed_param { input_dim: 3 }', [(4,)], "num_output must be at least 1"),
        ('type: "Embed" embed_param { num_output: 3 }', [(4,)], "input_dim must be at least 1"),
        ('type: "BatchReindex"', [(4, 2), (3, 1)], "list of row numbers"),
        ('type: "BatchReindex"', [(), (3,)], "no rows to pick"),
    ],
)
def test_refuses(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        make_layer(text, len(shapes)).infer(shapes)
