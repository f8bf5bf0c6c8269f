"""Every fast form on the device, by the chain of layer types that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netc.backends.cuda import (
    activation,
    axpy,
    bn_form,
    concat,
    conv_form,
    crop,
    dense,
    dropout,
    eltwise,
    embed,
    im2col,
    loss_form,
    lrn,
    permute,
    pool,
    recurrent,
    reduce,
    scale,
    softmax,
    split,
    tile,
)
from netc.backends.form import Maker

FAMILIES: Final = (
    activation,
    axpy,
    bn_form,
    concat,
    conv_form,
    crop,
    dense,
    dropout,
    eltwise,
    embed,
    im2col,
    loss_form,
    lrn,
    permute,
    pool,
    recurrent,
    reduce,
    scale,
    softmax,
    split,
    tile,
)
FORMS: Final[Mapping[tuple[str, ...], Maker]] = {
    chain: maker for family in FAMILIES for chain, maker in family.FORMS.items()
}
