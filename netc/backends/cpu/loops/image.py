"""The machine code of a loop: as a file that is whole or refused, and in memory, where it can be run."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

DIGEST_BYTES: Final = hashlib.sha256().digest_size
WORD: Final = struct.Struct("<Q")


class Slot(NamedTuple):
    """A place in the code that wants an address, in 8 bytes: that of a symbol, or of the code itself where
    there is none, and so many bytes on."""

    offset: int
    symbol: str | None
    addend: int


@dataclass(frozen=True)
class Image:
    """Machine code and constants as they lie in memory; entry: where its function begins."""

    code: bytes
    entry: int
    slots: tuple[Slot, ...]

    def packed(self) -> bytes:
        """What `unpacked` makes the same image of."""
        head = json.dumps({"entry": self.entry, "slots": self.slots}).encode() + b"\n"
        return hashlib.sha256(head + self.code).digest() + head + self.code


def unpacked(content: bytes) -> Image:
    """The image of what `packed` gave. Raises ValueError where anything has changed since."""
    digest, rest = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest:
        raise ValueError("it is damaged")
    head, _, code = rest.partition(b"\n")
    facts = json.loads(head)
    return Image(code, facts["entry"], tuple(Slot(*slot) for slot in facts["slots"]))


class MappedImage:
    """An image in memory that can be run and no longer be written; lives as long as this object.

    find: the address of a symbol. Raises what that raises, and OSError where the system refuses.
    """

    def __init__(self, image: Image, find: Callable[[str], int]) -> None:
        self._memory = mmap.mmap(-1, len(image.code), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        code = bytearray(image.code)
        for offset, symbol, addend in image.slots:
            origin = start if symbol is None else find(symbol)
            WORD.pack_into(code, offset, origin + addend)
        self._memory[:] = bytes(code)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        if protect(start, len(image.code), mmap.PROT_READ | mmap.PROT_EXEC):
            raise OSError(ctypes.get_errno(), "the system runs no code from memory")
        self.address = start + image.entry
