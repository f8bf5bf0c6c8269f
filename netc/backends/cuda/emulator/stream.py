"""The order of an emulated device's work, and moments in it.

A device does its work at once, in the thread that asks for it, until a piece must wait for another device:
that piece and all after it then wait in line, as they would on a GPU's stream, while the thread goes on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from netc.backends.cuda.device import Event

Work = Callable[[], object]

NOT_YET = object()  # what a piece of work returns where it must be asked again
AWAKE_SECONDS = 0.01  # how long a thread sleeps before it looks again, at most
MOVED = threading.Condition()  # told when something has happened that other devices may wait for


def pause() -> None:
    """Lets other threads work for a moment."""
    with MOVED:
        MOVED.wait(AWAKE_SECONDS)


def tell() -> None:
    """Wakes the threads that wait for other devices."""
    with MOVED:
        MOVED.notify_all()


class Stream:
    """The work of one device, in the order in which it was asked for. Any thread may ask."""

    def __init__(self) -> None:
        self._line: deque[Work] = deque()
        self._lock = threading.RLock()
        self._running = False
        self.failure: BaseException | None = None
        self.failures = 0

    def do(self, work: Work) -> None:
        """Does a piece of work after all before it: now, where nothing has to wait.

        Where one fails, those in line after it are dropped.
        """
        with self._lock:
            if self._running:  # a part of a piece, such as a kernel that a function of `xp` launches
                work()
            elif not self._advance() or self._run(work) is NOT_YET:
                self._line.append(work)

    def advance(self) -> bool:
        """Does what can be done now; whether that was all. False too while another thread is at it.

        Within a piece of work, all before it is done.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._running or self._advance()
        finally:
            self._lock.release()

    def finish(self) -> None:
        """Returns when all work asked for is done."""
        while not self.advance():
            pause()

    def drop(self) -> None:
        """Forgets what is in line."""
        with self._lock:
            self._line.clear()

    def _advance(self) -> bool:
        while self._line:
            if self._run(self._line[0]) is NOT_YET:
                return False
            self._line.popleft()
        return True

    def _run(self, work: Work) -> object:
        self._running = True
        try:
            return work()
        except BaseException as error:
            if self._line:
                self.failure, self.failures = error, self.failures + 1
                self._line.clear()
            raise
        finally:
            self._running = False


class EmulatedEvent(Event):
    """The end of a copy, or of nothing. As nobody may rely on a copy earlier, it is made when waited for."""

    def __init__(
        self,
        copy: Callable[[], None] | None = None,
        before: EmulatedEvent | None = None,
        after: Event | None = None,
    ) -> None:
        """before: the end of the copy asked for before this one; after: what the copy itself waits for."""
        self._copy = copy
        self._earlier = [event for event in (before, after) if isinstance(event, EmulatedEvent)]

    def has_come(self) -> bool:
        """Whether it has come, or could be made to come without waiting."""
        while self._earlier:
            if not self._earlier[0].has_come():
                return False
            self._earlier.pop(0)
        copy, self._copy = self._copy, None
        if copy is not None:
            copy()
        return True

    def wait(self) -> None:
        while not self.has_come():
            pause()


class Moment(EmulatedEvent):
    """A place in a stream: all work asked for so far is done."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream, self._passed, self._failures = stream, False, stream.failures
        stream.do(self._pass)

    def _pass(self) -> None:
        self._passed = True

    def has_come(self) -> bool:
        if not self._passed:
            self._stream.advance()
            dropped = self._stream.failures != self._failures  # asked for before whether it is passed
            if dropped and not self._passed:
                assert self._stream.failure is not None
                raise self._stream.failure
        return self._passed
