"""`netc extract_features`: the records that Caffe writes, key by key."""

import shutil
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

from netc.cli.main import main
from netc.proto import netc_pb2 as pb

GOLDEN = Path(__file__).parent.parent / "golden" / "imageset"
NET = ["extract.caffemodel", "extract.prototxt"]


@pytest.fixture(autouse=True)
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The net, its weights, and its database under the name that the net gives it."""
    for name in NET:
        shutil.copy(GOLDEN / name, tmp_path / name)
    shutil.copytree(GOLDEN / "resize_color_lmdb", tmp_path / "resize_color")
    monkeypatch.chdir(tmp_path)


def records(folder: str) -> dict[str, pb.Datum]:
    with lmdb.open(folder, readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {key.decode(): pb.Datum.FromString(value) for key, value in transaction.cursor()}


def test_databases_hold_caffes_records() -> None:
    golden = {name: np.load(GOLDEN / f"extract_{name}.datums.npz") for name in ("conv", "ip")}
    batches = str(len(golden["conv"]["keys"]) // 8)
    assert main(["extract_features", *NET, "conv,ip", "conv_db,ip_db", batches, "lmdb"]) == 0
    for name, expected in golden.items():
        found = records(f"{name}_db")
        assert list(found) == expected["keys"].tolist()
        for i, datum in enumerate(found.values()):
            values = expected[f"float/{i}"]
            assert (datum.channels, datum.height, datum.width) == tuple(expected["shape"][i])
            assert datum.label == expected["labels"][i]
            assert datum.ByteSize() == expected["datum_len"][i]
            assert np.abs(np.array(datum.float_data) - values).max() <= 1e-5 * np.abs(values).max() + 1e-7


def test_hdf5_holds_the_same_as_one_data_set() -> None:
    assert main(["extract_features", *NET, "conv,ip", "conv.h5,ip.h5", "2", "hdf5", "CPU"]) == 0
    assert main(["extract_features", *NET, "ip", "ip_db", "2", "lmdb"]) == 0
    with h5py.File("conv.h5") as conv, h5py.File("ip.h5") as ip:
        assert conv["conv"].shape == (16, 3, 5, 7)
        rows = [list(datum.float_data) for datum in records("ip_db").values()]
        assert np.array_equal(ip["ip"][:], np.array(rows, np.float32))


def test_the_log_is_caffes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract_features", *NET, "ip", "ip_db", "2", "lmdb"]) == 0
    err = capsys.readouterr().err
    assert "] Extracting Features\n" in err
    assert "] Extracted features of 16 query images for feature blob ip\n" in err
    assert "] Successfully extracted the features!\n" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["conv,ip", "one_db", "2", "lmdb"], 2, "as many BLOBS as TARGETS"),
        (["ip", "db", "two", "lmdb"], 2, "BATCHES must be a positive number"),
        (["ip", "db", "2", "lmbd"], 2, "did you mean lmdb?"),
        (["ip", "db", "2", "lmdb", "GPU", "DEVICE_ID=x"], 1, "names no device"),
        (["pool9", "db", "2", "lmdb"], 1, "the net has no blob 'pool9'"),
        (["ip", "resize_color", "2", "lmdb"], 1, "already exists"),
        (["ip"], 2, "WEIGHTS NET BLOBS TARGETS BATCHES KIND"),
    ],
)
def test_errors_leave_nothing_behind(
    arguments: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["extract_features", *NET, *arguments]) == code
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
