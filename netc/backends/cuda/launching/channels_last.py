"""How arrays (rows, channels) are dealt out to threads: kernels/channels_last.cuh's other half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from netc.backends.cuda.launching.elementwise import PACKS, THREADS

LANES: Final = (32, 16, 8, 4, 2, 1)  # of a line
REDUCING_BLOCKS: Final = 4  # of a processor, which leave sums to be added up
SWEEPING_BLOCKS: Final = 16  # of a processor, which leave none
LEAST_LANES: Final = 8  # of a line, where there are as many packs: 128 bytes are one line of memory


@dataclass(frozen=True)
class Columns:
    """pack: the channels of a thread; lanes: the threads of a line; tiles: how many lines side by side."""

    pack: int
    lanes: int
    tiles: int

    @classmethod
    def of(cls, channels: int, pack: int = PACKS[0]) -> Columns:
        """Of so many channels; `pack` is taken where it divides them. As few threads as can be stay idle."""
        pack = pack if channels % pack == 0 else PACKS[1]
        packs = channels // pack
        widths = [lanes for lanes in LANES if lanes >= min(LEAST_LANES, packs)]
        lanes = min(widths, key=lambda lanes: -(-packs // lanes) * lanes)
        return cls(pack, lanes, -(-packs // lanes))

    @property
    def lines(self) -> int:
        """The rows that a block takes at a time."""
        return THREADS // self.lanes

    def shares(self, processors: int, rows: int, blocks: int, least: int = 1) -> int:
        """In how many shares of the rows every processor has so many blocks, or each takes the least of steps
        that are worth a block."""
        return max(1, min(-(-blocks * processors // self.tiles), rows // (self.lines * least)))
