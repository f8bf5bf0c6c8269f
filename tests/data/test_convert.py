"""convert_imageset writes the records that Caffe's writes, and never half a database."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from netc.data import writer
from netc.data.convert import convert_imageset
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb

from .conftest import parse_flags

VARIANTS = json.loads((Path(__file__).parent.parent / "golden/imageset/manifest.json").read_text())[
    "convert_imageset"
]


def records(folder) -> dict[str, pb.Datum]:
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as transaction:
        return {key.decode(): pb.Datum.FromString(value) for key, value in transaction.cursor()}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes, cat and dog, of three images each, 6 x 5."""
    rng = np.random.default_rng(1)
    for name in ("dog", "cat"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(
                str(tmp_path / "photos" / name / f"{i} a.png"),
                rng.integers(0, 256, (6, 5, 3), dtype=np.uint8),
            )
    return tmp_path / "photos"


@pytest.mark.parametrize("variant", VARIANTS)
def test_records_are_caffes(variant, imageset, tmp_path):
    made = VARIANTS[variant]
    flags = parse_flags(made["flags"])
    report = convert_imageset(
        str(imageset / "images"), str(imageset / made["list"]), str(tmp_path / "db"), **flags
    )
    stored = np.load(imageset / f"{variant}.datums.npz")
    found = records(tmp_path / "db")
    assert report.written == made["n"] == len(found)
    assert list(found) == list(stored["keys"])
    for i, datum in enumerate(found.values()):
        assert datum.label == stored["labels"][i]
        assert (datum.channels, datum.height, datum.width) == tuple(stored["shape"][i])
        assert datum.encoded == stored["encoded"][i]
        assert datum.ByteSize() == stored["datum_len"][i]
        np.testing.assert_array_equal(np.frombuffer(datum.data, np.uint8), stored[f"data/{i}"])


def test_unreadable_files_are_named_and_their_numbers_stay_unused(imageset, tmp_path, caplog):
    report = convert_imageset(
        str(imageset / "images"),
        str(imageset / "list_missing.txt"),
        str(tmp_path / "db"),
        resize_height=4,
        resize_width=4,
    )
    assert [bad.key for bad in report.skipped] == ["not_there.png", "list_not_an_image.png"]
    assert "not_there.png" in caplog.text
    assert "skipped 2 of 12" in caplog.text
    assert not any(key.startswith("00000004_") for key in records(tmp_path / "db"))


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_do_not_change_the_order(workers, imageset, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, count in zip(folders, (1, workers), strict=True):
        convert_imageset(
            str(imageset / "images"),
            str(imageset / "list_all.txt"),
            str(folder),
            shuffle=True,
            seed=3,
            workers=count,
        )
    assert (folders[0] / "data.mdb").read_bytes() == (folders[1] / "data.mdb").read_bytes()


def test_shuffle_numbers_the_new_order_and_keeps_every_image(imageset, tmp_path):
    convert_imageset(
        str(imageset / "images"), str(imageset / "list_png.txt"), str(tmp_path / "db"), shuffle=True, seed=1
    )
    keys = list(records(tmp_path / "db"))
    listed = [line.rsplit(" ", 1)[0] for line in (imageset / "list_png.txt").read_text().splitlines()]
    assert [key[:8] for key in keys] == [f"{i:08d}" for i in range(20)]
    names = [key[9:] for key in keys]
    assert names != listed
    assert sorted(names) == sorted(listed)


def test_class_folders_replace_the_list(photos, tmp_path):
    report = convert_imageset(str(photos), None, str(tmp_path / "db"))
    assert [datum.label for datum in records(tmp_path / "db").values()] == [0, 0, 0, 1, 1, 1]
    assert Path(report.label_names_file or "").read_text() == "cat\ndog\n"
    # The list that was written gives the same database again.
    convert_imageset(str(photos), report.list_file, str(tmp_path / "again"))
    assert records(tmp_path / "again") == records(tmp_path / "db")


def test_several_labels_go_to_a_second_database(photos, tmp_path):
    (tmp_path / "list.txt").write_text("dog/0 a.png 1 0.5 -2\ncat/1 a.png 0 0 7\n")
    report = convert_imageset(str(photos), str(tmp_path / "list.txt"), str(tmp_path / "db"))
    assert report.labels_database == str(tmp_path / "db_labels")
    vectors = records(tmp_path / "db_labels")
    assert list(vectors) == list(records(tmp_path / "db")) == ["00000000_dog/0 a.png", "00000001_cat/1 a.png"]
    assert [list(datum.float_data) for datum in vectors.values()] == [[1, 0.5, -2], [0, 0, 7]]
    assert {(datum.channels, datum.height, datum.width) for datum in vectors.values()} == {(3, 1, 1)}
    assert [datum.label for datum in records(tmp_path / "db").values()] == [1, 0]


def test_a_path_that_ends_in_a_number_keeps_it_where_the_file_exists(photos, tmp_path):
    shutil.copy(photos / "cat" / "0 a.png", photos / "scan 12")
    (tmp_path / "list.txt").write_text("scan 12 4\n")
    convert_imageset(str(photos), str(tmp_path / "list.txt"), str(tmp_path / "db"))
    assert [(key, datum.label) for key, datum in records(tmp_path / "db").items()] == [
        ("00000000_scan 12", 4)
    ]


def test_a_wrong_line_is_reported_with_its_number(photos, tmp_path):
    (tmp_path / "list.txt").write_text("dog/0 a.png 1\n\ncat/1 a.png one\n")
    with pytest.raises(NetcError, match=r"list.txt:3: not a line of an image list"):
        convert_imageset(str(photos), str(tmp_path / "list.txt"), str(tmp_path / "db"))
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("label", ["99999999999", "0.5", "nan", "1_0"])
def test_a_label_that_no_datum_can_hold_is_refused(label, photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"dog/0 a.png {label}\n")
    with pytest.raises(NetcError, match=r"list.txt:1: not a line"):
        convert_imageset(str(photos), str(tmp_path / "list.txt"), str(tmp_path / "db"))


def test_check_size_stops_at_an_image_of_another_size(imageset, tmp_path):
    with pytest.raises(NetcError, match="does not have the size of the first") as error:
        convert_imageset(
            str(imageset / "images"), str(imageset / "list_all.txt"), str(tmp_path / "db"), check_size=True
        )
    assert (error.value.expected, error.value.found) == ("3x20x26", "3x24x40")
    assert os.listdir(tmp_path) == []


def test_an_existing_database_is_kept_unless_overwrite(photos, tmp_path):
    convert_imageset(str(photos), None, str(tmp_path / "db"))
    before = (tmp_path / "db/data.mdb").read_bytes()
    with pytest.raises(NetcError, match="already exists"):
        convert_imageset(str(photos), None, str(tmp_path / "db"), gray=True)
    assert (tmp_path / "db/data.mdb").read_bytes() == before
    convert_imageset(str(photos), None, str(tmp_path / "db"), gray=True, overwrite=True)
    assert {datum.channels for datum in records(tmp_path / "db").values()} == {1}
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_the_map_grows_as_needed(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "LMDB_MAP_BYTES", 1 << 15)
    convert_imageset(str(photos), None, str(tmp_path / "db"), resize_height=128, resize_width=128)
    assert (tmp_path / "db/data.mdb").stat().st_size > 6 * 128 * 128 * 3
    assert len(records(tmp_path / "db")) == 6


def test_no_readable_image_leaves_no_database(tmp_path):
    (tmp_path / "list.txt").write_text("a.png 0\nb.png 1\n")
    with pytest.raises(NetcError, match="none of the 2 images can be read"):
        convert_imageset(str(tmp_path), str(tmp_path / "list.txt"), str(tmp_path / "db"))
    assert os.listdir(tmp_path) == ["list.txt"]


def test_an_interrupt_cleans_up(photos, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_imageset(str(photos), None, str(tmp_path / "db"), progress=stop)
    assert os.listdir(tmp_path) == ["photos"]


SLOW_CONVERSION = """
import sys, time
from netc.data.convert import convert_imageset
def wait(done, total):
    print("under way", flush=True)
    time.sleep(60)
convert_imageset(sys.argv[1], None, sys.argv[2], progress=wait)
"""


def test_a_kill_leaves_no_final_name_and_the_next_run_clears_its_rest(photos, tmp_path):
    program = subprocess.Popen(
        [sys.executable, "-c", SLOW_CONVERSION, str(photos), str(tmp_path / "db")], stdout=subprocess.PIPE
    )
    assert program.stdout
    assert program.stdout.readline() == b"under way\n"
    program.send_signal(signal.SIGKILL)
    program.wait()
    program.stdout.close()
    assert not (tmp_path / "db").exists()
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
    convert_imageset(str(photos), None, str(tmp_path / "db"))
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_progress_counts_to_the_end(photos, tmp_path):
    seen = []
    convert_imageset(str(photos), None, str(tmp_path / "db"), progress=lambda *pair: seen.append(pair))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_leveldb_holds_the_same_records(photos, tmp_path):
    plyvel = pytest.importorskip("plyvel", reason="LevelDB is optional: pip install netc[leveldb]")
    convert_imageset(str(photos), None, str(tmp_path / "db"))
    convert_imageset(str(photos), None, str(tmp_path / "level"), backend="leveldb")
    with plyvel.DB(str(tmp_path / "level")) as database:
        found = {key.decode(): pb.Datum.FromString(value) for key, value in database}
    assert found == records(tmp_path / "db")


def test_a_key_longer_than_lmdb_allows_is_cut(photos, tmp_path):
    deep = "/".join(["d" * 100] * 6)
    (photos / deep).mkdir(parents=True)
    shutil.copy(photos / "cat" / "0 a.png", photos / deep / "x.png")
    (tmp_path / "list.txt").write_text(f"{deep}/x.png 4\n")
    convert_imageset(str(photos), str(tmp_path / "list.txt"), str(tmp_path / "db"))
    assert [len(key) for key in records(tmp_path / "db")] == [511]


def test_an_unknown_encoding_is_refused_before_work(photos, tmp_path):
    with pytest.raises(NetcError, match="cannot encode to xyz"):
        convert_imageset(str(photos), None, str(tmp_path / "db"), encode_type="xyz")
    assert os.listdir(tmp_path) == ["photos"]
