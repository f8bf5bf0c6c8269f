"""Images as kernels/conv_last.cu reads them: the table of conv_last_pack.cu, its launches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.convolution.shape import ConvShape, pieces
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch
from netc.backends.cuda.launching.division import divisor
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.form import NHWC, Run
from netc.errors import NetcError

NUMBERS = {"tf32": "float", "bf16": "bf16", "fp16": "fp16"}  # what is multiplied, in memory
PIECE_BYTES = 16
PIECE = {"float": 4, "bf16": 8, "fp16": 8}  # numbers of a piece
TURNED_CELLS, TURNED_CHANNELS = 64, 32  # of a block of `pack_planes`

FROM_LAST = {
    math: Variant(
        f"pack images last {math}", "conv_last_pack.cu", f"pack_last<{number}>", THREADS, architecture=80
    )
    for math, number in NUMBERS.items()
}
FROM_PLANES = {
    math: Variant(
        f"pack images planes {math}",
        "conv_last_pack.cu",
        f"pack_planes<{number}, {TURNED_CELLS}, {TURNED_CHANNELS}>",
        THREADS,
        architecture=80,
    )
    for math, number in NUMBERS.items()
}
VARIANTS = (*FROM_LAST.values(), *FROM_PLANES.values())


@dataclass(frozen=True)
class Reading:
    """How one side's images are read: in whole pieces of channels, channels last.

    images, groups, channels (of a group), plane (cells of an image): their sizes; layout: how the net has
    them; packed: whether they are rounded and filled up first, or read as they lie, as floats.
    """

    math: str
    images: int
    groups: int
    channels: int
    plane: int
    layout: str
    packed: bool

    @property
    def number(self) -> str:
        """What is read."""
        return NUMBERS[self.math] if self.packed else "float"

    @property
    def pieces(self) -> int:
        """Of a group's channels in a cell."""
        return pieces(self.channels, PIECE[self.number])

    @property
    def group_pitch(self) -> int:
        """Numbers from a group's first channel to the next one's."""
        return self.pieces * PIECE[self.number]

    @property
    def cell_pitch(self) -> int:
        return self.groups * self.group_pitch

    @cached_property
    def count(self) -> int:
        """Pieces of all images."""
        return self.images * self.plane * self.groups * self.pieces

    @property
    def floats(self) -> int:
        """The room that packed images take."""
        return self.count * PIECE_BYTES // FLOAT_BYTES if self.packed else 0

    def bind(self, device: Device, source: Memory, room: Memory | None) -> tuple[list[Run], Memory]:
        """What packs the images into `room`, nothing where they are read as they lie; where they then are."""
        if not self.packed:
            if source.address % PIECE_BYTES:
                raise NetcError(
                    "images that are read in whole pieces begin within one",
                    expected=f"an address that is a multiple of {PIECE_BYTES}",
                    found=f"{source.address:#x}",
                )
            return [], source
        assert room is not None
        pack = self._from_last if self.layout == NHWC else self._from_planes
        return [pack(device, source, room)], room

    def _from_last(self, device: Device, source: Memory, room: Memory) -> Run:
        whole = self.channels % PACKS[0] == 0 and pack_of(source) == PACKS[0]
        arguments: list[Argument] = [np.int64(self.count), np.int32(self.channels), *divisor(self.pieces)]
        arguments += [np.bool_(whole), source, room]
        return Launch.of(device, FROM_LAST[self.math], (blocks_for(device, self.count, 1),), arguments)

    def _from_planes(self, device: Device, source: Memory, room: Memory) -> Run:
        deep = pieces(self.group_pitch, TURNED_CHANNELS)
        blocks = deep * self.groups * pieces(self.plane, TURNED_CELLS) * self.images
        sizes = (self.groups, self.channels, self.pieces, self.plane)
        arguments: list[Argument] = [*map(np.int32, sizes), source, room]
        return Launch.of(device, FROM_PLANES[self.math], (blocks,), arguments)


def readings(
    math: str, images: int, groups: int, channels: int, plane: int, layout: str
) -> tuple[Reading, ...]:
    """The ways to read a side's images: as they lie, where they are whole pieces of floats, and packed."""
    packed = Reading(math, images, groups, channels, plane, layout, packed=True)
    if layout != NHWC or channels % PIECE["float"]:
        return (packed,)
    return replace(packed, packed=False), packed


def pays_to_pack(math: str, shape: ConvShape) -> bool:
    """Whether images that could be read as they lie should be packed: where half as many bytes are read for
    every tap."""
    return math != "tf32" and shape.taps > 1
