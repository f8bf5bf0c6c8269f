"""The device that kernels run on, as all the backend sees it; its kinds are the rooms gpu and emulator."""

from netc.backends.cuda.device.device import Argument, Device, Event, Graph
from netc.backends.cuda.device.memory import Allocation, Memory
from netc.backends.cuda.device.product import Product
from netc.backends.cuda.device.properties import DeviceProperties, Grid

__all__ = [
    "Allocation",
    "Argument",
    "Device",
    "DeviceProperties",
    "Event",
    "Graph",
    "Grid",
    "Memory",
    "Product",
]
