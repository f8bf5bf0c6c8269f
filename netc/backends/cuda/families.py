"""The families of kernels and forms: the one list of them, every kernel variant, every form by its chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Final

from netc.backends.cuda.compilation import Variant
from netc.backends.form import Maker

# Modules by their rooms. Those with kernels have VARIANTS, a table or its rows; those with forms have FORMS.
ROOMS: Final[Mapping[str, Sequence[str]]] = {
    "convolution": (
        *("conv", "conv_mma", "winograd", "depthwise", "depthwise_last", "channel_sum", "form", "bn_form"),
        *("conv_last_images", "conv_last", "conv_last_weights"),
    ),
    "products": ("gemm", "dense"),
    "layers": (
        *("pool", "lrn", "bn", "bn_form", "softmax", "loss", "loss_form", "activation", "dropout"),
        *("eltwise", "scale", "reduce", "axpy", "split"),
        *("concat", "crop", "permute", "tile", "im2col", "embed", "recurrent_steps", "recurrent"),
    ),
    "launching": ("fill", "stream"),
    "iteration": ("update", "augment", "journal"),
}
NAMES: Final = tuple(f"{room}.{name}" for room, names in ROOMS.items() for name in names)


def _rows(table: Mapping[object, Variant] | Sequence[Variant]) -> Iterable[Variant]:
    return table.values() if isinstance(table, Mapping) else table


FAMILIES: Final = tuple(import_module(f"{__package__}.{name}") for name in NAMES)
ALL_VARIANTS: Final[tuple[Variant, ...]] = tuple(
    variant for family in FAMILIES for variant in _rows(getattr(family, "VARIANTS", ()))
)
FORMS: Final[Mapping[tuple[str, ...], Maker]] = {
    chain: maker for family in FAMILIES for chain, maker in getattr(family, "FORMS", {}).items()
}
