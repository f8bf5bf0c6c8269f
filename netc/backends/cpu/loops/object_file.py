"""From a compiler's object file, as ELF has them for x86-64, to the image of one of its functions."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from netc.backends.cpu.loops.image import Image, Slot

# Numbers of the ELF format.
PROGRAM, SYMBOLS, RELOCATIONS = 1, 2, 4  # types of sections
WRITABLE, IN_MEMORY = 0x1, 0x2  # flags of sections
UNDEFINED, COMMON = 0, 0xFFF2  # sections of symbols that are none
ADDRESS: Final = 1  # R_X86_64_64, the only kind of relocation in code that may lie anywhere

HEADER: Final = struct.Struct("<40xQ10x2H")  # the table of sections: where; the size of a row, their number
SECTION: Final = struct.Struct("<I I Q 8x Q Q I I Q 8x")
SYMBOL: Final = struct.Struct("<I B x H Q 8x")
RELOCATION: Final = struct.Struct("<Q I I q")


class Section(NamedTuple):
    """A section of the file; link, info: the numbers of sections that belong to it."""

    name: int
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


class Symbol(NamedTuple):
    """A name, and the section and the offset in it that it stands for."""

    name: str
    section: int
    offset: int


def image_of(content: bytes, function: str) -> Image:
    """The image of an object file whose code was made to lie anywhere.

    Raises ValueError where the file has what an image cannot: relocations of other kinds, data to write.
    """
    table, row, count = HEADER.unpack_from(content)
    sections = [Section(*SECTION.unpack_from(content, table + row * i)) for i in range(count)]
    code, places = _laid_out(content, sections)
    symbols = _symbols(content, sections)
    slots = [
        slot
        for section in sections
        if section.type == RELOCATIONS and section.info in places
        for slot in _slots(content, section, places, symbols)
    ]
    entry = next((symbol for symbol in symbols if symbol.name == function), None)
    if entry is None or entry.section not in places:
        raise ValueError(f"the object has no function {function}")
    return Image(bytes(code), places[entry.section] + entry.offset, tuple(slots))


def _laid_out(content: bytes, sections: list[Section]) -> tuple[bytearray, dict[int, int]]:
    """Code and constants one after the other, and where each of these sections begins. What unwinds stacks
    is left out: nothing that loops call raises."""
    code, places = bytearray(), {}
    for number, section in enumerate(sections):
        if section.type == PROGRAM and section.flags & (IN_MEMORY | WRITABLE) == IN_MEMORY:
            code += bytes(-len(code) % max(1, section.alignment))
            places[number] = len(code)
            code += content[section.offset : section.offset + section.size]
    return code, places


def _symbols(content: bytes, sections: list[Section]) -> list[Symbol]:
    table = next((section for section in sections if section.type == SYMBOLS), None)
    if table is None:
        raise ValueError("the object has no symbols")
    names = sections[table.link].offset
    rows = SYMBOL.iter_unpack(content[table.offset : table.offset + table.size])
    return [Symbol(_text(content, names + name), section, offset) for name, _, section, offset in rows]


def _slots(content: bytes, section: Section, places: dict[int, int], symbols: list[Symbol]) -> Iterator[Slot]:
    rows = RELOCATION.iter_unpack(content[section.offset : section.offset + section.size])
    for offset, kind, number, addend in rows:
        symbol = symbols[number]
        if kind != ADDRESS:
            raise ValueError(f"the object has a relocation of kind {kind}")
        offset += places[section.info]
        if symbol.section in (UNDEFINED, COMMON):
            yield Slot(offset, symbol.name, addend)
        elif symbol.section in places:
            yield Slot(offset, None, places[symbol.section] + symbol.offset + addend)
        else:
            raise ValueError(f"the object's code refers to data, {symbol.name}")


def _text(content: bytes, offset: int) -> str:
    return content[offset : content.index(b"\0", offset)].decode()
