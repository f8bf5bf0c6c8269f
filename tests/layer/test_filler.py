"""Fillers: the distributions that Caffe draws from, by type, shape and options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.errors import NetcError
from netc.layer import filler as filler_module
from netc.layer.filler import fill
from netc.proto import netc_pb2 as pb

STATISTICS = json.loads((Path(__file__).parent.parent / "golden" / "misc" / "filler_stats.json").read_text())


def filled(text: str, shape: tuple[int, ...], seed: int = 1, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    filler = text_format.Parse(text, pb.FillerParameter())
    return fill(filler, shape, np.random.default_rng(seed), dtype)


@pytest.mark.parametrize("caffe", STATISTICS, ids=lambda s: f"{s['filler']} {s['shape']}".replace('"', ""))
def test_fillers_are_distributed_as_caffes(caffe: dict[str, Any]) -> None:
    values = filled(caffe["filler"], tuple(caffe["shape"]))
    rows = values.reshape(len(values), -1)
    spread = 5 * np.sqrt(2)  # two samples apart by five standard errors: not in a test's lifetime
    error = spread * caffe["std"] / np.sqrt(values.size)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(caffe["mean"], abs=error + 1e-5)
    assert values.std() == pytest.approx(caffe["std"], rel=spread / np.sqrt(values.size) * 2, abs=1e-6)
    assert (values == 0).mean() == pytest.approx(caffe["frac_zero"], abs=0.01)
    of_rows = spread * caffe["row_sum_std"] / np.sqrt(len(rows))
    assert rows.sum(axis=1).mean() == pytest.approx(caffe["row_sum_mean"], abs=of_rows + 1e-3)
    assert rows.sum(axis=1).std() == pytest.approx(caffe["row_sum_std"], rel=0.6, abs=1e-4)
    nonzero = rows != 0
    assert nonzero.sum(axis=1).mean() == pytest.approx(caffe["row_nonzero_mean"], rel=0.06)
    assert nonzero.sum(axis=0).mean() == pytest.approx(caffe["col_nonzero_mean"], rel=0.06)
    if "gaussian" not in caffe["filler"] and "msra" not in caffe["filler"]:
        width = caffe["max"] - caffe["min"]
        assert values.min() == pytest.approx(caffe["min"], abs=0.01 * width + 1e-6)
        assert values.max() == pytest.approx(caffe["max"], abs=0.05 * width + 1e-6)
    if first := caffe.get("first_rows"):
        np.testing.assert_allclose(values.ravel()[: len(first)], first[: values.size], rtol=1e-5)


def test_without_a_filler_values_are_zero() -> None:
    np.testing.assert_array_equal(fill(None, (2, 3), np.random.default_rng(1), np.float32), np.zeros((2, 3)))


@pytest.mark.parametrize("kind", ["constant", "uniform", "gaussian", "xavier", "msra", "positive_unitball"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_values_come_in_the_type_asked_for(kind: str, dtype: Any) -> None:
    values = filled(f'type: "{kind}" value: 1', (3, 4), dtype=dtype)
    assert values.dtype == dtype
    assert values.shape == (3, 4)
    assert values.flags.writeable
    assert values.any()


@pytest.mark.parametrize("kind", ["constant", "uniform", "gaussian"])
def test_a_single_number_can_be_filled(kind: str) -> None:
    values = filled(f'type: "{kind}" value: 2 min: 1 max: 2 mean: 5', ())
    assert isinstance(values, np.ndarray)
    assert (values.shape, values.dtype) == ((), np.float32)
    assert values >= 1


def test_the_same_generator_gives_the_same_values() -> None:
    text = 'type: "gaussian" sparse: 2'
    np.testing.assert_array_equal(filled(text, (5, 6)), filled(text, (5, 6)))
    assert not np.array_equal(filled(text, (5, 6)), filled(text, (5, 6), seed=2))


def test_rows_of_a_unit_ball_are_positive_and_sum_to_1() -> None:
    values = filled('type: "positive_unitball"', (4, 3, 2, 2))
    assert values.min() >= 0
    np.testing.assert_allclose(values.reshape(4, -1).sum(axis=1), 1, rtol=1e-5)


def test_bilinear_weights_interpolate() -> None:
    values = filled('type: "bilinear"', (2, 1, 4, 4))
    line = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_allclose(values, np.broadcast_to(np.outer(line, line), (2, 1, 4, 4)))


@pytest.mark.parametrize(
    ("norm", "fan"), [("FAN_IN", 12 * 25), ("FAN_OUT", 20 * 25), ("AVERAGE", (12 * 25 + 20 * 25) / 2)]
)
def test_fans(norm: str, fan: float) -> None:
    """(K, C, R, S) has C R S values in and, as Caffe counts, K R S out."""
    limit = float(np.sqrt(3 / fan))
    values = filled(f'type: "xavier" variance_norm: {norm}', (20, 12, 5, 5))
    assert 0.99 * limit < values.max() <= limit * (1 + 1e-6)
    values = filled(f'type: "msra" variance_norm: {norm}', (20, 12, 5, 5))
    assert values.std() == pytest.approx(np.sqrt(2 / fan), rel=0.05)


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(NetcError, match="unknown filler type 'gausian'") as caught:
        filled('type: "gausian"', (2, 3))
    assert caught.value.remedy == "did you mean gaussian?"
    assert "positive_unitball" in str(caught.value.expected)


@pytest.mark.parametrize(
    ("text", "shape", "said"),
    [
        ('type: "uniform" min: 2 max: 1', (3,), "min <= max"),
        ('type: "gaussian" std: -1', (3,), "cannot be negative"),
        ('type: "gaussian" sparse: -2', (3,), "counts weights"),
        ('type: "xavier" sparse: 3', (3, 3), "cannot be sparse"),
        ('type: "bilinear"', (3, 3), "square 2-D filters"),
        ('type: "bilinear"', (3, 3, 4, 5), "square 2-D filters"),
        ('type: "xavier"', (), "needs a shape with axes"),
        ('type: "gaussian" sparse: 1', (), "needs a shape with axes"),
        ('type: "positive_unitball"', (), "needs a shape with axes"),
    ],
)
def test_refuses(text: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(NetcError, match=said):
        filled(text, shape)


@pytest.mark.parametrize("text", ['type: "gaussian" std: 2', 'type: "uniform" max: 3', 'type: "xavier"'])
def test_a_large_array_is_the_same_whatever_the_number_of_threads(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no part of it repeats another."""
    monkeypatch.setattr(filler_module, "PART", 1000)
    drawn = []
    for threads in (1, 3):
        monkeypatch.setattr(filler_module, "thread_count", lambda count=threads: count)
        drawn.append(filled(text, (123, 45)))
    assert drawn[0].tobytes() == drawn[1].tobytes()
    parts = drawn[0].reshape(-1)[:5000].reshape(5, 1000)
    assert np.abs(np.corrcoef(parts) - np.eye(5)).max() < 0.2
    assert len(np.unique(drawn[0])) > 0.99 * drawn[0].size
