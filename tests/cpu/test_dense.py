"""InnerProduct on oneDNN's matrix product against the layer's own meaning."""

from __future__ import annotations

import pytest

from netc.backends.cpu import dense as dense_forms
from netc.backends.cpu.dense import DenseForm, is_turned, make_inner_product
from tests.cpu.form_case import LAYOUTS, FormCase, build

SHAPES = {
    "matrix": ((5, 7), "num_output: 3"),
    "image": ((4, 3, 5, 6), "num_output: 10"),
    "one row": ((1, 33), "num_output: 17"),
    "one output": ((6, 4), "num_output: 1"),
    "transposed": ((4, 3, 2, 2), "num_output: 5 transpose: true"),
    "no bias": ((4, 9), "num_output: 5 bias_term: false"),
    "axis 2": ((2, 3, 4, 5), "num_output: 6 axis: 2"),
    "axis 0": ((3, 4), "num_output: 6 axis: 0"),
    "more rows than outputs": ((200, 16), "num_output: 4"),
}


def dense(options: str, more: str = "") -> str:
    layer = f'name: "d" type: "InnerProduct" bottom: "x0" top: "y" inner_product_param {{ {options} }}'
    return f"layer {{ {layer} }}\n{more}"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SHAPES)
def test_inner_product(case: str, layout: str) -> None:
    shape, options = SHAPES[case]
    FormCase(make_inner_product, build(dense(options), shape), layout).check()


@pytest.mark.parametrize("top", ["y", "z"])
@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("options", ["num_output: 9", "num_output: 9 transpose: true bias_term: false"])
def test_relu_rides_along(top: str, slope: float, options: str) -> None:
    relu = f'name: "r" type: "ReLU" bottom: "y" top: "{top}" relu_param {{ negative_slope: {slope} }}'
    layers = dense(options, f"layer {{ {relu} }}")
    FormCase(make_inner_product, build(layers, (6, 8)), "plain").check()


@pytest.mark.parametrize("rows", [2, 5, 33])
@pytest.mark.parametrize("options", ["num_output: 1030", "num_output: 1031 bias_term: false"])
def test_few_rows_are_multiplied_in_panels(rows: int, options: str) -> None:
    relu = 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    form = FormCase(make_inner_product, build(dense(options, relu), (rows, 259)), "plain").check()
    assert form.variant.startswith("onednn sgemm in panels")


@pytest.mark.parametrize(
    ("rows", "columns", "outputs"), [(1, 4096, 4096), (64, 4096, 10), (200, 4096, 4096), (16, 64, 512)]
)
def test_other_shapes_are_multiplied_at_once(rows: int, columns: int, outputs: int) -> None:
    assert not is_turned(rows, columns, outputs)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 16, 25])
@pytest.mark.parametrize(("columns", "outputs"), [(1033, 257), (2050, 300), (9, 30_001)])
def test_gradients_of_few_rows_are_computed_in_loops(
    columns: int, outputs: int, rows: int, fresh: bool
) -> None:
    pytest.importorskip("numba")
    relu = 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }'
    graph = build(dense(f"num_output: {outputs}", relu), (rows, columns))
    form = FormCase(make_inner_product, graph, "plain", fresh=fresh).check()
    assert isinstance(form, DenseForm)
    assert ("bottom" in form.loops, "weights" in form.loops) == (rows > 1, rows <= 16)


@pytest.mark.parametrize("threads", [2, 3])
def test_loops_share_their_columns_among_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(dense_forms, "threads_for", lambda shares: min(threads, shares))
    form = FormCase(make_inner_product, build(dense("num_output: 700"), (6, 421)), "plain").check()
    assert isinstance(form, DenseForm)
    assert (form.threads, form.panel) == (threads, -(-421 // (threads * 16)) * 16)


def test_loops_leave_out_gradients_that_nobody_wants() -> None:
    pytest.importorskip("numba")
    graph = build(dense("num_output: 700"), (6, 421))
    FormCase(make_inner_product, graph, "plain", wanted=[False]).check()


def test_inference() -> None:
    FormCase(make_inner_product, build(dense("num_output: 9"), (1, 8)), "plain", backward=False).check()


@pytest.mark.parametrize("options", ["num_output: 9", "num_output: 9 bias_term: false transpose: true"])
def test_fresh_gradients_are_written(options: str) -> None:
    graph = build(dense(options), (6, 8))
    assert FormCase(make_inner_product, graph, "plain", fresh=True).check().writes_fresh


def test_without_numba_all_products_are_onednns(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, name: str) -> None:
        raise ImportError("No module named 'numba'")

    monkeypatch.setattr(dense_forms, "compiled", missing)
    form = FormCase(make_inner_product, build(dense("num_output: 700"), (6, 421)), "plain").check()
    assert form.variant == "onednn sgemm in panels"
