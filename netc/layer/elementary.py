"""Elementwise layers that are elementary functions: absolute value, power, exponential, logarithm."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np

from netc.layer.activation import Elementwise
from netc.layer.base import ALL, Array, Buffers, Shape
from netc.layer.registry import register


@register
class AbsVal(Elementwise):
    """y = |x|; the slope at 0 is 0."""

    type = "AbsVal"
    in_place = False
    backward_tops = ()

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        xp.abs(b.bottoms[0], out=b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        xp.multiply(b.top_grads[0], xp.sign(b.bottoms[0]), out=b.bottom_grads[0])


@register
class Power(Elementwise):
    """y = (shift + scale * x) ** power.

    Caffe writes the slope into dx before it multiplies by dy. In place that destroys dy, and the result is
    the slope squared; the order is kept here, so that the numbers are.
    """

    type = "Power"
    options_field = "power_param"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.power, self.scale, self.shift = self.options.power, self.options.scale, self.options.shift
        self.slope_scale = self.power * self.scale
        linear = self.power == 1 or self.slope_scale == 0
        self.backward_bottoms = () if linear else ALL
        self.backward_tops = () if linear or self.power == 2 else ALL

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        if self.slope_scale == 0:
            y[...] = 1.0 if self.power == 0 else _real_power(self.shift, self.power)
            return
        xp.multiply(x, x.dtype.type(self.scale), out=y)
        if self.shift:
            y += y.dtype.type(self.shift)
        _raise_to(xp, y, self.power)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        if self.slope_scale == 0:
            dx[...] = 0
            return
        if self.power == 1:
            dx[...] = self.slope_scale
        else:
            x, kind = b.bottoms[0], dx.dtype.type
            if self.power == 2:  # 2 * scale * (scale * x + shift)
                xp.multiply(x, kind(self.slope_scale * self.scale), out=dx)
                if self.shift:
                    dx += kind(self.slope_scale * self.shift)
            else:  # power * scale * y / (scale * x + shift)
                xp.multiply(x, kind(self.scale), out=dx)
                if self.shift:
                    dx += kind(self.shift)
                xp.divide(b.tops[0], dx, out=dx)
                dx *= kind(self.slope_scale)
        dx *= b.top_grads[0]


@register
class Exp(Elementwise):
    """y = base ** (shift + scale * x); base -1 (the default) stands for e."""

    type = "Exp"
    options_field = "exp_param"
    backward_bottoms = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        log_base = self.log_base()
        self.inner_scale = log_base * self.options.scale
        self.outer_scale = math.exp(log_base * self.options.shift)
        return [bottoms[0]]

    def log_base(self) -> float:
        """The natural logarithm of `base`. Raises NetcError where it has none."""
        base = self.options.base
        if base == -1:
            return 1.0
        if not 0 < base < math.inf:
            raise self.error("base has no logarithm", "base", expected="-1 (e), or more than 0", found=base)
        return math.log(base)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = b.bottoms[0], b.tops[0]
        xp.multiply(x, x.dtype.type(self.inner_scale), out=y)
        xp.exp(y, out=y)
        if self.outer_scale != 1:
            y *= y.dtype.type(self.outer_scale)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        xp.multiply(b.tops[0], b.top_grads[0], out=dx)
        if self.inner_scale != 1:
            dx *= dx.dtype.type(self.inner_scale)


@register
class Log(Elementwise):
    """y = log(shift + scale * x) to a base; base -1 (the default) stands for e.

    As in Power, in place the result of backward is the slope squared.
    """

    type = "Log"
    options_field = "log_param"
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        base = self.options.base
        if base != -1 and (not 0 < base < math.inf or base == 1):
            raise self.error(
                "no logarithm to this base", "base", expected="-1 (e), or above 0 but not 1", found=base
            )
        self.base_scale = 1.0 if base == -1 else 1 / math.log(base)
        return [bottoms[0]]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        self._inner(xp, b.bottoms[0], out=y)
        xp.log(y, out=y)
        if self.base_scale != 1:
            y *= y.dtype.type(self.base_scale)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        self._inner(xp, b.bottoms[0], out=dx)
        xp.divide(dx.dtype.type(self.options.scale * self.base_scale), dx, out=dx)
        dx *= b.top_grads[0]

    def _inner(self, xp: ModuleType, x: Array, out: Array) -> None:
        xp.multiply(x, x.dtype.type(self.options.scale), out=out)
        if self.options.shift:
            out += out.dtype.type(self.options.shift)


def _raise_to(xp: ModuleType, y: Array, power: float) -> None:
    """y **= power, with the cheap forms of the usual powers."""
    if power == 2:
        xp.multiply(y, y, out=y)
    elif power != 1:
        xp.power(y, y.dtype.type(power), out=y)


def _real_power(base: float, power: float) -> float:
    """base ** power over the reals: NaN or infinity where Python raises or leaves the reals."""
    with np.errstate(all="ignore"):
        return float(np.power(np.float64(base), np.float64(power)))
