"""A restored source goes on to the bit: the position is all it takes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.data import Source
from netc.proto import netc_pb2 as pb

DATA = """layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: 7 backend: LMDB rand_skip: 9 prefetch: {prefetch} }}
  transform_param {{ crop_size: 5 mirror: true mean_value: 100 scale: 0.1 }} }}"""
IMAGES = """layer {{ name: "d" type: "ImageData" top: "data" top: "label"
  image_data_param {{ source: "{folder}/list_all.txt" root_folder: "{folder}/images/" batch_size: 7
                     shuffle: true new_height: 10 new_width: 12 rand_skip: 4 }}
  transform_param {{ crop_size: 9 mirror: true }} }}"""
ROWS = """layer {{ name: "d" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "{source}" batch_size: 7 shuffle: true }} }}"""


def take(source: Source, count: int) -> list[list[np.ndarray]]:
    return [[array.copy() for array in source.next()] for _ in range(count)]


def same(a: list[list[np.ndarray]], b: list[list[np.ndarray]]) -> bool:
    return all(np.array_equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True))


@pytest.fixture
def texts(make_database, pictures, imageset, tmp_path) -> dict[str, str]:
    for name, rows in (("a", 11), ("b", 13)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["data"] = np.arange(rows * 3).reshape(rows, 3) + 1000 * ord(name)
            file["label"] = np.arange(rows)
    (tmp_path / "rows.txt").write_text(f"{tmp_path}/a.h5\n{tmp_path}/b.h5\n")
    return {
        "Data": DATA.format(source=make_database(pictures), prefetch=4),
        "ImageData": IMAGES.format(folder=imageset),
        "HDF5Data": ROWS.format(source=tmp_path / "rows.txt"),
    }


KINDS = ["Data", "ImageData", "HDF5Data"]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_after_a_restore_are_those_of_an_unbroken_run(kind, texts, opened):
    unbroken = take(opened(texts[kind], seed=11), 20)
    for done in (0, 1, 4, 13):
        first = opened(texts[kind], seed=11)
        take(first, done)
        state = json.loads(json.dumps(first.state()))
        resumed = opened(texts[kind], seed=11)
        resumed.tops  # noqa: B018 - as a net does when it is built
        resumed.restore(state)
        assert same(take(resumed, 20 - done), unbroken[done:])


@pytest.mark.parametrize("kind", KINDS)
def test_going_back_repeats_the_same_batches(kind, texts, opened):
    source = opened(texts[kind], seed=11)
    take(source, 2)
    state = source.state()
    once = take(source, 9)
    source.restore(state)
    assert same(take(source, 9), once)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(kind, texts, opened):
    one = take(opened(texts[kind], seed=3, workers=1), 15)
    assert same(take(opened(texts[kind], seed=3, workers=4), 15), one)


def test_prefetch_depth_changes_nothing(make_database, pictures, opened):
    folder = make_database(pictures)
    shallow = take(opened(DATA.format(source=folder, prefetch=1), seed=3), 15)
    assert same(take(opened(DATA.format(source=folder, prefetch=9), seed=3), 15), shallow)


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind, texts, opened):
    a, b = (take(opened(texts[kind], seed=seed), 5) for seed in (1, 2))
    assert not same(a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_ahead_does_not_move_the_state(kind, texts, opened):
    source = opened(texts[kind], seed=1)
    before = source.state()
    source.tops  # noqa: B018 - starts the threads
    assert source.state() == before
    source.next()
    assert source.state()["position"] == before["position"] + 7


@pytest.mark.parametrize("kind", ["ImageData", "HDF5Data"])
def test_a_shuffled_epoch_has_every_record_once_and_the_next_another_order(kind, texts, opened, imageset):
    text = texts[kind].replace("rand_skip: 4", "").replace("batch_size: 7", "batch_size: 12")
    per_epoch = {"ImageData": 5, "HDF5Data": 2}[kind]
    text = text.replace("crop_size: 9 mirror: true", "")
    source = opened(text, seed=1)
    first, second = ([row.tobytes() for data, _ in take(source, per_epoch) for row in data] for _ in range(2))
    assert len(set(first)) == len(first)
    assert sorted(first) == sorted(second)
    assert first != second


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_share_the_records_between_them(kind, texts, opened):
    text = texts[kind].replace("rand_skip: 9", "").replace("rand_skip: 4", "")
    text = text.replace("mirror: true", "").replace("batch_size: 7", "batch_size: 4")
    whole = np.concatenate([label for _, label in take(opened(text, pb.TEST, seed=5), 12)])
    for rank in range(3):
        own = np.concatenate(
            [label for _, label in take(opened(text, pb.TEST, seed=5, rank=rank, ranks=3), 4)]
        )
        np.testing.assert_array_equal(own, whole[rank::3])


def test_rand_skip_starts_within_its_range(make_database, pictures, opened):
    folder = make_database(pictures)
    starts = {
        int(opened(DATA.format(source=folder, prefetch=1), seed=seed).next()[1][0]) for seed in range(30)
    }
    assert starts <= set(range(9))
    assert len(starts) > 3


def test_an_unclosed_source_takes_its_threads_and_program_with_it(make_database, pictures):
    import gc
    import threading

    from netc.data import open_source

    from .conftest import parse_layer

    others = set(threading.enumerate())
    source = open_source(parse_layer(DATA.format(source=make_database(pictures), prefetch=2)), pb.TRAIN)
    source.next()
    before = children()
    assert before
    del source
    gc.collect()
    left = set(threading.enumerate()) - others
    assert not [thread for thread in left if thread.name.startswith("netc-data")]
    assert not children() & before


def children() -> set[str]:
    import os

    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
