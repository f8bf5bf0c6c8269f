"""Databases of small images, nets that read them, and the batches that these get."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from google.protobuf import text_format

from netc.backends.backend import Backend
from netc.data.writer import writing_database
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

IMAGES = 23  # no multiple of a batch
TRANSFORMS = {
    "as they are": "",
    "crop": "crop_size: 5",
    "crop, mirror, a mean, scale": "crop_size: 7 mirror: true mean_value: 104.5 scale: 0.017",
    "mirror, a mean for each channel": "mirror: true mean_value: 104 mean_value: 117 mean_value: 123.7",
    "crop, mirror, mean image": 'crop_size: 6 mirror: true scale: 0.00390625 mean_file: "mean.binaryproto"',
}


def write_mean() -> None:
    """The file that a transform names."""
    mean = np.random.default_rng(7).uniform(0, 255, 3 * 8 * 9).astype(np.float32)
    blob = pb.BlobProto(num=1, channels=3, height=8, width=9, data=mean)
    Path("mean.binaryproto").write_bytes(blob.SerializeToString())


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (3, 8, 9), np.uint8)


def raw(index: int) -> pb.Datum:
    return pb.Datum(channels=3, height=8, width=9, data=picture(index).tobytes(), label=index % 10)


def floats(index: int) -> pb.Datum:
    return pb.Datum(channels=3, height=8, width=9, float_data=picture(index).ravel() / 3, label=index % 10)


def encoded(index: int) -> pb.Datum:
    data = cv2.imencode(".png", picture(index).transpose(1, 2, 0))[1].tobytes()
    return pb.Datum(data=data, encoded=True, label=index % 10)


def larger(index: int) -> pb.Datum:
    pixels = np.random.default_rng(index).integers(0, 256, (3, 10, 11), np.uint8)
    return pb.Datum(channels=3, height=10, width=11, data=pixels.tobytes(), label=index % 10)


def write_database(datums: list[pb.Datum]) -> None:
    with writing_database("images", "lmdb") as writer:
        for index, datum in enumerate(datums):
            writer.put(f"{index:08d}".encode(), datum.SerializeToString())


def data_layer(transform: str = "", batch: int = 5, tops: str = 'top: "data" top: "label"') -> str:
    return f"""layer {{ name: "d" type: "Data" {tops} transform_param {{ {transform} }}
      data_param {{ source: "images" backend: LMDB batch_size: {batch} prefetch: 2 }} }}"""


def net_of(text: str, backend: Backend, phase: int = pb.TRAIN) -> Net:
    return Net(text_format.Parse(text, pb.NetParameter()), phase, seed=3, backend=backend)


def batches(net: Net, count: int, names: tuple[str, ...] = ("data", "label")) -> list[list[np.ndarray]]:
    """The blobs of so many passes."""
    result = []
    for _ in range(count):
        net.forward()
        result.append([net.blobs[name].data.copy() for name in names])
    return result


def same(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for array, wanted in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(array, wanted, strict=True)
