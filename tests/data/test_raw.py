"""Raw batches are the batches that `next()` gives before they are transformed, at the same positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from netc.data import Source
from netc.data.raw_images import PIXELS_ALIGNED, PLACE, RawBatch, RawImages
from netc.data.source import Origin
from netc.data.transform import Transformer
from netc.proto import netc_pb2 as pb

FIELDS: dict[str, Any] = {"crop_size": 5, "mirror": True, "mean_value": [104, 117, 123.7], "scale": 0.1}
DATA = """layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: 7 backend: LMDB rand_skip: 9 prefetch: 3 }}
  transform_param {{ crop_size: 5 mirror: true mean_value: 104 mean_value: 117 mean_value: 123.7 scale: 0.1 }}
}}"""


class Memory:
    """Gives arrays, and counts them."""

    def __init__(self) -> None:
        self.given = 0

    def __call__(self, nbytes: int) -> np.ndarray:
        self.given += 1
        return np.full(nbytes, 99, np.uint8)


def finished(batch: RawBatch | list[np.ndarray]) -> list[np.ndarray]:
    """What is to be made of a raw batch, image by image."""
    assert isinstance(batch, RawBatch)
    transformer = Transformer(pb.TransformationParameter(**FIELDS), pb.TRAIN, 0, Origin())
    data = np.empty((7, 3, 5, 5), np.float32)
    for image, out, place in zip(batch.pixels, data, batch.places, strict=True):
        transformer.apply_at(image, out, place["top"], place["left"], bool(place["mirrored"]))
    assert batch.labels is not None
    return [data, batch.labels.copy()]


def take(source: Source, count: int) -> list[list[np.ndarray]]:
    return [[array.copy() for array in source.next()] for _ in range(count)]


def same(found: list[list[np.ndarray]], wanted: list[list[np.ndarray]]) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        for array, expected in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(array, expected, strict=True)


@pytest.fixture
def text(make_database, pictures) -> str:
    return DATA.format(source=make_database(pictures))


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_finished_by_hand_they_are_what_next_gives(text, opened, phase):
    source, memory = opened(text, phase, seed=4), Memory()
    raw = [finished(source.next_raw(memory)) for _ in range(20)]
    same(raw, take(opened(text, phase, seed=4), 20))


def test_the_source_says_what_is_to_be_done(text, opened):
    raw = opened(text).raw
    assert (raw.shape, raw.crop, raw.labelled) == ((7, 3, 8, 9), (5, 5), True)
    assert raw.scale == np.float32(0.1)
    np.testing.assert_array_equal(raw.mean_values, np.float32([104, 117, 123.7]))
    assert raw.mean_image is None


def test_one_mean_value_counts_for_every_channel(text, opened):
    raw = opened(text.replace("mean_value: 117 mean_value: 123.7", "")).raw
    np.testing.assert_array_equal(raw.mean_values, np.float32([104, 104, 104]))


def test_raw_and_finished_batches_are_one_sequence(text, opened):
    wanted = take(opened(text, seed=4), 12)
    source, memory, found = opened(text, seed=4), Memory(), []
    for index in range(12):
        found += take(source, 1) if index // 2 % 2 else [finished(source.next_raw(memory))]
    same(found, wanted)


def test_what_is_ahead_is_the_next_batch_and_no_part_of_the_state(text, opened):
    source, memory = opened(text, seed=4), Memory()
    assert source.raw_ahead() is None  # nothing has been asked for
    source.next_raw(memory)
    state = source.state()
    while (ahead := source.raw_ahead()) is None:
        pass
    assert source.raw_ahead() is ahead
    assert source.state() == state
    assert source.next_raw(memory) is ahead
    assert source.state()["position"] == state["position"] + 7


def test_a_restored_source_gives_new_batches(text, opened):
    source, memory = opened(text, seed=4), Memory()
    source.next_raw(memory)
    state = source.state()
    wanted = [finished(source.next_raw(memory)) for _ in range(5)]
    while (ahead := source.raw_ahead()) is None:
        pass
    source.restore(state)
    assert source.raw_ahead() is None
    first = source.next_raw(memory)
    assert first is not ahead
    same([finished(first)] + [finished(source.next_raw(memory)) for _ in range(4)], wanted)


def test_memory_is_used_again(text, opened):
    source, memory = opened(text), Memory()
    for _ in range(60):
        source.next_raw(memory)
    assert memory.given <= 3 + 1 + 1  # three ahead, one lent, one just given back


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(text, opened):
    source, memory = opened(text), Memory()
    for _ in range(20):
        batch = source.next_raw(memory)
        copy = batch.memory.copy()
        while source.raw_ahead() is None:
            pass
        np.testing.assert_array_equal(batch.memory, copy)


def test_other_layers_give_finished_batches(imageset, opened):
    source = opened(f"""layer {{ name: "d" type: "ImageSegData" top: "data" top: "label"
      image_data_param {{ source: "{imageset}/list_all.txt" root_folder: "{imageset}/images/" batch_size: 1
                         label_type: NONE }} }}""")
    memory = Memory()
    assert source.raw is None
    assert [array.ndim for array in source.next_raw(memory)] == [4, 4]
    assert source.raw_ahead() is None
    assert not memory.given


@pytest.mark.parametrize("labelled", [False, True])
def test_the_parts_of_a_batch_lie_one_behind_the_other(labelled):
    kind = RawImages((5, 3, 2, 7), (2, 7), labelled)
    batch = RawBatch(kind, np.zeros(kind.nbytes, np.uint8))
    assert kind.label_offset == 5 * PLACE.itemsize
    assert kind.pixel_offset == PIXELS_ALIGNED
    assert kind.nbytes == PIXELS_ALIGNED + 5 * 3 * 2 * 7
    batch.pixels[-1, -1, -1, -1] = 7
    batch.places[0] = (1, 2, 3)
    assert batch.memory[-1] == 7
    assert batch.memory[:12].view(np.int32).tolist() == [1, 2, 3]
    if labelled:
        batch.labels[4] = 1.5
        assert batch.memory[60:80].view(np.float32).tolist() == [0, 0, 0, 0, 1.5]
    else:
        assert batch.labels is None
