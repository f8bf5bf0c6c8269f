"""The backend that a user means: the CPU, a GPU by its number, or the emulator in its place."""

from __future__ import annotations

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend


def open_backend(
    gpu: str | int = "",
    *,
    math: str = "fp32",
    deterministic: bool = False,
    memory_limit: int | None = None,
) -> Backend:
    """gpu: a GPU's number or "emulated"; "" for the CPU. math, deterministic, memory_limit: see `Backend`.

    Raises NetcError where there is no such device, or where it does not compute so.
    """
    backend: Backend
    if str(gpu).strip() == "":
        backend = CpuBackend(math, deterministic)
    else:
        from netc.backends.cuda.backend import CudaBackend
        from netc.backends.cuda.open import open_device

        backend = CudaBackend(open_device(gpu), math, deterministic)
    backend.memory_limit = memory_limit
    return backend


def gpu_is_there() -> bool:
    """Whether CuPy and a GPU that it can use are at hand."""
    try:
        import cupy
    except ImportError:
        return False
    return bool(cupy.is_available())
