"""The CPU's fast forms: each family's table, and all of them as one."""

from __future__ import annotations

from netc.backends.cpu import (
    accuracy,
    activation,
    bn,
    concat,
    conv,
    conv_bn,
    deconv,
    dense,
    dropout,
    eltwise,
    lrn,
    pool,
    softmax,
    softmax_loss,
)
from netc.backends.form import Maker

FORMS: dict[tuple[str, ...], Maker] = {
    **conv.FORMS,
    **deconv.FORMS,
    **dense.FORMS,
    **bn.FORMS,
    **conv_bn.FORMS,
    **pool.FORMS,
    **lrn.FORMS,
    **activation.FORMS,
    **softmax.FORMS,
    **softmax_loss.FORMS,
    **concat.FORMS,
    **eltwise.FORMS,
    **dropout.FORMS,
    **accuracy.FORMS,
}
