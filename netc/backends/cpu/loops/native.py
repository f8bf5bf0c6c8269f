"""The loops that make native calls (native_job.py); needs numba."""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

from numba import carray, float32, from_dtype, int32, int64, njit, types

from netc.backends.cpu.loops.native_job import DEALT, LOOP, PRODUCT, SEQUENCE, SHARES, TEAM, WIDTH
from netc.backends.cpu.loops.pieces import STRICT, function_of, pointer_to, team_size, team_thread

SIGNATURE: Final = types.int32(types.int64)  # of the address of a job; gives a status

_call_pointer = pointer_to(types.int64)
_sequence_pointer, _shares_pointer = pointer_to(from_dtype(SEQUENCE)), pointer_to(from_dtype(SHARES))

_loop = function_of(types.void, types.int64)
_parallel = function_of(types.void, types.int64, types.int64, types.int32, types.int32)
_execute = function_of(types.int32, types.int64, types.int64, types.int32, types.int64)
# A char goes as an int does, in a register of its own.
_multiply = function_of(
    types.int32,
    *(types.int32, types.int32, types.int64, types.int64, types.int64),
    *(types.float32, types.int64, types.int64, types.int64, types.int64),
    *(types.float32, types.int64, types.int64),
)


@njit(**STRICT)
def _product(call):
    sides, sizes = (int32(call[2]), int32(call[3])), (call[4], call[5], call[6])
    operands, target = (call[7], call[8], call[9], call[10]), (call[12], call[13])
    return _multiply(call[1], (*sides, *sizes, float32(1), *operands, float32(call[11]), *target))


@njit(**STRICT)
def _made_alone(call):
    """The status of a call that one thread makes by itself."""
    kind = call[0]
    if kind == LOOP:
        _loop(call[1], (call[2],))
        return int32(0)
    if kind == PRODUCT:
        return _product(call)
    return _execute(call[1], (call[2], call[3], int32(call[4]), call[5]))


@njit(**STRICT)
def _of_shares(pointer):
    """The status of the first sequence that has failed."""
    shares = carray(_shares_pointer(pointer), 1)[0]
    sequences = carray(_sequence_pointer(shares.sequences), shares.count)
    for number in range(shares.count):
        if sequences[number].status != 0:
            return int32(sequences[number].status)
    return int32(0)


@njit(**STRICT)
def _made(call):
    """The status of a call."""
    if call[0] != TEAM and call[0] != DEALT:
        return _made_alone(call)
    _parallel(call[1], (call[2], call[3], int32(call[4]), int32(0)))
    return _of_shares(call[3]) if call[0] == DEALT else int32(0)


def run_calls(pointer):
    """Makes the calls of a SEQUENCE."""
    sequence = carray(_sequence_pointer(pointer), 1)
    count = sequence[0].count
    calls = carray(_call_pointer(sequence[0].calls), (count, WIDTH))
    for number in range(count):
        status = _made(calls[number])
        if status != 0:
            sequence[0].failed, sequence[0].status = number, status
            return status
    sequence[0].status = 0
    return int32(0)


@njit(**STRICT)
def _run_share(sequence):
    calls = carray(_call_pointer(sequence.calls), (sequence.count, WIDTH))
    sequence.status = 0
    for number in range(sequence.count):
        status = _made_alone(calls[number])
        if status != 0:
            sequence.failed, sequence.status = number, status
            return


def run_shares(pointer):
    """Makes the calls of SHARES, in every thread of a team those of its own sequences."""
    shares = carray(_shares_pointer(pointer), 1)[0]
    sequences = carray(_sequence_pointer(shares.sequences), shares.count)
    for number in range(int64(team_thread()), shares.count, int64(team_size())):
        _run_share(sequences[number])
    return int32(0)


LOOPS: Final = {function.__name__: function for function in (run_calls, run_shares)}
OPTIONS: Final = dict.fromkeys(LOOPS, STRICT)
