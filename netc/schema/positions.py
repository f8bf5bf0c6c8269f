"""Where each field of a message stands in the file it was read from."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from netc.errors import Location

Path = tuple[str | int, ...]


class Lines:
    """Turns offsets into a text into lines and columns; both count from 1."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self.starts = [0]
        start = text.find("\n") + 1
        while start:
            self.starts.append(start)
            start = text.find("\n", start) + 1

    def location(self, offset: int) -> Location:
        line = bisect_right(self.starts, offset)
        return Location(self.file, line, offset - self.starts[line - 1] + 1)


class Positions:
    """The places of a message's fields, by path: `("layer", 3, "convolution_param", "kernel_size", 0)`.

    A repeated field takes its index, a message its own name. A position is where the field's name begins, or
    the value for one after the first in a list. The whole, at the empty path, stands at the text's beginning.
    """

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._offsets: dict[Path, int] = {}

    @classmethod
    def unknown(cls, file: str) -> Positions:
        """No positions: for a message that was not read from text. Every path is at `file`."""
        return cls(Lines("", file))

    @property
    def file(self) -> str:
        return self._lines.file

    def record(self, path: Path, offset: int) -> None:
        self._offsets[path] = offset

    def at(self, *path: str | int) -> Location:
        """The place of the field at `path`, or of the nearest message around it that has one, or the file."""
        for length in range(len(path), -1, -1):
            offset = self._offsets.get(path[:length])
            if offset is not None:
                return self._lines.location(offset)
        return Location(self.file)

    def below(self, *path: str | int) -> Positions:
        """The positions of the message at `path`, as if it were the whole."""
        inner = Positions(self._lines)
        for known, offset in self._under(path):
            inner._offsets[known[len(path) :]] = offset
        return inner

    def insert(self, path: Path, index: int, origin: Path) -> None:
        """Makes room for a new element `index` of the repeated field `path`, which came from `origin`."""
        offset = self._offsets.get(origin)
        shifted: dict[Path, int] = {}
        for known, place in self._under(path):
            position = known[len(path)] if len(known) > len(path) else None
            if isinstance(position, int) and position >= index:
                del self._offsets[known]
                shifted[(*path, position + 1, *known[len(path) + 1 :])] = place
        self._offsets.update(shifted)
        if offset is not None:
            self._offsets[(*path, index)] = offset

    def copy(self, origin: Path, path: Path) -> None:
        """Gives the field at `path` the place of the one at `origin`, where that is known."""
        if origin in self._offsets:
            self._offsets[path] = self._offsets[origin]

    def rename(self, change: Callable[[Path], Path | None]) -> None:
        """Moves every place to the path that `change` gives for its own; None forgets it.

        Of two places that come to one path the first stays.
        """
        renamed: dict[Path, int] = {}
        for path, offset in self._offsets.items():
            new_path = change(path)
            if new_path is not None:
                renamed.setdefault(new_path, offset)
        self._offsets = renamed

    def _under(self, path: Path) -> list[tuple[Path, int]]:
        return [(known, offset) for known, offset in self._offsets.items() if known[: len(path)] == path]
