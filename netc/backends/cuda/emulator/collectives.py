"""Emulated devices that work together, and the errors of what would hang on GPUs.

Whichever rank is the last to come to a call does its work for all, summing in the order of the ranks: the
numbers do not depend on who came when.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.device import Memory
from netc.backends.cuda.device.collectives import Call, Collective
from netc.backends.cuda.emulator.device import EmulatedDevice
from netc.backends.cuda.emulator.stream import NOT_YET, tell
from netc.errors import NetcError

# What GPUs would do otherwise is wait for ever, or mix up their arrays.
ALIKE = "let every rank make the same calls in the same order"


class Meeting:
    """A call to which some ranks have come."""

    def __init__(self, number: int) -> None:
        self.number = number  # from 1
        self.since = time.monotonic()
        self.calls: dict[int, Call] = {}  # by rank
        self.memories: dict[int, Memory] = {}
        self.done = False

    def __str__(self) -> str:
        return "; ".join(f"rank {rank}: {call}" for rank, call in sorted(self.calls.items()))


class Group:
    """All ranks: who has come to which call, who has left, and the error that ended their work."""

    def __init__(self, devices: Sequence[EmulatedDevice], patience: float) -> None:
        self.devices, self.patience = devices, patience
        self._lock = threading.RLock()
        self._come = [0] * len(devices)  # how many calls each rank has come to
        self._left: set[int] = set()
        self._meetings: dict[int, Meeting] = {}
        self._failure: tuple[NetcError, BaseException | None] | None = None

    def check(self) -> None:
        """Raises NetcError where the work has ended with an error, a new one for each rank."""
        if self._failure is not None:
            error, cause = self._failure
            raise NetcError(
                error.what, expected=error.expected, found=error.found, remedy=error.remedy
            ) from cause

    def fail(self, error: NetcError, cause: BaseException | None = None) -> None:
        """Ends the work of all ranks; the first error counts."""
        with self._lock:
            self._failure = self._failure or (error, cause)
        tell()

    def meet(self, rank: int, call: Call, memory: Memory) -> Meeting:
        """A rank comes to its next call; where it is the last, the work is done.

        Raises NetcError where the ranks ask for different things.
        """
        with self._lock:
            self.check()
            self._come[rank] += 1
            number = self._come[rank]
            meeting = self._meetings.setdefault(number, Meeting(number))
            meeting.calls[rank], meeting.memories[rank] = call, memory
            self._look_for_mistakes(meeting)
            if len(meeting.calls) == len(self.devices):
                self._work(meeting, call)
                meeting.done = True
                del self._meetings[number]
        tell()
        return meeting

    def is_over(self, meeting: Meeting) -> bool:
        """Whether a call's work is done. Raises NetcError where it never will be."""
        with self._lock:
            if not meeting.done:
                self.check()
                if time.monotonic() - meeting.since > self.patience:
                    self._fail_for_absence(meeting, f"within {self.patience:g} s")
        return meeting.done

    def leave(self, rank: int) -> None:
        """A rank makes no further calls."""
        with self._lock:
            self._left.add(rank)
            for meeting in self._meetings.values():
                if rank not in meeting.calls and self._failure is None:
                    self._note_absence(meeting, "before it left")
        tell()

    def _look_for_mistakes(self, meeting: Meeting) -> None:
        if len(set(meeting.calls.values())) > 1:
            self._fail(
                NetcError(
                    f"the ranks ask for different things in call {meeting.number}",
                    expected="the same of all ranks",
                    found=str(meeting),
                    remedy=ALIKE,
                )
            )
        if self._left - meeting.calls.keys():
            self._fail_for_absence(meeting, "before it left")

    def _fail_for_absence(self, meeting: Meeting, until: str) -> None:
        self._note_absence(meeting, until)
        self.check()

    def _note_absence(self, meeting: Meeting, until: str) -> None:
        missing = [rank for rank in range(len(self.devices)) if rank not in meeting.calls]
        calls = [
            f"rank {rank} came to " + (f"call {come} last" if (come := self._come[rank]) else "no call")
            for rank in missing
        ]
        self.fail(
            NetcError(
                f"{_ranks(missing)} did not come to call {meeting.number} {until}",
                expected=f"every rank: {next(iter(meeting.calls.values()))}",
                found=f"{_ranks(sorted(meeting.calls))} came; {', '.join(calls)}",
                remedy=ALIKE,
            )
        )

    def _fail(self, error: NetcError) -> None:
        self.fail(error)
        self.check()

    def _work(self, meeting: Meeting, call: Call) -> None:
        memories = [meeting.memories[rank] for rank in range(len(self.devices))]
        givers = [call.root] if call.operation == "copy" else range(len(self.devices))
        for rank in givers:
            self._check_defined(rank, memories[rank], meeting)
        arrays = [
            device.array(memory).view(np.uint8 if call.dtype == "bytes" else call.dtype)
            for device, memory in zip(self.devices, memories, strict=True)
        ]
        result = _reduced(call, arrays)
        for device, memory in zip(self.devices, memories, strict=True):
            device.put(memory, result)

    def _check_defined(self, rank: int, memory: Memory, meeting: Meeting) -> None:
        defined = self.devices[rank].defined_bytes(memory)
        if defined < memory.nbytes:
            self._fail(
                NetcError(
                    f"rank {rank} gives to call {meeting.number} what nothing has written",
                    found=f"{memory.name}+{defined} of {self.devices[rank].properties.name}",
                )
            )


class EmulatedCollective(Collective):
    """The place of an emulated device among several."""

    device: EmulatedDevice

    def __init__(self, device: EmulatedDevice, rank: int, group: Group) -> None:
        super().__init__(device, rank, len(group.devices))
        self._group = group
        self._meeting: Meeting | None = None  # that this rank has come to, and waits in

    def _ask(self, call: Call, memory: Memory) -> None:
        self.device.do(partial(self._take_part, call, memory))

    _all_reduce = _broadcast = _ask

    def _take_part(self, call: Call, memory: Memory) -> object:
        """Comes to a call; to be asked again until the others have come too."""
        if self._meeting is None:
            self.device.check_memory(memory, "share")  # it may have been freed since a capture
            self._meeting = self._group.meet(self.rank, call, memory)
        if not self._group.is_over(self._meeting):
            return NOT_YET
        self._meeting = None
        return None

    def _check(self) -> None:
        self._group.check()

    def abort(self, error: BaseException) -> None:
        name = self.device.properties.name
        self._group.fail(NetcError(f"rank {self.rank} ({name}) failed: {error}"), error)

    def close(self) -> None:
        self.finish()
        self._group.leave(self.rank)


def join_emulated(devices: Sequence[EmulatedDevice], patience: float) -> list[EmulatedCollective]:
    """The collectives of several emulated devices; patience: how many seconds a rank waits."""
    group = Group(devices, patience)
    return [EmulatedCollective(device, rank, group) for rank, device in enumerate(devices)]


def _reduced(call: Call, arrays: Sequence[np.ndarray]) -> np.ndarray:
    if call.operation == "copy":
        return arrays[call.root]
    with np.errstate(all="ignore"):  # as on a GPU, infinities and NaNs are numbers
        total = arrays[0].copy()
        for array in arrays[1:]:
            total += array
        if call.operation == "mean":
            total /= len(arrays)
    return total


def _ranks(numbers: Sequence[int]) -> str:
    return ("rank " if len(numbers) == 1 else "ranks ") + ", ".join(map(str, numbers))
