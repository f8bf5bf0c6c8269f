"""GPUs through CuPy."""

from netc.backends.cuda.gpu.cupy_device import CupyDevice

__all__ = ["CupyDevice"]
