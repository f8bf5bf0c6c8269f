"""Every fast form on the device, by the chain of layer types that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from netc.backends.cuda import (
    activation,
    bn_form,
    concat,
    conv_form,
    dropout,
    eltwise,
    permute,
    pool,
    reduce,
    scale,
    split,
)
from netc.backends.form import Maker

FORMS: Final[Mapping[tuple[str, ...], Maker]] = {
    **activation.FORMS,
    **bn_form.FORMS,
    **concat.FORMS,
    **conv_form.FORMS,
    **dropout.FORMS,
    **eltwise.FORMS,
    **permute.FORMS,
    **pool.FORMS,
    **reduce.FORMS,
    **scale.FORMS,
    **split.FORMS,
}
