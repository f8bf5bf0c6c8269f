"""Damaged, missing and foreign data gives a NetcError that names the file; never a hang or a death."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from netc.data import bad_records
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb

TEXT = """layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }} }}"""


@pytest.fixture
def database(make_database) -> Path:
    """200 images of 3 x 30 x 30."""
    images = np.random.default_rng(1).integers(0, 256, (200, 3, 30, 30), dtype=np.uint8)
    return Path(make_database(images))


def drain(source, batches: int) -> None:
    for _ in range(batches):
        source.next()


def read_an_epoch(opened, folder) -> NetcError | None:
    """What is wrong with the database, None where nothing is noticed; any other exception is raised."""
    try:
        with opened(TEXT.format(source=folder, batch=20)) as source:
            drain(source, 11)
    except NetcError as error:
        return error
    return None


@pytest.mark.parametrize("kept", [0, 1, 100, 4096, 5000, 8192, 9000, 100_000, -4096, -1])
def test_a_truncated_lmdb_is_refused_at_once(kept, database, opened):
    path = database / "data.mdb"
    size = path.stat().st_size
    os.truncate(path, kept if kept >= 0 else size + kept)
    with pytest.raises(NetcError, match=r"data.mdb (is cut short|is not an LMDB file)"):
        opened(TEXT.format(source=database, batch=20))


def test_a_file_cut_while_it_is_read_is_an_error_and_not_a_death(database, opened):
    source = opened(TEXT.format(source=database, batch=1))
    source.next()
    os.truncate(database / "data.mdb", 8192)
    with pytest.raises(NetcError, match="cannot be read") as error:
        drain(source, 200)
    assert "SIGBUS" in error.value.found


def test_flipped_bits_load_or_are_named(database, opened, tmp_path):
    pristine = (database / "data.mdb").read_bytes()
    rng = random.Random(8)
    noticed = 0
    for trial in range(25):
        damaged = bytearray(pristine)
        # Mostly where the structure is: the heads of pages, and the meta and branch pages.
        for _ in range(rng.choice([1, 3, 20])):
            page = rng.choice([0, 1, rng.randrange(len(damaged) // 4096)])
            damaged[4096 * page + rng.randrange(64 if rng.random() < 0.8 else 4096)] ^= 1 << rng.randrange(8)
        folder = tmp_path / f"damaged{trial}"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(damaged)
        error = read_an_epoch(opened, folder)
        noticed += error is not None
        assert error is None or str(folder) in str(error)
        shutil.rmtree(folder)
    assert 0 < noticed < 25, "the test should flip both what matters and what does not"


def test_a_killed_reader_program_is_reported(database, opened):
    source = opened(TEXT.format(source=database, batch=20))
    source.next()
    for process in reader_programs():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(NetcError, match="cannot be read") as error:
        drain(source, 20)
    assert "SIGKILL" in error.value.found


def reader_programs() -> list[int]:
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [
        int(process) for process in own if b"reader_program" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]


def test_closing_while_threads_read_is_quiet_and_leaves_nothing(database, opened):
    others = set(threading.enumerate())
    for _ in range(5):
        source = opened(TEXT.format(source=database, batch=20))
        source.next()
        source.close()
        source.close()
    assert not reader_programs()
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if thread.name.startswith("netc-data")]


def test_a_closed_source_says_so(database, opened):
    source = opened(TEXT.format(source=database, batch=20))
    source.close()
    with pytest.raises(RuntimeError, match="closed"):
        source.next()


def test_a_missing_database_suggests_its_near_namesakes(database, opened):
    with pytest.raises(NetcError, match="there is no database") as error:
        opened(TEXT.format(source=f"{database}_", batch=2))
    assert f"did you mean {database}?" in (error.value.remedy or "")


def test_a_folder_without_a_database_and_a_file_are_told_apart(tmp_path, opened):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NetcError, match="neither an LMDB nor a LevelDB"):
        opened(TEXT.format(source=tmp_path, batch=2))
    with pytest.raises(NetcError, match="is a file; a database is a folder"):
        opened(TEXT.format(source=tmp_path / "notes.txt", batch=2))


def test_an_empty_lmdb_is_an_error(tmp_path, opened):
    lmdb.open(str(tmp_path / "empty")).close()
    with pytest.raises(NetcError, match="cannot be read") as error:
        opened(TEXT.format(source=tmp_path / "empty", batch=2))
    assert "empty" in error.value.found


def test_what_the_folder_really_is_decides_over_backend(make_database, pictures, opened, caplog):
    text = TEXT.format(source=make_database(pictures), batch=2).replace("LMDB", "LEVELDB")
    assert opened(text, pb.TEST).next()[1].tolist() == [0, 1]
    assert "is LMDB, though the prototxt says backend: LEVELDB" in caplog.text


def test_leveldb_reads_as_lmdb_does(make_database, pictures, opened):
    pytest.importorskip("plyvel", reason="LevelDB is optional: pip install netc[leveldb]")
    texts = [TEXT.format(source=make_database(pictures, kind, kind), batch=7) for kind in ("lmdb", "leveldb")]
    one, other = (opened(text) for text in texts)
    for _ in range(8):  # twice around 23 records
        for a, b in zip(one.next(), other.next(), strict=True):
            np.testing.assert_array_equal(a, b)
    state = other.state()
    expected = [array.copy() for array in other.next()]
    other.close()
    again = opened(texts[1])
    again.restore(state)
    for a, b in zip(again.next(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_leveldb_without_plyvel_says_what_to_install(make_database, pictures, opened, tmp_path, monkeypatch):
    (tmp_path / "level").mkdir()
    (tmp_path / "level/CURRENT").write_text("MANIFEST-000001\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NetcError, match="plyvel is not installed") as error:
        opened(TEXT.format(source=tmp_path / "level", batch=2))
    assert "pip install netc[leveldb]" in (error.value.remedy or "")


NOT_AN_IMAGE = pb.Datum(data=b"not an image", label=1, encoded=True).SerializeToString()
BAD = {
    "foreign bytes": b"\xff\xff\xff",
    "not an image": NOT_AN_IMAGE,
    "too few pixels": pb.Datum(channels=3, height=8, width=9, data=b"x" * 215, label=1).SerializeToString(),
    "no shape": pb.Datum(data=b"x" * 216, label=1).SerializeToString(),
    "empty": b"",
}


@pytest.mark.parametrize("bad", BAD)
def test_a_record_that_does_not_decode_is_named_and_a_neighbour_takes_its_place(
    bad, make_database, pictures, opened, caplog
):
    folder = make_database(pictures, extra={2: BAD[bad], 5: BAD[bad]})
    source = opened(TEXT.format(source=folder, batch=3), pb.TEST)
    assert [source.next()[1].tolist() for _ in range(3)] == [[0, 1, 1], [3, 4, 4], [6, 7, 8]]
    for _ in range(8):
        source.next()
    assert caplog.text.count("skipped record 00000002") == 1
    assert caplog.text.count("skipped record 00000005") == 1


def test_the_next_record_takes_a_bad_ones_place(make_database, pictures, opened):
    folder = make_database(pictures, extra={0: b"\xff", 1: b"\xff"})
    source = opened(TEXT.format(source=folder, batch=4), pb.TEST)
    data, labels = source.next()
    assert labels.tolist() == [2, 2, 2, 3]
    np.testing.assert_array_equal(data[0], pictures[2])


def test_too_many_bad_records_stop_the_run(make_database, opened, pictures):
    extra = dict.fromkeys(range(0, 2 * (bad_records.ALWAYS_TOLERATED + 1), 2), NOT_AN_IMAGE)
    source = opened(TEXT.format(source=make_database(pictures, extra=extra), batch=2), pb.TEST)
    for _ in range(bad_records.ALWAYS_TOLERATED):
        source.next()
    for _ in range(2):
        with pytest.raises(NetcError, match="too many records"):
            source.next()


def test_one_percent_of_a_large_database_may_be_bad(make_database, opened):
    images = np.zeros((1500, 1, 1, 1), np.uint8)
    source = opened(
        TEXT.format(source=make_database(images, extra=dict.fromkeys(range(0, 30, 2), b"")), batch=30)
    )
    for _ in range(50):
        source.next()


def test_a_batch_of_nothing_but_bad_records_stops_the_run(make_database, opened, pictures):
    source = opened(TEXT.format(source=make_database(pictures, extra={2: b"", 3: b""}), batch=2), pb.TEST)
    source.next()
    with pytest.raises(NetcError, match="no record of a whole batch can be decoded; the first is 00000002"):
        source.next()


def test_sixteen_bit_images_are_bad_records_not_wrong_pixels(make_database, opened, pictures, caplog):
    deep = cv2.imencode(".png", np.full((8, 9, 3), 40000, np.uint16))[1].tobytes()
    fine = cv2.imencode(".png", pictures[0].transpose(1, 2, 0))[1].tobytes()
    extra = {
        0: pb.Datum(data=fine, label=0, encoded=True).SerializeToString(),
        1: pb.Datum(data=deep, label=1, encoded=True).SerializeToString(),
    }
    source = opened(TEXT.format(source=make_database(pictures[:2], extra=extra), batch=2), pb.TEST)
    data, labels = source.next()
    assert labels.tolist() == [0, 0]
    np.testing.assert_array_equal(data[0], pictures[0])
    assert "only 8 bits a channel" in caplog.text


def test_waiting_is_measured(database, opened):
    source = opened(TEXT.format(source=database, batch=20))
    assert source.waited_s == 0
    source.next()
    waited = source.waited_s
    assert waited > 0
    time.sleep(0.3)
    source.next()
    assert source.waited_s - waited < 0.25
