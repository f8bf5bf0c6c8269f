"""What may be wrong with a net's data: its transforms, its order, its labels; and how many records it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from netc.data.database import find_database
from netc.data.records import RecordReader
from netc.data.source import Origin
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.tools.lint.finding import Hit
from netc.tools.lint.wiring import LINEAR_TYPES, NetView, Wired

IMAGE_TYPES: Final = ("Data", "ImageData")
CLASS_LOSSES: Final = ("SoftmaxWithLoss", "MultinomialLogisticLoss", "HingeLoss")
RESCALING_TYPES: Final = ("BatchNorm", "Power", "Scale", "Bias", "BN", "MVN")
RECORDS_LOOKED_AT: Final = 1000  # of a database, from its beginning


def raw_pixels(view: NetView) -> Iterator[Hit]:
    if view.phase != pb.TRAIN:
        return
    for layer in view.of(*IMAGE_TYPES):
        given = {field.name for field, _ in layer.spec.transform_param.ListFields()}
        rescaled = any(reader.type in RESCALING_TYPES for reader, _ in layer.readers)
        if not given & {"scale", "mean_file", "mean_value"} and not rescaled:
            yield layer.hit(
                "pixels reach the net as they are, 0 to 255",
                "add transform_param { scale: 0.00390625 }, or a mean_file or mean_value",
                "transform_param",
            )


def mirrored_tests(view: NetView) -> Iterator[Hit]:
    for layer in view.layers:
        if view.phase == pb.TEST and layer.brings_data and layer.spec.transform_param.mirror:
            yield layer.hit(
                "mirror: true tosses a coin in phase TEST as well, so that tests do not repeat",
                "remove it from the TEST layer",
                "transform_param",
                "mirror",
            )


def unshuffled_images(view: NetView) -> Iterator[Hit]:
    for layer in view.of("ImageData"):
        if view.phase == pb.TRAIN and not layer.spec.image_data_param.shuffle:
            yield layer.hit(
                "the list is read in its own order in every epoch",
                "add shuffle: true, unless the list is shuffled already",
                "image_data_param",
            )


def labels_beyond_outputs(view: NetView) -> Iterator[Hit]:
    for loss in view.of(*CLASS_LOSSES):
        scores, source = (*loss.inputs, None, None)[:2]
        if scores is None or source is None or scores.type not in LINEAR_TYPES or source.type not in LABELS:
            continue
        outputs = scores.options.num_output
        largest = _largest_label(source)
        if largest is not None and largest >= outputs:
            yield scores.hit_option(
                f"the data of {source.spec.name} has label {largest}, and num_output is {outputs}",
                f"set num_output: {largest + 1}, or mend the labels: they count from 0",
                "num_output",
            )


def _largest_label(source: Wired) -> int | None:
    """The largest label found; None where the data cannot be read from here."""
    try:
        return LABELS[source.type](source.spec)
    except (NetcError, OSError, ValueError, DecodeError):
        return None


def _database_label(spec: pb.LayerParameter) -> int:
    reader = _open(spec)
    try:
        block = reader.read(0, min(reader.count(), RECORDS_LOOKED_AT), ahead=False)
        return max(pb.Datum.FromString(block[i].tobytes()).label for i in range(len(block)))
    finally:
        reader.close()


def _list_label(spec: pb.LayerParameter) -> int:
    return max(int(line.rsplit(None, 1)[1]) for line in _list_lines(spec.image_data_param.source))


LABELS: Final[Mapping[str, Callable[[pb.LayerParameter], int]]] = {
    "Data": _database_label,
    "ImageData": _list_label,
}


def records(spec: pb.LayerParameter) -> int | None:
    """How many records the data of a layer has; None where that cannot be told from here."""
    count = COUNTS.get(spec.type)
    try:
        return count(spec) if count else None
    except (NetcError, OSError, ValueError, KeyError):
        return None


def _open(spec: pb.LayerParameter) -> RecordReader:
    origin = Origin(spec.name)
    return RecordReader(find_database(spec.data_param.source, None, origin), origin)


def _count_database(spec: pb.LayerParameter) -> int:
    reader = _open(spec)
    try:
        return reader.count()
    finally:
        reader.close()


def _list_lines(path: str) -> list[str]:
    return [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]


def _count_hdf5(spec: pb.LayerParameter) -> int:
    import h5py  # only now: few nets read HDF5 files

    total = 0
    for path in _list_lines(spec.hdf5_data_param.source):
        with h5py.File(path.strip(), "r") as file:
            total += file[spec.top[0]].shape[0]
    return total


COUNTS: Final[Mapping[str, Callable[[pb.LayerParameter], int]]] = {
    "Data": _count_database,
    "HDF5Data": _count_hdf5,
    "ImageData": lambda spec: len(_list_lines(spec.image_data_param.source)),
}
