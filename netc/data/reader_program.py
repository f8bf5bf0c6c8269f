"""A program that reads an LMDB or a LevelDB for its parent, because a damaged LMDB kills whoever reads it.

Run as `python -I -S reader_program.py KIND FOLDER PACKAGES`; it imports nothing but the database's own module
from the folder PACKAGES, so that it starts fast, and ends when its standard input closes, so that it never
outlives its parent.

Requests on standard input: REQUEST (position, count, step): the records at position, position + step, ... of
the endless sequence of epochs, in key order; (UNKNOWN, 0, 0): the number of records. Answers on standard
output: ANSWER (status, records, bytes), then for status OK the key lengths, the value lengths (32 bits each),
the keys and the values; for status FAILED a message. The first answer, sent without a request, has the number
of records (UNKNOWN for a LevelDB, which does not keep it) and no bytes.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from array import array
from collections import deque
from itertools import islice
from typing import Any

REQUEST = struct.Struct("<QQQ")
ANSWER = struct.Struct("<BQQ")
OK, FAILED = 0, 1
UNKNOWN = (1 << 64) - 1
MOST_PIECES = min(1024, os.sysconf("SC_IOV_MAX"))
SMALL_VALUE = 8192  # bytes; values that are smaller on average are joined before they are written


class Damaged(Exception):
    """The database contradicts itself."""


class LmdbCursor:
    """Walks an LMDB in key order."""

    def __init__(self, folder: str) -> None:
        import lmdb

        # No lock file: readers of a finished database need none, and it may lie where nobody can write.
        self._env = lmdb.open(folder, readonly=True, lock=False, readahead=True, create=False)
        self._transaction = self._env.begin(buffers=True)
        self._cursor = self._transaction.cursor()
        self.entries: int = self._transaction.stat()["entries"]

    def first(self) -> bool:
        return bool(self._cursor.first())

    def next(self) -> bool:
        return bool(self._cursor.next())

    def key(self) -> bytes:
        return bytes(self._cursor.key())

    def value(self) -> Any:
        return self._cursor.value()


class LevelDbCursor:
    """Walks a LevelDB in key order."""

    entries = UNKNOWN

    def __init__(self, folder: str) -> None:
        import plyvel

        self._db = plyvel.DB(folder, create_if_missing=False, max_open_files=100, paranoid_checks=True)
        self._iterator = self._db.raw_iterator(verify_checksums=True)

    def first(self) -> bool:
        self._iterator.seek_to_first()
        return bool(self._iterator.valid())

    def next(self) -> bool:
        self._iterator.next()
        return bool(self._iterator.valid())

    def key(self) -> bytes:
        return bytes(self._iterator.key())

    def value(self) -> Any:
        return self._iterator.value()


CURSORS = {"lmdb": LmdbCursor, "leveldb": LevelDbCursor}


class Walker:
    """A cursor in an endless sequence of epochs."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.entries = cursor.entries
        self._rewind(0)

    def _rewind(self, position: int) -> None:
        """To the first record, which stands at `position`, a whole number of epochs."""
        if not self._cursor.first():
            raise Damaged("the database is empty")
        self._at, self._index, self._key = position, 0, self._cursor.key()

    def _step(self) -> None:
        if self._cursor.next():
            key = self._cursor.key()
            if key <= self._key:  # a loop of pages would otherwise go on for ever
                raise Damaged(f"record {key!r} comes after {self._key!r}")
            self._at, self._index, self._key = self._at + 1, self._index + 1, key
            return
        if self.entries not in (UNKNOWN, self._index + 1):
            raise Damaged(f"it should have {self.entries} records and has {self._index + 1}")
        self.entries = self._index + 1
        self._rewind(self._at + 1)

    def go(self, position: int) -> None:
        """To the record at `position`, on from here or from the first record of its epoch."""
        start = position - position % self.entries if self.entries != UNKNOWN else 0
        if position < self._at or start > self._at:
            self._rewind(start)
        while self._at < position:
            learned = self.entries == UNKNOWN
            self._step()
            if learned and self.entries != UNKNOWN:
                self.go(position)

    def count(self) -> int:
        """The number of records, walking to the last one where the database does not keep it."""
        while self.entries == UNKNOWN:
            self._step()
        return self.entries

    def take(self, count: int, step: int) -> tuple[list[bytes], list[Any]]:
        """The keys and values of `count` records from here, `step` apart."""
        keys, values = [], []
        for _ in range(count):
            keys.append(self._key)
            values.append(self._cursor.value())
            for _ in range(step):
                self._step()
        return keys, values


def write_all(pieces: list[Any]) -> None:
    """Writes buffers one after another, without joining large ones."""
    waiting = deque(memoryview(piece) for piece in pieces if len(piece))
    while waiting:
        written = os.writev(1, list(islice(waiting, MOST_PIECES)))
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.popleft())
        if written:
            waiting[0] = waiting[0][written:]


def answer(keys: list[bytes], values: list[Any]) -> list[Any]:
    lengths = array("I", map(len, keys)).tobytes() + array("I", map(len, values)).tobytes()
    size = sum(map(len, values))
    if size < SMALL_VALUE * len(values):
        values = [b"".join(values)]
    pieces = [lengths, b"".join(keys), *values]
    return [ANSWER.pack(OK, len(keys), sum(map(len, pieces))), *pieces]


def serve(kind: str, folder: str) -> None:
    walker = Walker(CURSORS[kind](folder))
    write_all([ANSWER.pack(OK, walker.entries, 0)])
    while len(request := sys.stdin.buffer.read(REQUEST.size)) == REQUEST.size:
        position, count, step = REQUEST.unpack(request)
        if position == UNKNOWN:
            write_all([ANSWER.pack(OK, walker.count(), 0)])
            continue
        walker.go(position)
        write_all(answer(*walker.take(count, step)))


def main() -> int:
    kind, folder, packages = sys.argv[1:]
    sys.path.append(packages)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        serve(kind, folder)
    except BrokenPipeError:
        return 1  # the parent is gone
    except Exception as error:
        message = f"{type(error).__name__}: {error}".encode()
        try:
            write_all([ANSWER.pack(FAILED, 0, len(message)), message])
        except BrokenPipeError:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
