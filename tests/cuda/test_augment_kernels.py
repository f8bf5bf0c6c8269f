"""Augmentation on the device gives the very numbers that the transformer on the host gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.iteration.augment import Batch, augment
from netc.data.raw_images import PLACE
from netc.data.source import Origin
from netc.data.transform import Transformer
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from tests.cuda.arrays import get, put, room

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def drawn_images(batch: Batch) -> np.ndarray:
    shape = (batch.images, batch.channels, batch.height, batch.width)
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


def drawn_places(batch: Batch) -> np.ndarray:
    """Corners first, then anywhere; every other image is mirrored."""
    places = np.zeros(batch.images, PLACE)
    room_down, room_across = batch.height - batch.crop_height, batch.width - batch.crop_width
    random = np.random.default_rng(5)
    places["top"] = random.integers(0, room_down + 1, batch.images)
    places["left"] = random.integers(0, room_across + 1, batch.images)
    places["mirrored"] = np.arange(batch.images) % 2
    for place, corner in zip(places, [(0, 0), (room_down, room_across)], strict=False):
        place["top"], place["left"] = corner
    return places


def check(device: EmulatedDevice, batch: Batch, skew: int = 0, **fields: Any) -> None:
    images, places = drawn_images(batch), drawn_places(batch)
    transformer = Transformer(pb.TransformationParameter(**fields), pb.TRAIN, 1, Origin())
    wanted = np.empty((batch.images, batch.channels, batch.crop_height, batch.crop_width), np.float32)
    for image, out, place in zip(images, wanted, places, strict=True):
        transformer.apply_at(image, out, place["top"], place["left"], bool(place["mirrored"]))
    values, mean = transformer.mean_values, transformer.mean
    y = room(device, batch.count, skew=skew)
    work = augment(
        device,
        batch,
        put(device, images, "images"),
        put(device, places, "places"),
        y,
        scale=fields.get("scale", 1.0),
        mean_values=put(device, np.resize(values, batch.channels)) if len(values) else None,
        mean_image=None if mean is None else put(device, mean),
    )
    work()
    np.testing.assert_array_equal(get(device, y, wanted.shape), wanted)


@pytest.mark.parametrize("skew", [0, 4])
@pytest.mark.parametrize("batch", [
    Batch(3, 3, 11, 13, 8, 8),  # packs
    Batch(4, 1, 9, 9, 7, 5),
    Batch(2, 3, 6, 5, 6, 5),  # no crop
    Batch(1, 1, 1, 1, 1, 1),
])  # fmt: skip
def test_crops_and_mirrors(device: EmulatedDevice, batch: Batch, skew: int) -> None:
    check(device, batch, skew)
    check(device, batch, skew, scale=0.00390625, mean_value=[33.5])


def test_a_mean_of_each_channel(device: EmulatedDevice) -> None:
    check(device, Batch(3, 3, 10, 10, 9, 9), scale=0.017, mean_value=[104, 117, 123.7])


def test_the_mean_image_is_cropped_where_the_image_is(device: EmulatedDevice, tmp_path: Path) -> None:
    path = tmp_path / "mean.binaryproto"
    values = np.random.default_rng(7).uniform(0, 255, 3 * 10 * 12).astype(np.float32)
    path.write_bytes(pb.BlobProto(num=1, channels=3, height=10, width=12, data=values).SerializeToString())
    check(device, Batch(3, 3, 10, 12, 7, 8), scale=0.5, mean_file=str(path))
    check(device, Batch(3, 3, 10, 12, 7, 7), mean_file=str(path))


def test_several_blocks(fast: EmulatedDevice) -> None:
    check(fast, Batch(9, 3, 40, 41, 32, 36), scale=0.1, mean_value=[128])


def test_places_are_read_when_the_work_runs(fast: EmulatedDevice) -> None:
    batch = Batch(2, 1, 3, 3, 1, 1)
    images, places, y = drawn_images(batch), put(fast, np.zeros(2, PLACE)), room(fast, 2)
    work = augment(fast, batch, put(fast, images), places, y)
    fast.upload(places, np.array([(2, 1, 0), (1, 2, 1)], PLACE))
    work()
    assert get(fast, y).tolist() == [images[0, 0, 2, 1], images[1, 0, 1, 2]]


def test_memory_too_small_for_the_batch_is_refused(fast: EmulatedDevice) -> None:
    batch = Batch(2, 3, 4, 4, 4, 4)
    images, places = put(fast, drawn_images(batch)), put(fast, np.zeros(1, PLACE), "places")
    with pytest.raises(NetcError, match="places is too small"):
        augment(fast, batch, images, places, room(fast, batch.count))
    with pytest.raises(NetcError, match="no elements"):
        augment(fast, Batch(0, 3, 4, 4, 4, 4), images, places, room(fast, 1))
