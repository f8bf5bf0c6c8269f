"""oneDNN through ctypes: the library, its functions, memories, primitives, and routines made of them."""

from netc.backends.cpu.onednn import kinds
from netc.backends.cpu.onednn.engine import Engine, open_engine
from netc.backends.cpu.onednn.functions import Refused
from netc.backends.cpu.onednn.memory import Descriptor
from netc.backends.cpu.onednn.primitive import Attributes, PrimitiveDescriptor, describe
from netc.backends.cpu.onednn.product import Product
from netc.backends.cpu.onednn.routine import Execution, Rounding, Routine

__all__ = [
    "Attributes",
    "Descriptor",
    "Engine",
    "Execution",
    "PrimitiveDescriptor",
    "Product",
    "Refused",
    "Rounding",
    "Routine",
    "describe",
    "kinds",
    "open_engine",
]
