"""The table of layer types, filled as the layers' files are imported."""

from __future__ import annotations

import difflib
from typing import Final

from netc.errors import Location, NetcError
from netc.layer.base import Layer

WRITE_IT_IN_PYTHON: Final = (
    'or write it yourself: type: "Python" python_param { module: "my_layers" layer: "MyLayer" } calls '
    "the class MyLayer(netc.Layer) in my_layers.py, which has setup(bottom, top), reshape(bottom, top), "
    "forward(bottom, top) and backward(top, propagate_down, bottom)"
)
LAYER_TYPES: dict[str, type[Layer]] = {}


def register(layer_class: type[Layer]) -> type[Layer]:
    """Class decorator: adds a layer type to the table under its prototxt name."""
    if layer_class.type in LAYER_TYPES:
        raise ValueError(f"two layer classes are called {layer_class.type}")
    LAYER_TYPES[layer_class.type] = layer_class
    return layer_class


def layer_class(type_name: str, *, layer: str = "", at: Location | None = None) -> type[Layer]:
    """The class of a layer type; a NetcError that names the nearest known type where there is none."""
    if type_name in LAYER_TYPES:
        return LAYER_TYPES[type_name]
    if not type_name:
        raise NetcError("the layer has no type", at=at, layer=layer or None, remedy='add type: "..."')
    near = difflib.get_close_matches(type_name, LAYER_TYPES, n=3, cutoff=0.5)
    known = f"did you mean {' or '.join(near)}?" if near else f"known types: {', '.join(sorted(LAYER_TYPES))}"
    raise NetcError(
        f"unknown layer type {type_name!r}",
        at=at,
        layer=layer or None,
        remedy=f"{known}\n  {WRITE_IT_IN_PYTHON}",
    )
