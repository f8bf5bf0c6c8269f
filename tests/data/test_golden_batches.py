"""Sources give the batches that Caffe's Data, ImageData and HDF5Data layers gave, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from netc.data import Source
from netc.proto import netc_pb2 as pb

from .conftest import parse_layer

GOLDEN = Path(__file__).parent.parent / "golden"
IMAGE_CASES = sorted(path.name for path in (GOLDEN / "imageset").glob("data__*.npz"))
HDF5_CASES = sorted(path.name for path in (GOLDEN / "misc").glob("hdf5data_*.npz"))


def check(case: Path, opened: Callable[..., Source]) -> None:
    stored = np.load(case)
    text = str(stored["prototxt"])
    source = opened(text, pb.TEST)
    for batch in range(int(np.ravel(stored["batches"])[0])):
        expected = [stored[f"batch{batch}/{top}"] for top in parse_layer(text).top]
        assert [top.shape for top in source.tops] == [array.shape for array in expected]
        for got, wanted in zip(source.next(), expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_images_arrive_as_in_caffe(name, imageset, opened, monkeypatch):
    monkeypatch.chdir(imageset)
    check(imageset / name, opened)


@pytest.mark.parametrize("name", HDF5_CASES)
def test_hdf5_rows_arrive_as_in_caffe_across_files_and_epochs(name, golden, opened, monkeypatch):
    monkeypatch.chdir(golden / "misc")
    check(golden / "misc" / name, opened)


def test_all_cases_are_here():
    assert (len(IMAGE_CASES), len(HDF5_CASES)) == (20, 2)
