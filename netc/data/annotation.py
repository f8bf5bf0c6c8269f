"""Images with boxes: what a record of a detection database holds, and what of it lies in a part of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from google.protobuf.message import DecodeError

from netc.data.bad_records import Undecodable
from netc.data.boxes import coverages, project
from netc.data.image import decode_image
from netc.data.read_flags import IMREAD_UNCHANGED
from netc.proto import netc_pb2 as pb

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


@dataclass(frozen=True)
class Boxes:
    """The n objects of an image. corners: (n, 4), shares of the image's width and height; label, instance and
    difficult: (n,)."""

    corners: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    label: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    instance: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    difficult: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))

    def __len__(self) -> int:
        return len(self.corners)

    def moved(self, corners: np.ndarray) -> Boxes:
        """The same objects elsewhere."""
        return replace(self, corners=corners)

    def chosen(self, corners: np.ndarray, keep: np.ndarray) -> Boxes:
        """Those of a mask, with other corners."""
        return Boxes(corners[keep], self.label[keep], self.instance[keep], self.difficult[keep])

    def within(self, part: np.ndarray, emit: pb.EmitConstraint | None) -> Boxes:
        """The boxes of a part of the image, clipped to it; those of which nothing, or by `emit` too little,
        lies in it are left out."""
        corners, keep = project(np, self.corners, part)
        if emit is not None:
            keep &= meets(self.corners, part, emit)
        return self.chosen(corners, keep)

    def mirrored(self) -> Boxes:
        left, top, right, bottom = self.corners.T
        return self.moved(np.stack([1 - right, top, 1 - left, bottom], axis=1))


def meets(corners: np.ndarray, part: np.ndarray, emit: pb.EmitConstraint) -> np.ndarray:
    """Which boxes count in a part of the image: their centre lies in it, or more than `emit_overlap` of their
    area."""
    if emit.emit_type == pb.EmitConstraint.CENTER:
        center = (corners[:, :2] + corners[:, 2:]) / 2
        return ((center >= part[:2]) & (center <= part[2:])).all(axis=1)
    return coverages(np, corners, part[None])[:, 0] > emit.emit_overlap


@dataclass(frozen=True)
class AnnotatedImage:
    """An image in OpenCV's layout (H x W or H x W x C) and its objects."""

    pixels: np.ndarray
    boxes: Boxes

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.pixels.shape[:2]
        return height, width

    def part(self, box: np.ndarray, emit: pb.EmitConstraint | None) -> AnnotatedImage:
        """What lies in a box of the image, cut at whole pixels.

        Other than in SSD, boxes are held against those pixels, not against the box before it was cut.
        """
        height, width = self.size
        left, top = int(box[0] * width), int(box[1] * height)
        right = left + max(1, int((box[2] - box[0]) * width))
        bottom = top + max(1, int((box[3] - box[1]) * height))
        cut = np.array([left / width, top / height, right / width, bottom / height])
        return AnnotatedImage(self.pixels[top:bottom, left:right], self.boxes.within(cut, emit))


@dataclass(frozen=True)
class Annotated:
    """One record: the image and its objects, the label of its datum, and whether it says what its annotations
    are."""

    image: AnnotatedImage
    label: int
    typed: bool


def parse_annotated(record: bytes, flag: int = IMREAD_UNCHANGED) -> Annotated:
    """The contents of a serialized AnnotatedDatum. flag: one of `read_flags`, for encoded images. Raises
    Undecodable."""
    try:
        annotated = pb.AnnotatedDatum.FromString(record)
    except DecodeError as error:
        raise Undecodable("not an AnnotatedDatum message") from error
    datum = annotated.datum
    if not annotated.HasField("datum"):
        raise Undecodable("an AnnotatedDatum without an image")
    if datum.encoded:
        pixels = decode_image(np.frombuffer(datum.data, np.uint8), flag)
    else:
        pixels = _raw_pixels(datum)
    return Annotated(AnnotatedImage(pixels, _boxes(annotated)), datum.label, annotated.HasField("type"))


def _raw_pixels(datum: pb.Datum) -> np.ndarray:
    shape = (datum.channels, datum.height, datum.width)
    pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if pixels.size == 0 or min(shape) <= 0 or pixels.size != shape[0] * shape[1] * shape[2]:
        raise Undecodable(f"a Datum of {shape[0]}x{shape[1]}x{shape[2]} with {pixels.size} values")
    planes = pixels.reshape(shape)
    return planes[0] if shape[0] == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))


def _boxes(annotated: pb.AnnotatedDatum) -> Boxes:
    rows = [
        (
            (item.bbox.xmin, item.bbox.ymin, item.bbox.xmax, item.bbox.ymax),
            group.group_label,
            item.instance_id,
            item.bbox.difficult,
        )
        for group in annotated.annotation_group
        for item in group.annotation
    ]
    if not rows:
        return Boxes()
    corners, label, instance, difficult = zip(*rows, strict=True)
    return Boxes(np.array(corners, float), np.array(label), np.array(instance), np.array(difficult, bool))
