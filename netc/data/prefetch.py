"""Reads ahead: a bounded number of batches, read in order, built in threads, handed out in order."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from netc.cores import cores_allowed
from netc.data.bad_records import BadRecord, BadRecords
from netc.data.raw_images import RawBatch, RawImages
from netc.data.source import Allocate, Shape, Source, TopSpec

DEFAULT_PREFETCH = 4  # batches ahead of the net, Caffe's data_param.prefetch
MOST_WORKERS = 4


class ArrayPool:
    """Arrays that are used again from batch to batch; safe from any thread."""

    def __init__(self, most: int, allocate_raw: Allocate | None = None) -> None:
        """allocate_raw: where raw batches lie, None where batches are wanted finished."""
        self.allocate_raw = allocate_raw
        self._most = most
        self._free: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: Shape) -> np.ndarray:
        """A float32 array of this shape with whatever it held before."""
        free = self._take_free(shape, np.float32)
        return np.empty(shape, np.float32) if free is None else free

    def take_raw(self, nbytes: int) -> np.ndarray:
        """The memory of a raw batch, with whatever it held before."""
        assert self.allocate_raw is not None
        free = self._take_free((nbytes,), np.uint8)
        return self.allocate_raw(nbytes) if free is None else free

    def _take_free(self, shape: Shape, dtype: type[np.generic]) -> np.ndarray | None:
        with self._lock:
            for i, array in enumerate(self._free):
                if array.shape == shape and array.dtype == dtype:
                    return self._free.pop(i)
        return None

    def give(self, arrays: Sequence[np.ndarray]) -> None:
        with self._lock:
            self._free.extend(arrays)
            del self._free[: max(0, len(self._free) - self._most)]


@dataclass
class Batch:
    """One batch, and the records of it that did not decode.

    arrays: of its tops, or the memory of what is raw.
    """

    arrays: list[np.ndarray]
    bad: list[BadRecord] = field(default_factory=list)
    raw: RawBatch | None = None


class Feed(Protocol):
    """Where batches come from. Positions are whole numbers that grow; what they count is the feed's own
    matter."""

    shapes: tuple[Shape, ...] | None  # of every batch, None where they vary
    raw: RawImages | None  # what it builds where the pool asks for raw batches; None: finished ones only
    bad_records: BadRecords

    def first(self) -> int:
        """The position of the first batch of a run."""
        ...

    def read(self, position: int) -> tuple[Any, int]:
        """The raw material of the batch at `position`, and the position after it. One call at a time."""
        ...

    def build(self, material: Any, pool: ArrayPool) -> Batch:
        """The batch itself, raw where the pool asks for that and it can be.

        Called by several threads at once.
        """
        ...

    def interrupt(self) -> None:
        """The feed is about to be closed: a `read` that waits in another thread raises."""
        ...

    def close(self) -> None:
        """Ends what the feed started; nobody is reading any more."""
        ...


@dataclass
class _Outcome:
    """What became of one batch."""

    after: int
    batch: Batch | None = None
    error: BaseException | None = None


class _Pipeline:
    """The threads, and the batches between them and the consumer. Knows the feed but not the source, so that
    a source that is dropped without `close()` can be collected (and then closes this)."""

    def __init__(self, feed: Feed, depth: int, workers: int) -> None:
        self.feed = feed
        self._depth = depth
        self.build_raw(None)
        self._workers = workers
        self._reading = threading.Lock()  # held while reading: keeps the order
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._stopping = False
        self._reset(0)

    def _reset(self, position: int) -> None:
        self._position = position  # of the next read
        self._issued = 0  # tickets given to threads
        self._delivered = 0  # tickets handed to the consumer
        self._done: dict[int, _Outcome] = {}
        self._failed = False

    def build_raw(self, allocate: Allocate | None) -> None:
        """From the next start on batches are raw where they can be, in memory of `allocate`, or finished."""
        self.pool = ArrayPool(2 * (self._depth + 2), allocate)

    def start(self, position: int) -> None:
        self._reset(position)
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"netc-data-{i}", daemon=True)
            for i in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends the threads once they have finished the batch in hand."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            # The collector may find a dropped source while one of its own threads runs.
            if thread is not threading.current_thread():
                thread.join()
        self._threads = []

    def close(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.feed.interrupt()
        self.stop()
        self.feed.close()

    @property
    def running(self) -> bool:
        return bool(self._threads)

    def head(self) -> _Outcome:
        """The next batch in order; waits for it. Raises what its thread raised."""
        with self._changed:
            self._changed.wait_for(lambda: self._delivered in self._done)
            outcome = self._done[self._delivered]
        if outcome.error is not None:
            raise outcome.error
        return outcome

    def ready(self) -> _Outcome | None:
        """The next batch in order, or the error in its place, where it is there already."""
        with self._changed:
            return self._done.get(self._delivered)

    def advance(self) -> None:
        """The head has been delivered."""
        with self._changed:
            del self._done[self._delivered]
            self._delivered += 1
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._reading:
                if not self._wait_for_room():
                    return
                ticket, position = self._issued, self._position
                self._issued += 1
                try:
                    material, after = self.feed.read(position)
                except BaseException as error:
                    self._failed = True
                    self._finish(ticket, _Outcome(position, error=error))
                    return
                self._position = after
            try:
                outcome = _Outcome(after, batch=self.feed.build(material, self.pool))
            except BaseException as error:
                outcome = _Outcome(after, error=error)
            self._finish(ticket, outcome)

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or self._failed or self._issued - self._delivered < self._depth
            )
            return not (self._stopping or self._failed)

    def _finish(self, ticket: int, outcome: _Outcome) -> None:
        with self._changed:
            self._done[ticket] = outcome
            self._changed.notify_all()


class PrefetchedSource(Source):
    """A source over a feed. Threads start with the first question for data."""

    def __init__(self, feed: Feed, *, prefetch: int = DEFAULT_PREFETCH, workers: int | None = None) -> None:
        """prefetch: batches ahead; workers: threads that build them (default: by cores)."""
        depth = max(1, prefetch)
        workers = workers or min(MOST_WORKERS, cores_allowed())
        self._pipeline = _Pipeline(feed, depth, min(depth, workers))
        self._finalizer = weakref.finalize(self, self._pipeline.close)
        self._after = feed.first()
        self._lent: list[np.ndarray] = []
        self._raw = False  # whether batches are built raw where they can be
        self.varies = feed.shapes is None
        self._fixed_tops = tuple(TopSpec(shape) for shape in feed.shapes or ())
        self.raw = feed.raw
        self.waited_s = 0.0

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        if not self.varies:
            return self._fixed_tops
        batch = self._head().batch
        assert batch is not None
        return tuple(TopSpec(array.shape) for array in batch.arrays)

    def next(self) -> list[np.ndarray]:
        self._build_raw(None)
        return list(self._next().arrays)

    def next_raw(self, allocate: Allocate) -> RawBatch | list[np.ndarray]:
        self._build_raw(allocate)
        batch = self._next()
        return batch.raw or list(batch.arrays)

    def raw_ahead(self) -> RawBatch | None:
        outcome = self._pipeline.ready() if self._pipeline.running else None
        return outcome.batch.raw if outcome and outcome.batch else None

    def _build_raw(self, allocate: Allocate | None) -> None:
        """Begins anew behind the last delivered batch where the other kind has been read ahead."""
        raw = allocate is not None and self.raw is not None
        if raw != self._raw:
            self._pipeline.stop()
            self._pipeline.build_raw(allocate)
            self._raw = raw

    def _next(self) -> Batch:
        outcome = self._head()
        assert outcome.batch is not None
        pipeline = self._pipeline
        pipeline.feed.bad_records.report(outcome.batch.bad)
        pipeline.advance()
        pipeline.pool.give(self._lent)
        self._lent = outcome.batch.arrays
        self._after = outcome.after
        return outcome.batch

    def state(self) -> dict[str, Any]:
        return {"position": self._after}

    def restore(self, state: dict[str, Any]) -> None:
        self._pipeline.stop()
        self._after = int(state["position"])

    def close(self) -> None:
        self._finalizer()

    def _head(self) -> _Outcome:
        if not self._finalizer.alive:
            raise RuntimeError("this data source is closed")
        if not self._pipeline.running:
            self._pipeline.start(self._after)
        start = time.perf_counter()
        try:
            return self._pipeline.head()
        finally:
            self.waited_s += time.perf_counter() - start
