"""The runtime: programs over planned memory, and the net that runs them."""

from netc.runtime.blob import Blob, OutputValue
from netc.runtime.net import Net
from netc.runtime.parameters import Parameters, Segment
from netc.runtime.program import Arena

__all__ = ["Arena", "Blob", "Net", "OutputValue", "Parameters", "Segment"]
