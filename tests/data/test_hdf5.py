"""HDF5Data: chunks, shuffling, and files that do not fit."""

from __future__ import annotations

import random
from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.data import hdf5_source
from netc.errors import NetcError, NetcErrors

TEXT = """layer {{ name: "d" type: "HDF5Data" {tops} {more}
  hdf5_data_param {{ source: "{source}" batch_size: {batch} shuffle: {shuffle} }} }}"""


@pytest.fixture
def write(tmp_path):
    """Writes files, each a dict of datasets, and their list; gives the layer's text."""

    def write_files(*files, batch=4, shuffle=False, tops=("data", "label"), more="") -> str:
        paths = [tmp_path / f"{i}.h5" for i in range(len(files))]
        for path, datasets in zip(paths, files, strict=True):
            with h5py.File(path, "w") as file:
                for name, values in datasets.items():
                    file[name] = values
        (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in paths))
        named = " ".join(f'top: "{top}"' for top in tops)
        return TEXT.format(
            tops=named, source=tmp_path / "list.txt", batch=batch, shuffle=str(shuffle).lower(), more=more
        )

    return write_files


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    label = np.arange(first, first + count)
    return {"data": np.stack([label * 10, label * 10 + 1], axis=1).astype(np.float64), "label": label}


def labels(source, batches: int) -> list[int]:
    found = []
    for _ in range(batches):
        data, label = source.next()
        np.testing.assert_array_equal(data, np.stack([label * 10, label * 10 + 1], axis=1))
        found += label.astype(int).tolist()
    return found


@pytest.mark.parametrize("chunk_bytes", [1, 12 * 3, 1 << 20])
def test_chunks_do_not_show(chunk_bytes, write, opened, monkeypatch):
    monkeypatch.setattr(hdf5_source, "CHUNK_BYTES", chunk_bytes)
    source = opened(write(rows(0, 7), rows(7, 1), rows(8, 5)))
    assert labels(source, 10) == [i % 13 for i in range(40)]


def test_a_small_file_is_shuffled_as_a_whole(write, opened):
    found = labels(opened(write(rows(0, 40), batch=40, shuffle=True), seed=1), 1)
    assert sorted(found) == list(range(40))
    assert max(abs(a - b) for a, b in zip(found, range(40), strict=True)) > 10


def test_a_large_file_is_shuffled_in_windows(write, opened, monkeypatch):
    monkeypatch.setattr(hdf5_source, "SHUFFLED_CHUNK_BYTES", 12 * 8)
    found = labels(opened(write(rows(0, 40), batch=40, shuffle=True), seed=1), 1)
    windows = [sorted(found[i : i + 8]) for i in range(0, 40, 8)]
    assert sorted(windows) == [list(range(i, i + 8)) for i in range(0, 40, 8)]
    assert windows != sorted(windows)
    assert found[:8] != windows[0]


def test_shuffled_files_are_read_one_after_another(write, opened):
    found = labels(opened(write(*(rows(10 * i, 10) for i in range(6)), batch=60, shuffle=True), seed=1), 1)
    order = [found[i] // 10 for i in range(0, 60, 10)]
    assert [label // 10 for label in found] == [file for file in order for _ in range(10)]
    assert sorted(order) == list(range(6))
    assert order != list(range(6))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i4", "i8", "?"])
def test_numbers_of_any_type_become_float32(dtype, write, opened):
    values = np.array([[0, 1], [1, 0], [1, 1]], dtype)
    (data,) = opened(write({"data": values}, batch=3, tops=("data",))).next()
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data, values.astype(np.float32))


def test_blobs_may_have_one_to_five_axes(write, opened):
    shapes = [(5,), (5, 2), (5, 2, 3), (5, 1, 2, 3), (5, 2, 1, 2, 3)]
    datasets = {f"t{i}": np.random.default_rng(i).random(shape, np.float32) for i, shape in enumerate(shapes)}
    source = opened(write(datasets, batch=5, tops=tuple(datasets)))
    assert [top.shape for top in source.tops] == shapes
    for got, expected in zip(source.next(), datasets.values(), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_missing_dataset_is_named_with_its_near_namesake(write, opened):
    with pytest.raises(NetcError, match=r"0.h5 has no dataset data") as error:
        opened(write({"dat": np.zeros((3, 2)), "label": np.zeros(3)}))
    assert "did you mean dat?" in (error.value.remedy or "")


def test_datasets_of_different_length_are_refused(write, opened):
    with pytest.raises(NetcError, match="differ in their number of rows") as error:
        opened(write({"data": np.zeros((3, 2)), "label": np.zeros(4)}))
    assert error.value.found == "data: 3, label: 4"


def test_all_wrong_files_are_reported_at_once(write, opened):
    good, other = rows(0, 3), {"data": np.zeros((3, 5)), "label": np.zeros(3)}
    with pytest.raises(NetcErrors) as error:
        opened(write(good, other, {"label": np.zeros(3)}))
    assert len(error.value.errors) == 2
    assert "1.h5" in str(error.value.errors[0])
    assert "2.h5" in str(error.value.errors[1])


@pytest.mark.parametrize("values", [np.array([b"a", b"b"]), np.float32(3)], ids=["text", "scalar"])
def test_what_is_not_rows_of_numbers_is_refused(values, write, opened):
    with pytest.raises(NetcError, match=r"data in .*0.h5 cannot be a top"):
        opened(write({"data": values}, tops=("data",)))


def test_transform_param_is_refused_as_in_caffe(write, opened):
    with pytest.raises(NetcError, match="does not transform"):
        opened(write(rows(0, 3), more="transform_param { scale: 2 }"))


def test_a_missing_list_is_told_with_its_near_namesakes(tmp_path, opened):
    (tmp_path / "list.txt").write_text("a.h5\n")
    text = TEXT.format(tops='top: "data"', more="", source=tmp_path / "lsit.txt", batch=2, shuffle="false")
    with pytest.raises(NetcError) as error:
        opened(text)
    assert f"did you mean {tmp_path / 'list.txt'}?" in (error.value.remedy or "")


def test_missing_and_empty_lists_are_errors(tmp_path, opened):
    text = TEXT.format(tops='top: "data"', more="", source=tmp_path / "list.txt", batch=2, shuffle="false")
    with pytest.raises(NetcError, match=r"list.txt cannot be read: No such file"):
        opened(text)
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(NetcError, match=r"list.txt is empty"):
        opened(text)
    (tmp_path / "list.txt").write_text("gone.h5\n")
    with pytest.raises(NetcError, match=r"HDF5 file gone.h5 cannot be read"):
        opened(text)


def test_damaged_files_load_or_are_named(write, opened, tmp_path):
    text = write(rows(0, 50))
    path = Path(tmp_path / "0.h5")
    pristine = path.read_bytes()
    rng = random.Random(4)
    named = 0
    for _ in range(60):
        damaged = bytearray(pristine)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(rng.choice([1, 4, 16]) if damaged else 0):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        error = read_an_epoch(opened, text)
        named += error is not None
        assert error is None or "0.h5" in str(error) or "list.txt" in str(error)
    assert 5 < named < 60


def read_an_epoch(opened, text) -> NetcError | None:
    """What is wrong with the files, None where nothing is noticed; any other exception is raised."""
    try:
        with opened(text) as source:
            for _ in range(14):
                source.next()
    except NetcError as error:
        return error
    return None
