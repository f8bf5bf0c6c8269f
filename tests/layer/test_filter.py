"""Filter, and what it asks of a net: tops whose shapes are known only in the middle of a forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.one_layer import make_layer

RNG = np.random.default_rng(12)
ROWS = (3, 0, 5, 2, 3)
EVERY_MEMORY = pytest.mark.parametrize(
    "memory", [{"keep": "all"}, {"keep": "outputs"}, {"keep": "outputs", "poison": True}], ids=str
)

BRANCHED = """
force_backward: true
layer { name: "inputs" type: "Input" top: "x" top: "first" top: "label" input_param {
  shape { dim: 5 dim: 3 } shape { dim: 5 } shape { dim: 5 } } }
layer { name: "noise" type: "DummyData" top: "second" dummy_data_param { shape { dim: 5 }
  data_filler { type: "gaussian" } } }
layer { name: "bn" type: "BatchNorm" bottom: "x" top: "bn" }
layer { name: "before" type: "InnerProduct" bottom: "bn" top: "before"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "before" top: "before" }
layer { name: "some" type: "Filter" bottom: "before" bottom: "label" bottom: "first"
  top: "some" top: "some_label" }
layer { name: "after" type: "InnerProduct" bottom: "some" top: "after"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "after" bottom: "some_label" top: "loss"
  propagate_down: true propagate_down: false loss_param { normalization: NONE } }
layer { name: "least" type: "Reduction" bottom: "before" top: "least" loss_weight: 0.5
  reduction_param { operation: SUMSQ } }
"""


def net_of(text: str, **options: Any) -> Net:
    return Net(parse_text(text, pb.NetParameter, "net.prototxt").message, pb.TRAIN, seed=7, **options)


def selector(rows: int, items: int = 5) -> Any:
    chosen = np.zeros(items)
    chosen[RNG.permutation(items)[:rows]] = RNG.choice([1, -2, 0.5], rows)
    return chosen


def masked(net: Net, chosen: Any) -> tuple[float, Any]:
    """Loss and parameter gradients of the net, worked out without a Filter from its parameters."""
    x, label = net.blobs["x"].data, net.blobs["label"].data.astype(int)
    (w_1, b_1), (w_2, b_2) = ([blob.data for blob in net.params[name]] for name in ("before", "after"))
    bn = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    h = np.maximum(bn @ w_1.T + b_1, 0)
    some, kept = h[chosen != 0], label[chosen != 0]
    scores = some @ w_2.T + b_2
    p = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-100))
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.log(p[np.arange(len(kept)), kept]).sum() + 0.5 * (h * h).sum()
    d_scores = p.copy()
    d_scores[np.arange(len(kept)), kept] -= 1
    dh = h.copy()
    dh[chosen != 0] += d_scores @ w_2
    dh *= h > 0
    return loss, [dh.T @ bn, dh.sum(axis=0), d_scores.T @ some, d_scores.sum(axis=0)]


@EVERY_MEMORY
def test_every_pass_has_the_rows_of_its_selector(memory: dict[str, Any]) -> None:
    net = net_of(BRANCHED, **memory)
    for rows in ROWS:
        chosen = selector(rows)
        net.blobs["x"].data[...] = RNG.standard_normal((5, 3))
        net.blobs["first"].data[...] = chosen
        net.blobs["label"].data[...] = [0, 1, 1, 0, 1]
        loss = net.forward()
        expected_loss, expected = masked(net, chosen)
        assert net.blobs["some"].shape == (rows, 4)
        assert loss == pytest.approx(expected_loss, rel=1e-4)
        net.clear_param_diffs()
        net.backward()
        found = [blob.diff for name in ("before", "after") for blob in net.params[name]]
        for gradient, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(gradient, wanted, rtol=1e-3, atol=1e-4)
        assert net.blobs["x"].diff.shape == (5, 3)
        assert net.blobs["label"].data.tolist() == [0, 1, 1, 0, 1]


@EVERY_MEMORY
def test_no_layer_runs_twice_in_a_pass(memory: dict[str, Any]) -> None:
    net = net_of(BRANCHED, **memory)
    for passes, rows in enumerate(ROWS, 1):
        net.blobs["first"].data[...] = selector(rows)
        net.forward()
        assert net.states["noise/draws"] == passes
        weight = sum(0.999**k for k in range(passes))
        assert net.params["bn"][2].data[0] == pytest.approx(weight, rel=1e-5)


def test_programs_are_made_once_for_each_number_of_rows() -> None:
    net = net_of(BRANCHED)
    programs = []
    for rows in (2, 3, 2, 3, 3):
        net.blobs["first"].data[...] = selector(rows)
        net.forward()
        programs.append(net.program)
    assert programs[0] is programs[2]
    assert programs[1] is programs[3]
    assert programs[3] is programs[4]


CHAIN = """
layer { name: "inputs" type: "Input" top: "x" top: "a" top: "b" input_param {
  shape { dim: 6 dim: 2 } shape { dim: 6 } shape { dim: 6 dim: 1 } } }
layer { name: "one" type: "Filter" bottom: "x" bottom: "b" bottom: "a" top: "x1" top: "b1" }
layer { name: "two" type: "Filter" bottom: "x1" bottom: "b1" top: "x2" }
layer { name: "sum" type: "Reduction" bottom: "x2" top: "sum" reduction_param { axis: 1 } }
"""


@EVERY_MEMORY
def test_a_filter_behind_a_filter(memory: dict[str, Any]) -> None:
    net = net_of(CHAIN, **memory)
    x = np.arange(12).reshape(6, 2)
    for first, second in ((4, 3), (4, 6), (0, 6), (6, 0), (6, 6), (2, 4)):
        a, b = selector(first, 6), selector(second, 6)
        for name, values in (("x", x), ("a", a), ("b", b[:, None])):
            net.blobs[name].data[...] = values
        net.forward()
        np.testing.assert_array_equal(net.blobs["sum"].data, x[(a != 0) & (b != 0)].sum(axis=1))


def test_the_inputs_batch_may_change_between_filters() -> None:
    net = net_of(CHAIN)
    for items in (6, 4, 6):
        for name, shape in (("x", (items, 2)), ("a", (items,)), ("b", (items, 1))):
            net.blobs[name].reshape(*shape)
            net.blobs[name].data[...] = 1
        net.forward()
        assert net.blobs["x2"].shape == (items, 2)


def test_a_batch_is_pulled_once_from_a_data_source(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["x"] = np.arange(8, dtype=np.float32).reshape(8, 1)
        file["keep"] = np.array([1, 0, 1, 1, 0, 0, 1, 0], np.float32)
    (tmp_path / "list").write_text(f"{tmp_path}/rows.h5\n")
    net = net_of(
        f"""
        layer {{ name: "rows" type: "HDF5Data" top: "x" top: "keep"
          hdf5_data_param {{ source: "{tmp_path}/list" batch_size: 4 }} }}
        layer {{ name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "y" }}
        """,
        keep="outputs",
    )
    found = []
    for _ in range(3):
        net.forward()
        found.append(net.blobs["y"].data.ravel().tolist())
    net.close()
    assert found == [[0, 2, 3], [6], [0, 2, 3]]


def test_filters_need_no_names_of_their_own() -> None:
    net = net_of(CHAIN.replace('name: "one" ', "").replace('name: "two" ', ""))
    a, b = selector(4, 6), selector(3, 6)
    for name, values in (("x", np.arange(12).reshape(6, 2)), ("a", a), ("b", b[:, None])):
        net.blobs[name].data[...] = values
    net.forward()
    chosen = (a != 0) & (b != 0)
    np.testing.assert_array_equal(net.blobs["x2"].data, np.arange(12).reshape(6, 2)[chosen])


def test_a_later_batch_of_another_size_leaves_what_has_run(tmp_path: Path) -> None:
    sizes = (3, 5)
    for k, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{k}.png"), np.full((size, size, 3), 10 * k + 10, np.uint8))
    (tmp_path / "list").write_text("".join(f"{tmp_path}/{k}.png {k}\n" for k in range(2)))
    net = net_of(
        CHAIN
        + f"""layer {{ name: "image" type: "ImageData" top: "image" top: "label"
          image_data_param {{ source: "{tmp_path}/list" batch_size: 1 }} }}"""
    )
    net.callbacks.after_forward.append(lambda layer: None)  # the net runs layer by layer
    for k, size in enumerate(sizes):
        net.blobs["x"].data[...], net.blobs["b"].data[...] = k, 1
        net.blobs["a"].data[...] = [1, 1, 0, 0, 0, 0]
        net.forward()
        assert net.blobs["x2"].data.tolist() == [[k, k]] * 2
        assert net.blobs["image"].data.tolist() == np.full((1, 3, size, size), 10 * k + 10).tolist()
    net.close()


def test_layers_run_in_parts_around_a_filter() -> None:
    net = net_of(CHAIN)
    for name in ("x", "a", "b"):
        net.blobs[name].data[...] = 1
    net.blobs["a"].data[2:] = 0
    net.forward(end="one")
    net.blobs["b1"].data[1] = 0
    net.forward(start="two")
    assert net.blobs["sum"].data.tolist() == [2]


BEHIND = {
    "convolution": 'type: "Convolution" convolution_param { num_output: 2 kernel_size: 2 }',
    "grouped": 'type: "Convolution" convolution_param { num_output: 2 kernel_size: 2 group: 2 }',
    "deconvolution": 'type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 2 }',
    "maximum": 'type: "Pooling" pooling_param { kernel_size: 2 }',
    "average": 'type: "Pooling" pooling_param { pool: AVE kernel_size: 2 stride: 2 }',
    "lrn": 'type: "LRN"',
    "lrn_within": 'type: "LRN" lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }',
    "batch_norm": 'type: "BatchNorm"',
    "arg_max": 'type: "ArgMax"',
    "scale": 'type: "Scale" scale_param { bias_term: true }',
    "prelu": 'type: "PReLU"',
    "softmax": 'type: "Softmax"',
    "dropout": 'type: "Dropout"',
    "flatten": 'type: "Flatten"',
    "mvn": 'type: "MVN"',
    "inner_product": 'type: "InnerProduct" inner_product_param { num_output: 3 }',
    "tile": 'type: "Tile" tile_param { tiles: 2 }',
    "reduction": 'type: "Reduction" reduction_param { axis: 1 }',
}


@pytest.mark.parametrize("layer", BEHIND.values(), ids=BEHIND)
def test_layers_take_no_rows(layer: str) -> None:
    net = net_of(
        f"""
        force_backward: true
        layer {{ name: "inputs" type: "Input" top: "x" top: "keep"
          input_param {{ shape {{ dim: 3 dim: 2 dim: 5 dim: 4 }} shape {{ dim: 3 }} }} }}
        layer {{ name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "y" }}
        layer {{ name: "layer" bottom: "y" top: "z" {layer} }}
        """
    )
    net.forward()
    net.backward()
    assert net.blobs["z"].shape[0] == 0
    assert not net.blobs["x"].diff.any()
    assert not net.parameters.grad.any()


@pytest.mark.parametrize(
    ("shapes", "tops", "message"),
    [
        ([(3, 2), (4, 1), (3,)], 2, "differ in the number of items"),
        ([(3, 2), (3, 2)], 1, "one value for each item"),
        ([(3, 2), ()], 1, "one value for each item"),
        ([(3, 2), (3,)], 2, "a top is needed for every bottom but the last"),
    ],
)
def test_what_does_not_fit_is_refused(shapes: list[Any], tops: int, message: str) -> None:
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    with pytest.raises(NetcError, match=message):
        make_layer(f'type: "Filter" {names}', len(shapes)).infer(shapes)


def test_shapes_that_a_later_layer_cannot_take_leave_the_net_as_it_was() -> None:
    net = net_of(
        """
        layer { name: "inputs" type: "Input" top: "x" top: "keep"
          input_param { shape { dim: 4 dim: 2 } shape { dim: 4 } } }
        layer { name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "y" }
        layer { name: "pairs" type: "Reshape" bottom: "y" top: "pairs"
          reshape_param { shape { dim: -1 dim: 4 } } }
        """
    )
    net.blobs["keep"].data[...] = [1, 0, 1, 1]
    with pytest.raises(NetcError, match="pairs"):
        net.forward()
    net.blobs["keep"].data[...] = [1, 0, 0, 1]
    net.forward()
    assert net.blobs["pairs"].shape == (1, 4)
