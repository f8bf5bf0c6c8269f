"""Weights files larger than memory: loading takes the net, and a piece of one parameter at a time."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.errors import NetcErrors
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema import hdf5
from netc.schema.net import parse_net
from netc.schema.weights import open_weights, read_weights, write_weights

BIG, INPUTS = 16384, 1024
PARAMETER = BIG * INPUTS * 4
STORED = {"native": "<f4", "swapped": ">f4", "double": "<f8"}


def net_text(*names: str, outputs: int = BIG, inputs: int = INPUTS) -> str:
    text = (
        f'layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 1 dim: {inputs} }} }} }}\n'
    )
    for name in names:
        text += (
            f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{name}"'
            f" inner_product_param {{ num_output: {outputs} bias_term: false }} }}\n"
        )
    return text


def make_net(*names: str, outputs: int = BIG, inputs: int = INPUTS) -> Net:
    return Net(parse_net(net_text(*names, outputs=outputs, inputs=inputs)).message, pb.TEST, backward=False)


def write_large(path: Path) -> None:
    """More than 200 MB: a parameter in each of the ways that numbers lie in HDF5 files, row by row."""
    with h5py.File(path, "w") as file:
        for name, dtype in STORED.items():
            dataset = file.create_dataset(f"data/{name}/0", (BIG, INPUTS), dtype)
            for row in range(0, BIG, 1024):
                dataset[row : row + 1024] = np.repeat(np.arange(row, row + 1024), INPUTS).reshape(
                    1024, INPUTS
                )


def test_loading_takes_a_piece_of_one_parameter_beside_the_net(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    write_large(path)
    assert path.stat().st_size > 200e6
    net = make_net(*STORED)
    tracemalloc.start()
    try:
        net.load_weights(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # What is converted lies there twice for a moment, as it came and as float32.
    assert peak < 2.1 * hdf5.PIECE < PARAMETER
    for name in STORED:
        (blob,) = net.params[name]
        for row in (0, 1, BIG // 2, BIG - 1):
            assert (blob.data[row] == row).all()


def test_a_caffemodel_is_read_straight_into_the_net(tmp_path: Path) -> None:
    net = make_net("a")
    net.params["a"][0].data[...] = np.arange(BIG, dtype=np.float32)[:, None]
    net.save(tmp_path / "large.caffemodel")
    other = make_net("a")
    tracemalloc.start()
    try:
        other.load_weights(tmp_path / "large.caffemodel")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < PARAMETER / 64
    assert (other.params["a"][0].data == net.params["a"][0].data).all()


@pytest.mark.parametrize("name", ["w.caffemodel", "w.h5"])
def test_every_shape_is_checked_before_a_value_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    small = make_net("fine", "a", "b", outputs=3, inputs=4)
    small.save(tmp_path / name)
    other = make_net("fine", "a", "b", outputs=5, inputs=4)
    before = other.parameters.data.copy()
    monkeypatch.setattr("netc.schema.weights_hdf5.StoredDataset.read_into", pytest.fail)
    monkeypatch.setattr("netc.schema.weights_binary.StoredBlob.read_into", pytest.fail)
    with pytest.raises(NetcErrors) as caught:
        other.load_weights(tmp_path / name)
    assert [error.layer for error in caught.value.errors] == ["fine", "a", "b"]
    np.testing.assert_array_equal(other.parameters.data, before)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", "|u1"])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7, 5), (1, 1, 1, 40), (3, 2, 2, 5)], ids=str)
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "compressed"])
def test_arrays_are_read_whole_in_whatever_pieces(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    shape: tuple[int, ...],
    options: dict[str, str],
) -> None:
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/a/0", data=values, **(options if values.size and shape else {}))
    for piece in (1, 44, 1 << 20):
        monkeypatch.setattr(hdf5, "PIECE", piece)
        with open_weights(tmp_path / "w.h5") as weights:
            (stored,) = weights["a"]
            assert stored.shape == shape
            for target in (np.full(shape, -1.0, np.float32), np.full((values.size, 1), -1.0)):
                stored.read_into(target)
                np.testing.assert_array_equal(target.ravel(), values.ravel())


def test_a_target_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("data/a/0", data=np.ones((4, 4), np.float32))
    with open_weights(tmp_path / "w.h5") as weights:
        for target in (np.zeros(15, np.float32), np.zeros((4, 8), np.float32)[:, ::2]):
            with pytest.raises(Exception, match="does not fit"):
                weights["a"][0].read_into(target)


def test_both_kinds_of_file_open_as_they_read(tmp_path: Path) -> None:
    definition = parse_net(net_text("a", "b/c")).message
    draw = np.random.default_rng(0)
    weights = {"a": [draw.random((2, 3)), draw.random(2)], "b/c": [draw.random(())]}
    for name in ("w.caffemodel", "w.h5"):
        write_weights(tmp_path / name, definition, weights)
        read = read_weights(tmp_path / name)
        with open_weights(tmp_path / name) as opened:
            assert list(opened) == list(read)
            for layer, arrays in read.items():
                for stored, array in zip(opened[layer], arrays, strict=True):
                    target = np.empty(stored.shape, np.float32)
                    stored.read_into(target)
                    np.testing.assert_array_equal(target, array)
