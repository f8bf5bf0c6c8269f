"""The CPU backend: NumPy arrays; every node runs its layer's own meaning until a faster form fits it."""

from netc.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
