"""The families of kernels and forms: the one list of them, every kernel variant, every form by its chain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Final

from netc.backends.cuda.kernel import Variant
from netc.backends.form import Maker

# Modules beside this one. Those with kernels have VARIANTS, a table or its rows; those with forms have FORMS.
NAMES: Final = (
    *("conv", "conv_mma", "winograd", "depthwise", "depthwise_last", "channel_sum", "conv_form"),
    *("conv_last_images", "conv_last", "conv_last_weights"),
    *("gemm", "dense"),
    *("pool", "lrn", "bn", "bn_form", "conv_bn_form", "softmax", "loss", "loss_form"),
    *("activation", "dropout", "stream"),
    *("eltwise", "scale", "reduce", "axpy", "split"),
    *("concat", "crop", "permute", "tile", "im2col", "embed"),
    *("recurrent_steps", "recurrent"),
    *("fill", "update", "augment", "journal"),
)


def _rows(table: Mapping[object, Variant] | Sequence[Variant]) -> Iterable[Variant]:
    return table.values() if isinstance(table, Mapping) else table


FAMILIES: Final = tuple(import_module(f"{__package__}.{name}") for name in NAMES)
ALL_VARIANTS: Final[tuple[Variant, ...]] = tuple(
    variant for family in FAMILIES for variant in _rows(getattr(family, "VARIANTS", ()))
)
FORMS: Final[Mapping[tuple[str, ...], Maker]] = {
    chain: maker for family in FAMILIES for chain, maker in getattr(family, "FORMS", {}).items()
}
