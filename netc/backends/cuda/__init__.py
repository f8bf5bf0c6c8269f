"""Kernels on a GPU, or on the emulator that stands in for one."""
