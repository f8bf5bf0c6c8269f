"""Records as images: the Datum message, one at a time or a whole block of raw ones at once."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError

from netc.data.bad_records import BadRecord, Undecodable, fill_gaps
from netc.data.pixel_room import PixelRoom
from netc.data.read_flags import IMREAD_UNCHANGED
from netc.data.records import RecordBlock
from netc.proto import netc_pb2 as pb

LABEL_TAG = 0x28  # field 5, varint
NOT_ENCODED = bytes([0x38, 0])  # field 7, false: what Caffe writes behind every raw datum
LONGEST_VARINT = 10


def decode_datum(
    record: np.ndarray, flag: int = IMREAD_UNCHANGED, room: PixelRoom | None = None
) -> tuple[np.ndarray, int]:
    """The pixels (C x H x W, uint8, or float32 where the datum has float_data) and label of a serialized
    Datum.

    flag: one of `read_flags`, for encoded images; room: where decoded images are put. Raises Undecodable.
    """
    try:
        datum = pb.Datum.FromString(record.tobytes())
    except DecodeError as error:
        raise Undecodable("not a Datum message") from error
    if datum.encoded:
        from netc.data.image import decode_image, planes  # only now: it loads OpenCV

        return planes(decode_image(np.frombuffer(datum.data, np.uint8), flag), room), datum.label
    shape = (datum.channels, datum.height, datum.width)
    # Caffe reads float_data only where there are no bytes.
    pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if pixels.size == 0 or min(shape) <= 0 or pixels.size != shape[0] * shape[1] * shape[2]:
        raise Undecodable(f"a Datum of {shape[0]}x{shape[1]}x{shape[2]} with {pixels.size} values")
    return pixels.reshape(shape), datum.label


def decode_block(
    block: RecordBlock, flag: int = IMREAD_UNCHANGED, room: PixelRoom | None = None
) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray, list[BadRecord]]:
    """The images of a block, its labels (int64), and the records that do not decode, whose places neighbours
    take.

    The images are one N x C x H x W array where every record is a raw Datum of one shape, else a list of C x
    H x W; an empty list where nothing decodes.
    """
    uniform = uniform_pixels(block)
    if uniform is not None:
        return *uniform, []
    decoded: list[tuple[np.ndarray, int] | None] = []
    bad = []
    for i in range(len(block)):
        try:
            decoded.append(decode_datum(block[i], flag, room))
        except Undecodable as error:
            decoded.append(None)
            bad.append(BadRecord(block.key(i), str(error)))
    filled = fill_gaps(decoded) or []
    return [pixels for pixels, _ in filled], np.array([label for _, label in filled], np.int64), bad


def uniform_pixels(block: RecordBlock) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels (N x C x H x W, uint8) and labels (int64) of a block of raw Datums that are all laid out like
    the first.

    Compares the bytes around the pixels instead of parsing each message. None where they differ; then every
    record has to be parsed by itself.
    """
    layout = _raw_layout(block[0])
    if layout is None:
        return None
    head, shape, tail_end = layout
    size = int(np.prod(shape))
    first_pixel = block.starts + len(head)
    label_at = first_pixel + size
    label_end = block.ends - len(tail_end)
    if np.any(label_end - label_at < 2) or np.any(label_end - label_at > 1 + LONGEST_VARINT):
        return None
    if not (_all_equal(block, block.starts, head) and _all_equal(block, label_end, tail_end)):
        return None
    labels = _labels(block.data, label_at, label_end)
    if labels is None:
        return None
    return _rows(block.data, first_pixel, size).reshape(-1, *shape), labels


def _all_equal(block: RecordBlock, at: np.ndarray, expected: bytes) -> bool:
    """Whether each record has these bytes at its place."""
    found = block.data[at[:, None] + np.arange(len(expected))]
    return bool(np.all(found == np.frombuffer(expected, np.uint8)))


def _rows(data: np.ndarray, starts: np.ndarray, size: int) -> np.ndarray:
    """`size` bytes from each start: a view where the starts lie evenly, else a copy."""
    steps = np.diff(starts)
    if len(steps) and np.all(steps == steps[0]):
        return np.lib.stride_tricks.as_strided(data[starts[0] :], (len(starts), size), (int(steps[0]), 1))
    rows = np.empty((len(starts), size), np.uint8)
    for row, start in zip(rows, starts.tolist(), strict=True):
        row[:] = data[start : start + size]
    return rows


def _raw_layout(record: np.ndarray) -> tuple[bytes, tuple[int, int, int], bytes] | None:
    """Of a raw Datum as Caffe writes it: the bytes before its pixels, its shape, those after its label."""
    try:
        datum = pb.Datum.FromString(record.tobytes())
    except DecodeError:
        return None
    shape = (datum.channels, datum.height, datum.width)
    size = len(datum.data)
    if datum.encoded or not size or min(shape) <= 0 or size != shape[0] * shape[1] * shape[2]:
        return None
    head = pb.Datum(channels=shape[0], height=shape[1], width=shape[2], data=datum.data)
    written = head.SerializeToString()
    if record[: len(written)].tobytes() != written or not datum.HasField("label"):
        return None
    tail_end = NOT_ENCODED if datum.HasField("encoded") else b""
    return written[: len(written) - size], shape, tail_end


def _labels(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray | None:
    """The label fields that fill data[start:end] of each record, None where one is anything else."""
    if np.any(data[start] != LABEL_TAG):
        return None
    labels = np.zeros(len(start), np.int64)
    at = start + 1
    for i in range(int((end - at).max())):
        here = at + i < end
        byte = data[np.where(here, at + i, start)].astype(np.int64)
        goes_on = at + i + 1 < end
        if np.any(((byte & 0x80) != 0)[here] != goes_on[here]):
            return None
        labels |= np.where(here, (byte & 0x7F) << (7 * i), 0)
    return labels.astype(np.int32).astype(np.int64)
