"""The bytes of an open file as a message that can be walked: what the walk steps over is never read."""

from __future__ import annotations

from typing import BinaryIO, Final

from netc.schema.wire import WireError

PAGE: Final = 4096


class FileBytes:
    """A part of a file, from `offset` on; indices count from there. Bytes are read a page at a time."""

    def __init__(self, file: BinaryIO, offset: int, size: int) -> None:
        self.offset = offset
        self._file = file
        self._size = size
        self._page_at = 0
        self._page = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int, /) -> int:
        """One byte. Raises WireError where the file has become shorter."""
        at = index - self._page_at
        if not 0 <= at < len(self._page):
            self._page_at, at = index, 0
            self._page = self.read(index, min(index + PAGE, self._size))
        return self._page[at]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`. Raises WireError where the file has become shorter."""
        self._file.seek(self.offset + start)
        content = self._file.read(stop - start)
        if len(content) < stop - start:
            raise WireError("it is being written to")
        return content

    def part(self, start: int, stop: int) -> FileBytes:
        """The bytes from `start` to `stop` by themselves."""
        return FileBytes(self._file, self.offset + start, stop - start)
