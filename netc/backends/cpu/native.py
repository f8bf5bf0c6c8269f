"""Pieces of work that are native calls run one after the other, or dealt to threads, as one call from Python.

A piece's addresses and arguments are all known when it is bound (loops/native_job.py): a primitive, a product
of matrices, a loop. What makes the calls is a loop itself (loops/native.py), so all this needs numba.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from netc.backends.cpu.loops import BoundLoop, Loop, compiled, openmp
from netc.backends.cpu.loops.native_job import DEALT, LOOP, SEQUENCE, SHARES, TEAM
from netc.backends.cpu.native_calls import Call, Native, address_of, records_of
from netc.backends.form import Run


class NativeLoop(Native):
    """A loop on its job."""

    __slots__ = ("_bound",)

    def __init__(self, bound: BoundLoop) -> None:
        self._bound = bound

    def __call__(self) -> None:
        self._bound()

    @property
    def calls(self) -> list[Call]:
        bound = self._bound
        loop, job = bound.loop.address, bound.job.ctypes.data
        if bound.threads == 1:
            return [(LOOP, loop, job)]
        return [(TEAM, address_of(openmp().GOMP_parallel), loop, job, bound.threads)]


class Chain(Native):
    """Native work in a row. Its calls are collected when it first runs: often it is part of a longer one,
    and never does."""

    __slots__ = ("_driver", "parts")

    def __init__(self, parts: Iterable[Native]) -> None:
        self.parts = tuple(parts)
        self._driver: Driver | None = None

    @property
    def calls(self) -> list[Call]:
        return [call for part in self.parts for call in part.calls]

    def __call__(self) -> None:
        if self._driver is None:
            self._driver = Driver(self.calls)
        if status := self._driver.run():
            self.fail(self._driver.failed, status)

    def fail(self, place: int, status: int) -> None:
        for part in self.parts:
            count = len(part.calls)
            if place < count:
                self.fail_in(part, place, status)
                return
            place -= count

    def fail_in(self, part: Native, place: int, status: int) -> None:
        """`fail` where the call belongs to this part."""
        part.fail(place, status)


class Dealt(Native):
    """Native work that is dealt to a team: every thread runs one of these chains, all at the same time.

    What they call must be for one thread: loops that were bound for one, primitives that were made for one.
    """

    __slots__ = ("_alone", "_loop", "_records", "_sequences", "_shares", "chains")

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.chains = tuple(chains)
        self._loop = compiled("native", "run_shares")
        self._records = [records_of(chain.calls) for chain in chains]
        self._sequences = np.concatenate([sequence_of(records) for records in self._records])
        self._shares = np.array([(self._sequences.ctypes.data, len(chains))], SHARES)
        self._alone: Chain | None = None

    def __call__(self) -> None:
        if self._alone is None:
            self._alone = Chain([self])
        self._alone()

    @property
    def calls(self) -> list[Call]:
        team, job = address_of(openmp().GOMP_parallel), self._shares.ctypes.data
        return [(DEALT, team, self._loop.address, job, len(self.chains))]

    def fail(self, place: int, status: int) -> None:
        for chain, sequence in zip(self.chains, self._sequences, strict=True):
            if sequence["status"]:
                chain.fail(int(sequence["failed"]), int(sequence["status"]))


class Driver:
    """What makes calls. run: does it, and gives the first status that is not 0, or 0."""

    __slots__ = ("_loop", "_records", "_sequence", "run")

    def __init__(self, calls: Sequence[Call]) -> None:
        self._loop: Loop = compiled("native", "run_calls")
        self._records = records_of(calls)
        self._sequence = sequence_of(self._records)
        function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._loop.address)
        self.run: Callable[[], int] = partial(function, ctypes.c_void_p(self._sequence.ctypes.data))

    @property
    def failed(self) -> int:
        """The place of the call with that status."""
        return int(self._sequence["failed"][0])


def sequence_of(records: np.ndarray) -> np.ndarray:
    """The SEQUENCE of records, which does not keep them."""
    return np.array([(records.ctypes.data, len(records), 0, 0)], SEQUENCE)


def native(run: Run) -> Native | None:
    """The same as native work; None where it is other work."""
    if isinstance(run, BoundLoop):
        return NativeLoop(run)
    return run if isinstance(run, Native) else None


def chained(runs: Iterable[Run]) -> list[Run]:
    """The same work in fewer runs: native ones that follow one another are one, where that can be."""
    found: list[Run] = []
    pairs = [(run, native(run)) for run in runs]
    for is_native, neighbours in groupby(pairs, lambda pair: pair[1] is not None):
        row = list(neighbours)
        if is_native and len(row) > 1 and can_chain():
            found.append(Chain([work for _, work in row if work is not None]))
        else:
            found += [run for run, _ in row]
    return found


def dealt(shares: Sequence[Sequence[Run]]) -> Run:
    """Work that is all native, a thread for each of the shares."""
    chains = [Chain([part for run in share if (part := native(run)) is not None]) for share in shares]
    assert all(len(chain.parts) == len(share) for chain, share in zip(chains, shares, strict=True))
    return chains[0] if len(chains) == 1 else Dealt(chains)


def can_chain() -> bool:
    """Whether there is what makes native calls."""
    try:
        compiled("native", "run_calls")
    except (ImportError, OSError):
        return False
    return True
