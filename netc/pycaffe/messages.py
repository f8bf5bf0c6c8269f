"""Caffe's BlobProto and Datum messages to and from arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from netc.data.bad_records import Undecodable
from netc.data.datum import decode_datum
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.blobs import blob_to_array

Array = np.ndarray


def blobproto_to_array(blob: pb.BlobProto, return_diff: bool = False) -> Array:
    """The data of a BlobProto, or its diff, as float32. Raises NetcError where shape and count disagree."""
    return blob_to_array(blob, diff=return_diff)


def array_to_blobproto(arr: Any, diff: Any = None) -> pb.BlobProto:
    """A BlobProto of an array and, where it is given, of its gradient of the same shape."""
    values = np.asarray(arr)
    blob = pb.BlobProto()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.astype(np.float32).ravel())
    if diff is not None:
        gradient = np.asarray(diff)
        if gradient.shape != values.shape:
            raise NetcError(
                "the diff has another shape than the data",
                expected=list(values.shape),
                found=list(gradient.shape),
            )
        blob.diff.extend(gradient.astype(np.float32).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[Any]) -> bytes:
    """Arrays as the bytes of a BlobProtoVector."""
    return bytes(
        pb.BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist]).SerializeToString()
    )


def blobprotovector_str_to_arraylist(text: bytes) -> list[Array]:
    """The arrays in the bytes of a BlobProtoVector. Raises NetcError for other bytes."""
    try:
        vector = pb.BlobProtoVector.FromString(text)
    except DecodeError as error:
        raise NetcError("these bytes are no BlobProtoVector", found=f"{len(text)} bytes") from error
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: Array, label: int | None = None) -> pb.Datum:
    """A Datum of an image C x H x W: bytes stay bytes, other types become floats. Raises NetcError for
    other axes."""
    if arr.ndim != 3:
        raise NetcError("a Datum holds an image of three axes", expected="C x H x W", found=list(arr.shape))
    datum = pb.Datum(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel())
    if label is not None:
        datum.label = int(label)
    return datum


def datum_to_array(datum: pb.Datum) -> Array:
    """The image in a Datum, C x H x W: uint8, or float32 where it holds floats. An encoded image (JPEG,
    PNG) is decoded, blue first. Raises NetcError for one that does not hold together."""
    try:
        return decode_datum(np.frombuffer(datum.SerializeToString(), np.uint8))[0]
    except Undecodable as error:
        raise NetcError(f"the Datum does not hold an image: {error}") from error
