"""Deconvolution on oneDNN, alone or with the ReLU that follows it."""

from __future__ import annotations

from functools import partial

from netc.backends.cpu.filters import make_filters
from netc.backends.cpu.geometry import deconvolution
from netc.backends.form import Maker

make_deconvolution: Maker = partial(make_filters, "deconvolution", deconvolution)

FORMS: dict[tuple[str, ...], Maker] = {
    ("Deconvolution",): make_deconvolution,
    ("Deconvolution", "ReLU"): make_deconvolution,
}
