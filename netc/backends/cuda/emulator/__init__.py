"""Runs kernels on the CPU: the same source compiled by g++, each thread of a block a fiber.

Fast mode only computes. Check mode also watches every access to memory and names the kernel, thread, block
and source line of a stray access, an uninitialised read, a race, a wrong barrier, mbarrier or mask, a copy
that was not waited for, a misaligned vector and undefined behaviour.

There may be several devices, each with its own memory and its own order of work (stream.py), used from one
thread or from several.

How check mode sees accesses: g++ instruments them for its thread sanitizer, whose runtime is not linked; the
functions it calls are csrc/hooks.cpp.

Limits: x86-64 Linux; one launch at a time, on all devices together; a partial warp's `__syncwarp` orders no
memory accesses; of a word the last writer and two readers are remembered; a local variable that was never set
holds a pattern but is not reported; a kernel that never ends is not stopped; timing, bank conflicts and
overlap are not modelled.
"""

from netc.backends.cuda.emulator.device import EmulatedDevice

__all__ = ["EmulatedDevice"]
