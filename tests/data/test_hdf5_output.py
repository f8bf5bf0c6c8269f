"""HDF5Output: the file that Caffe writes, rows of later passes, and that it is whole whenever it is there."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from netc.data import hdf5_output
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text


def writing(path: Path, data: str = "dim: 2 dim: 3", label: str = "dim: 2") -> Net:
    text = f"""
    layer {{ name: "inputs" type: "Input" top: "x" top: "t"
      input_param {{ shape {{ {data} }} shape {{ {label} }} }} }}
    layer {{ name: "out" type: "HDF5Output" bottom: "x" bottom: "t"
      hdf5_output_param {{ file_name: "{path}" }} }}
    """
    return Net(parse_text(text, pb.NetParameter, "net.prototxt").message)


def passes(net: Net, count: int, first: int = 0) -> None:
    for k in range(first, first + count):
        net.blobs["x"].data[...] = k
        net.blobs["t"].data[...] = -k
        net.forward()


def rows(path: Path) -> tuple[Any, Any]:
    with h5py.File(path) as file:
        return file["data"][()], file["label"][()]


def test_the_file_is_caffes(imageset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(imageset)
    with np.load(imageset / "hdf5_output.npz") as golden, h5py.File(imageset / "hdf5_output.h5") as expected:
        text = str(golden["prototxt"]).replace("hdf5_output.h5", str(tmp_path / "out.h5"))
        net = Net(parse_text(text, pb.NetParameter, "net.prototxt").message)
        net.forward()
        net.close()
        np.testing.assert_array_equal(net.blobs["data"].data, golden["data"])
        with h5py.File(tmp_path / "out.h5") as found:
            assert sorted(found) == sorted(expected)
            for name in expected:
                assert found[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(found[name][()], expected[name][()])


def test_the_first_pass_is_there_at_once(tmp_path: Path) -> None:
    net = writing(tmp_path / "out.h5")
    passes(net, 1)
    data, label = rows(tmp_path / "out.h5")
    assert (data.shape, label.shape) == ((2, 3, 1, 1), (2, 1, 1, 1))


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_later_passes_add_their_rows(tmp_path: Path, closed: bool) -> None:
    net = writing(tmp_path / "out.h5")
    passes(net, 7)
    assert len(rows(tmp_path / "out.h5")[0]) == 2 * 4  # as of the fourth pass
    if closed:
        net.close()
    del net
    gc.collect()
    data, label = rows(tmp_path / "out.h5")
    assert data[:, 0, 0, 0].tolist() == np.repeat(np.arange(7), 2).tolist()
    assert label[:, 0, 0, 0].tolist() == np.repeat(-np.arange(7), 2).tolist()
    assert os.listdir(tmp_path) == ["out.h5"]


def test_the_number_of_items_may_change_but_not_their_shape(tmp_path: Path) -> None:
    net = writing(tmp_path / "out.h5")
    passes(net, 1)
    net.blobs["x"].reshape(5, 3)
    net.blobs["t"].reshape(5)
    passes(net, 1, first=1)
    net.blobs["x"].reshape(5, 4)
    with pytest.raises(NetcError, match="changed their shape"):
        passes(net, 1)
    net.close()
    assert len(rows(tmp_path / "out.h5")[0]) == 7


def test_a_failed_write_leaves_the_last_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = writing(tmp_path / "out.h5")
    passes(net, 2)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5_output, "_extend", full)
    with pytest.raises(NetcError, match="disk space"):
        passes(net, 1)
    net.close()
    assert len(rows(tmp_path / "out.h5")[0]) == 4
    assert os.listdir(tmp_path) == ["out.h5"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="there is no folder"):
        passes(writing(tmp_path / "nowhere" / "out.h5"), 1)


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        ("dim: 2 dim: 1 dim: 1 dim: 1 dim: 1", "dim: 2", "at most 4 axes"),
        ("dim: 2", "dim: 3", "differ in the number of items"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, data: str, label: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        writing(tmp_path / "out.h5", data, label)


def test_a_layer_without_a_file_is_refused() -> None:
    text = """layer { name: "x" type: "Input" top: "x" top: "t" input_param { shape { dim: 1 } } }
    layer { name: "out" type: "HDF5Output" bottom: "x" bottom: "t" }"""
    with pytest.raises(NetcError, match="no file_name"):
        Net(parse_text(text, pb.NetParameter, "net.prototxt").message)
