"""Records of a database, read by a program whose death is an error and not the end of this process."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from netc.data import reader_program
from netc.data.database import MARKS, Database
from netc.data.reader_program import ANSWER, FAILED, REQUEST, UNKNOWN
from netc.data.source import Origin
from netc.errors import NetcError

PIPE_BYTES = 1 << 20
MOST_SLACK = 1 << 16  # bytes of a buffer that may lie idle, beyond half of it
MOST_ANSWER_BYTES = 1 << 36
DAMAGE_SIGNALS = {signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}


class RecordBlock:
    """Records in one buffer. `data`: uint8; record i is `data[starts[i]:ends[i]]`.

    `release()` gives the buffer back for another block; nothing may look at the records after it.
    """

    def __init__(self, count: int, body: np.ndarray, buffers: list[np.ndarray]) -> None:
        self._buffers = buffers
        lengths = body[: 8 * count].view(np.uint32).astype(np.int64)
        edges = 8 * count + np.concatenate(([0], np.cumsum(lengths)))
        self._key_edges = edges[: count + 1]
        self.data = body
        self.starts = edges[count:-1]
        self.ends = edges[count + 1 :]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.data[self.starts[i] : self.ends[i]]

    def release(self) -> None:
        self._buffers.append(self.data)

    def key(self, i: int) -> str:
        raw = self.data[self._key_edges[i] : self._key_edges[i + 1]].tobytes()
        return raw.decode("utf-8", "backslashreplace")


class RecordReader:
    """Reads a database in key order, epoch after epoch; asks for the next block while one is in use."""

    def __init__(self, database: Database, origin: Origin) -> None:
        """Raises NetcError where the database is empty or cannot be opened."""
        self._database = database
        self._origin = origin
        self._pending: tuple[int, int, int] | None = None
        self._closing = False
        self._buffers: list[np.ndarray] = []
        try:
            self._program = _start(database)
        except OSError as error:
            raise origin.error(
                f"the program that reads {database.folder} cannot be started: {error.strerror}",
                found=f"Python: {sys.executable or 'unknown'}",
                remedy="check the limits on processes and open files",
            ) from error
        try:
            entries, _ = self._receive()
        except BaseException:
            self.close()
            raise
        self.entries: int | None = entries if entries != UNKNOWN else None

    def read(self, position: int, count: int, step: int = 1, *, ahead: bool = True) -> RecordBlock:
        """The `count` records at `position`, `position + step`, ... of the endless sequence of epochs.

        Raises NetcError where the database turns out to be damaged.
        """
        wanted = (position, count, step)
        if self._pending and self._pending != wanted:
            self._receive()
            self._pending = None
        if self._pending is None:
            self._ask(wanted)
        block = RecordBlock(*self._receive(), self._buffers)
        self._pending = None
        if ahead:
            self._ask((position + count * step, count, step))
        return block

    def count(self) -> int:
        """The number of records; a LevelDB has to be walked through for it."""
        if self.entries is None:
            if self._pending:
                self._receive()
            self._ask((UNKNOWN, 0, 0))
            self.entries, _ = self._receive()
            self._pending = None
        return self.entries

    def interrupt(self) -> None:
        """Ends the program, from any thread: a `read` under way raises NetcError."""
        self._closing = True
        self._program.kill()
        self._program.wait()

    def close(self) -> None:
        self.interrupt()
        for pipe in (self._program.stdin, self._program.stdout, self._program.stderr):
            if pipe:
                pipe.close()

    def _ask(self, wanted: tuple[int, int, int]) -> None:
        assert self._program.stdin
        try:
            self._program.stdin.write(REQUEST.pack(*wanted))
        except OSError as error:
            raise self._death() from error
        self._pending = wanted

    def _receive(self) -> tuple[int, np.ndarray]:
        status, count, size = ANSWER.unpack(self._fill(np.empty(ANSWER.size, np.uint8)).tobytes())
        if size > MOST_ANSWER_BYTES:
            raise self._death()
        body = self._fill(self._buffer(size))
        if status == FAILED:
            raise self._damaged(body.tobytes().decode("utf-8", "replace"))
        return count, body

    def _fill(self, data: np.ndarray) -> np.ndarray:
        """Reads as many bytes as `data` has into it."""
        assert self._program.stdout
        view, filled = data.data, 0
        while filled < data.size:
            got = self._program.stdout.readinto(view[filled:])  # type: ignore[attr-defined]
            if not got:
                raise self._death()
            filled += got
        return data

    def _buffer(self, size: int) -> np.ndarray:
        """`size` bytes of a released block that is large enough, else new ones (fresh pages cost time)."""
        with contextlib.suppress(IndexError):
            whole = self._buffers.pop()
            whole = whole if whole.base is None else whole.base
            if size <= len(whole) <= 2 * size + MOST_SLACK:
                return whole[:size]
        return np.empty(size, np.uint8)

    def _damaged(self, found: str) -> NetcError:
        return self._origin.error(
            f"the {self._database.kind} database {self._database.folder} cannot be read",
            "data_param",
            "source",
            found=found,
            remedy="copy the database again, or make it again with netc convert_imageset",
        )

    def _death(self) -> NetcError:
        """What to say of a program that ended before its time."""
        if self._closing:
            return NetcError(f"{self._database.folder} was closed while it was read")
        self._program.kill()
        code = self._program.wait()
        if -code in DAMAGE_SIGNALS:
            return self._damaged(f"damaged pages: its reader was stopped by {signal.Signals(-code).name}")
        stderr = self._program.stderr.read() if self._program.stderr else b""
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or [f"exit status {code}"]
        if code < 0:
            last = [f"its reader was stopped by {signal.Signals(-code).name} (is there enough memory?)"]
        return self._damaged(last[0])


def _start(database: Database) -> subprocess.Popen[bytes]:
    spec = importlib.util.find_spec(MARKS[database.kind][1])
    assert spec
    assert spec.origin
    packages = os.path.dirname(os.path.dirname(spec.origin))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", reader_program.__file__, database.kind, database.folder, packages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        pipesize=PIPE_BYTES,
        start_new_session=True,  # a Ctrl-C at the terminal is for us, not for the reader
    )


def read_all(reader: RecordReader, block: int) -> Iterator[RecordBlock]:
    """Every record once, in key order, in blocks of at most `block`."""
    entries = reader.count()
    for position in range(0, entries, block):
        yield reader.read(position, min(block, entries - position), ahead=position + 2 * block <= entries)
