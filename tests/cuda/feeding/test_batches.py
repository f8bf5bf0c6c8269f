"""Batches that go up raw are those that the CPU makes, to the bit; some come finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from tests.cuda.feeding.databases import (
    IMAGES,
    TRANSFORMS,
    batches,
    data_layer,
    encoded,
    floats,
    larger,
    net_of,
    raw,
    same,
    write_database,
)
from tests.cuda.feeding.watched import Sent

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

PHASES = {"TRAIN": pb.TRAIN, "TEST": pb.TEST}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_batches_are_those_of_the_cpu(device: EmulatedDevice, transform: str, phase: str, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS[transform])
    epochs = 3 * IMAGES // 5
    wanted = batches(net_of(text, CpuBackend(), PHASES[phase]), epochs)
    same(batches(net_of(text, CudaBackend(device), PHASES[phase]), epochs), wanted)
    assert epochs <= sent.copies <= epochs + 1


def test_encoded_images_and_no_labels(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([encoded(i) for i in range(IMAGES)])
    text = data_layer("crop_size: 6 mirror: true", batch=4, tops='top: "data"')
    wanted = batches(net_of(text, CpuBackend()), 12, ("data",))
    same(batches(net_of(text, CudaBackend(fast)), 12, ("data",)), wanted)
    assert sent.copies


def test_listed_images_that_are_resized(fast: EmulatedDevice, sent: Sent) -> None:
    for i in range(4):
        cv2.imwrite(f"{i}.png", np.random.default_rng(i).integers(0, 256, (9 + i, 12, 3), np.uint8))
    Path("list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(4)))
    text = """layer { name: "d" type: "ImageData" top: "data" top: "label"
      transform_param { crop_size: 8 mirror: true }
      image_data_param { source: "list.txt" batch_size: 3 shuffle: true new_height: 10 new_width: 10 } }"""
    same(batches(net_of(text, CudaBackend(fast)), 8), batches(net_of(text, CpuBackend()), 8))
    assert sent.copies


def test_a_damaged_record_is_replaced_as_on_the_cpu(fast: EmulatedDevice, sent: Sent) -> None:
    datums = [encoded(i) for i in range(IMAGES)]
    datums[7].data = b"no image"
    write_database(datums)
    text = data_layer("crop_size: 6 mirror: true")
    same(batches(net_of(text, CudaBackend(fast)), 6), batches(net_of(text, CpuBackend()), 6))
    assert sent.copies


def test_floats_come_finished(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([floats(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS["crop, mirror, a mean, scale"])
    net = net_of(text, CudaBackend(fast))
    assert net.sources["d"].raw is None
    same(batches(net, 7), batches(net_of(text, CpuBackend()), 7))
    assert not sent.copies


@pytest.mark.parametrize("other", [floats, larger])
def test_a_batch_that_is_not_like_the_others_comes_finished(
    fast: EmulatedDevice, sent: Sent, other: Any
) -> None:
    """The last batch of an epoch of 20 holds another kind of image."""
    write_database([(other if i == 17 else raw)(i) for i in range(20)])
    text = data_layer("crop_size: 5 mirror: true scale: 0.5")
    same(batches(net_of(text, CudaBackend(fast)), 12), batches(net_of(text, CpuBackend()), 12))
    assert 9 <= sent.copies <= 10


def test_images_of_any_size_come_finished(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([(raw if i % 2 else larger)(i) for i in range(4)])
    text = data_layer(batch=1)
    same(batches(net_of(text, CudaBackend(fast)), 6), batches(net_of(text, CpuBackend()), 6))
    assert not sent.copies


def test_nets_of_doubles_get_finished_batches(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    parsed = text_format.Parse(data_layer("crop_size: 5"), pb.NetParameter())
    net, wanted = (
        Net(parsed, pb.TRAIN, seed=3, backend=backend, dtype=np.float64)
        for backend in (CudaBackend(fast), CpuBackend())
    )
    same(batches(net, 3), batches(wanted, 3))
    assert not sent.copies
