"""The layers: one class per layer type, its meaning written once over an array module (NumPy or CuPy)."""

from importlib import import_module
from pkgutil import iter_modules

from netc.layer.base import Array, Buffers, Closable, Layer, ParamBlob, Scratch, Shape, SourceLayer
from netc.layer.registry import LAYER_TYPES, layer_class, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "LAYER_TYPES",
    "Array",
    "Buffers",
    "Closable",
    "Layer",
    "ParamBlob",
    "Scratch",
    "Shape",
    "SourceLayer",
    "layer_class",
    "register",
]
