"""From a kernel's source to what a device loads: its row of a table, compilers, caches of what they made."""

from netc.backends.cuda.compilation.kernel import Kernel, Variant

__all__ = ["Kernel", "Variant"]
