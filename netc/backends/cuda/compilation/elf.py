"""Reads the sections and symbols of ELF files: kernels' shared libraries and cubins."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from netc.errors import NetcError

WRITABLE, IN_MEMORY = 0x1, 0x2  # section flags
OBJECT, FUNCTION = 1, 2  # symbol types
LOCAL = 0  # symbol binding
SYMBOL_TABLE = 2  # section type


@dataclass(frozen=True)
class Section:
    """A section: its address when loaded, and where its bytes lie in the file."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class Symbol:
    """A symbol of the full symbol table."""

    name: str
    type: int
    binding: int
    address: int
    size: int


class Elf:
    """A 64-bit little-endian ELF file. Raises NetcError where it is none."""

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            raise NetcError("this is not a 64-bit ELF file", at=str(path))
        (table,) = struct.unpack_from("<Q", data, 0x28)
        size, count, names = struct.unpack_from("<HHH", data, 0x3A)
        raw = [struct.unpack_from("<IIQQQQI", data, table + size * i) for i in range(count)]
        names_offset = raw[names][4]
        self.sections = [
            Section(_text(data, names_offset + name), kind, flags, address, offset, length, link)
            for name, kind, flags, address, offset, length, link in raw
        ]
        self.symbols = [
            symbol
            for section in self.sections
            if section.type == SYMBOL_TABLE
            for symbol in self._symbols_of(data, section)
        ]

    def _symbols_of(self, data: bytes, section: Section) -> list[Symbol]:
        names = self.sections[section.link].offset
        rows = struct.iter_unpack("<IBBHQQ", data[section.offset : section.offset + section.size])
        return [
            Symbol(_text(data, names + name), info & 15, info >> 4, address, size)
            for name, info, _, _, address, size in rows
        ]


def _text(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()
