"""A compiled kernel in this process: its entry, its shared variables, its constants, its source lines."""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from netc.backends.cuda.compilation.elf import IN_MEMORY, OBJECT, WRITABLE, Elf
from netc.errors import Location

LOCAL_STATIC = "_ZZ"  # how the mangled names of a function's static variables begin
RED_ZONE = "emu_red_zone_"
FRAME = re.compile(r"^(?P<file>.*?):(?P<line>\d+)")


@dataclass(frozen=True)
class SharedVariable:
    """A static shared variable, where it lies in this process."""

    name: str
    address: int
    nbytes: int


class KernelLibrary:
    """The shared library of one kernel. `parameters`: a letter for each, as csrc/entry.h gives them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self.entry: int = ctypes.cast(self._library.emu_entry, ctypes.c_void_p).value or 0
        self._library.emu_parameters.restype = ctypes.c_char_p
        self.parameters: str = self._library.emu_parameters().decode()
        elf = Elf(path)
        self.base = self.entry - next(s.address for s in elf.symbols if s.name == "emu_entry")
        self.shared = [
            SharedVariable(_variable_name(symbol.name), self.base + symbol.address, symbol.size)
            for symbol in elf.symbols
            if symbol.name.startswith(LOCAL_STATIC)
            and symbol.type == OBJECT
            and RED_ZONE not in symbol.name
            and not _is_constant(elf, symbol.address)
        ]
        self.constants = [
            (self.base + section.address, self.base + section.address + section.size)
            for section in elf.sections
            if section.flags & IN_MEMORY and not section.flags & WRITABLE
        ]

    @property
    def static_shared_bytes(self) -> int:
        return sum(variable.nbytes for variable in self.shared)

    def source_lines(self, addresses: Iterable[int]) -> dict[int, Location]:
        """The source line of each return address: the kernel file's where a header was inlined there."""
        wanted = sorted(set(addresses))
        offsets = [hex(address - 1 - self.base) for address in wanted]
        command = ["addr2line", "-a", "-i", "-e", str(self.path), *offsets]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError:  # without binutils the finding still says which kernel and thread
            return {}
        # Each address is followed by its frames, the innermost first.
        groups = re.split(r"^0x[0-9a-f]+\n", output, flags=re.MULTILINE)[1:]
        places = {address: _place(group) for address, group in zip(wanted, groups, strict=False)}
        return {address: place for address, place in places.items() if place is not None}


def _is_constant(elf: Elf, address: int) -> bool:
    return any(
        section.address <= address < section.address + section.size and not section.flags & WRITABLE
        for section in elf.sections
        if section.flags & IN_MEMORY
    )


def _place(frames: str) -> Location | None:
    known = [match for line in frames.splitlines() if (match := FRAME.match(line)) and match["file"] != "??"]
    kernel_lines = [match for match in known if match["file"].endswith(".cu")]
    chosen = next(iter(kernel_lines or known), None)
    return Location(chosen["file"], int(chosen["line"])) if chosen else None


def _variable_name(symbol: str) -> str:
    """The plain name of a static variable, from its mangled one: the last <length><name> in it."""
    name = "memory"
    for match in re.finditer(r"\d+", symbol):
        candidate = symbol[match.end() : match.end() + int(match[0])]
        if candidate.isidentifier() and len(candidate) == int(match[0]):
            name = candidate
    return f"shared {name}"
