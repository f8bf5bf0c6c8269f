"""oneDNN through ctypes: the library, its functions, memories, primitives, and routines made of them."""

from netc.backends.cpu.onednn.engine import Engine, open_engine
from netc.backends.cpu.onednn.functions import Refused
from netc.backends.cpu.onednn.memory import Descriptor
from netc.backends.cpu.onednn.primitive import Attributes, PrimitiveDescriptor
from netc.backends.cpu.onednn.routine import Routine

__all__ = ["Attributes", "Descriptor", "Engine", "PrimitiveDescriptor", "Refused", "Routine", "open_engine"]
