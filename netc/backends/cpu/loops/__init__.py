"""Loops of our own on the CPU, compiled by numba: how they are kept and run, and the loops of every family.

A family's loops stand in a file of its name, which needs numba and is imported only to compile them; what a
loop works on is a record, its job, in the file beside it (`*_job.py`).
"""

from netc.backends.cpu.loops.loop import OPENMP, BoundLoop, Loop, bound, compiled, openmp, threads_for

__all__ = ["OPENMP", "BoundLoop", "Loop", "bound", "compiled", "openmp", "threads_for"]
