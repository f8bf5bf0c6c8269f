"""The loop that rounds floats to bfloat16, for numba to compile; needs numba.

It is run by every thread of an OpenMP team with the same JOB, and works on its thread's share of the floats.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from numba import carray, njit, types, uint32

from netc.backends.cpu.loops.bf16_job import JOB
from netc.backends.cpu.loops.pieces import STRICT, job_signature, pointer_to, share

SIGNATURE = job_signature(JOB)

_bits_pointer = pointer_to(types.uint32)


@njit(**STRICT)
def _rounded(bits):
    """The bits of the nearest bfloat16, the even one of two; a NaN stays one."""
    is_nan = uint32(bits & uint32(0x7FFFFFFF)) > uint32(0x7F800000)
    odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
    moved = uint32(bits | uint32(0x00400000)) if is_nan else uint32(bits + uint32(0x7FFF) + odd)
    return uint32(moved & uint32(0xFFFF0000))


def round_floats(pointer):
    job = carray(pointer, 1)[0]
    first, last = share(job.count)
    target = carray(_bits_pointer(job.target + 4 * first), last - first)
    if job.source == job.target:  # one array: two at one place would not be worked on in vectors
        for i in range(len(target)):
            target[i] = _rounded(target[i])
        return
    source = carray(_bits_pointer(job.source + 4 * first), last - first)
    for i in range(len(target)):
        target[i] = _rounded(source[i])


LOOPS = {"round_floats": round_floats}
OPTIONS = dict.fromkeys(LOOPS, STRICT)
