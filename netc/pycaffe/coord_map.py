"""Where a pixel of one top lies in another: coordinate maps between tops of a NetSpec, and crops by them.

A map is an axis (the one before the spatial axes), and a scale and an offset for each of them: coordinate x
of the one top lies at scale * x + offset in the other. Fully convolutional nets crop their scores to images
with it (Long, Shelhamer and Darrell, CVPR 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.pycaffe.net_spec import Function, Top, layers

Numbers = Any  # a number for all spatial axes, or an array of one for each

PASS_THROUGH_LAYERS = (
    "AbsVal",
    "BatchNorm",
    "Bias",
    "BNLL",
    "Clip",
    "Dropout",
    "ELU",
    "Eltwise",
    "Exp",
    "LRN",
    "Log",
    "MVN",
    "PReLU",
    "Power",
    "ReLU",
    "Scale",
    "Sigmoid",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
)


class UndefinedMapException(NetcError):
    """A layer whose top has no place in its bottom: an inner product, a loss."""


class AxisMismatchException(NetcError):
    """Two layers on the way begin their spatial axes differently."""


@dataclass(frozen=True)
class CoordMap:
    """scale * x + offset, along the axes behind `axis`; behind any, where that is None."""

    axis: int | None
    scale: Numbers
    offset: Numbers

    def after(self, inner: CoordMap) -> CoordMap:
        """The map that first takes `inner`, then this one. Raises AxisMismatchException."""
        if None not in (self.axis, inner.axis) and self.axis != inner.axis:
            raise AxisMismatchException(
                "the layers on the way do not agree on their spatial axes",
                expected=f"axis {self.axis}",
                found=f"axis {inner.axis}",
            )
        axis = inner.axis if self.axis is None else self.axis
        return CoordMap(axis, self.scale * inner.scale, self.scale * inner.offset + self.offset)

    def inverse(self) -> CoordMap:
        """The way back."""
        return CoordMap(self.axis, 1 / self.scale, -self.offset / self.scale)


SAME = CoordMap(None, 1, 0)


def _window(function: Function) -> tuple[int, Any, Any, Any]:
    """The axis, stride, dilated kernel size and padding of a layer that slides a window."""
    options = dict(function.params.get("convolution_param", function.params))
    options = dict(function.params.get("pooling_param", options))
    legacy = sorted(
        {f"{what}_{side}" for what in ("kernel", "stride", "pad") for side in "hw"} & set(options)
    )
    if legacy or "kernel_size" not in options:
        raise NetcError(
            f"a {function.type_name} layer needs kernel_size for its coordinates",
            found=", ".join(legacy) or "none",
            remedy="kernel_size=[3, 5], stride=[...] and pad=[...] give each axis its own",
        )
    kernel, stride, pad, dilation = (
        np.array(options.get(option, default), ndmin=1)
        for option, default in (("kernel_size", 0), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return int(options.get("axis", 1)), stride, (kernel - 1) * dilation + 1, pad


def _shrink(function: Function) -> CoordMap:
    axis, stride, kernel, pad = _window(function)
    return CoordMap(axis, 1 / stride, (pad - (kernel - 1) / 2) / stride)


def _grow(function: Function) -> CoordMap:
    axis, stride, kernel, pad = _window(function)
    return CoordMap(axis, stride, (kernel - 1) / 2 - pad)


def _cut(function: Function) -> CoordMap:
    options = function.params.get("crop_param", function.params)
    # Crop names the first axis that it cuts.
    return CoordMap(int(options.get("axis", 2)) - 1, 1, -np.array(options.get("offset", 0), ndmin=1))


RULES: dict[str, Callable[[Function], CoordMap]] = {
    "Convolution": _shrink,
    "Pooling": _shrink,
    "Im2col": _shrink,
    "Deconvolution": _grow,
    "Crop": _cut,
    **dict.fromkeys(PASS_THROUGH_LAYERS, lambda function: SAME),
}


def coord_map(fn: Function) -> CoordMap:
    """The map from a layer's bottom to its top. Raises UndefinedMapException for a layer without one."""
    if fn.type_name not in RULES:
        raise UndefinedMapException(
            f"a {fn.type_name} layer has no coordinate map", expected=", ".join(sorted(RULES))
        )
    return RULES[fn.type_name](fn)


def coord_map_from_to(top_from: Top, top_to: Top) -> tuple[int | None, Numbers, Numbers]:
    """The (axis, scale, offset) from one top to another that has a common ancestor with it.

    Raises NetcError where spatial layers do not connect them.
    """
    down = dict(_ancestors(top_from))
    for ancestor, back in _ancestors(top_to):
        if ancestor in down:
            found = back.after(down[ancestor].inverse())
            return found.axis, found.scale, found.offset
    raise NetcError(
        "no coordinate map leads from one top to the other", remedy="are they connected by layers?"
    )


def _ancestors(top: Top) -> list[tuple[Top, CoordMap]]:
    """A top and those that it comes from, nearest first, each with its map to the top."""
    found: dict[Top, CoordMap] = {top: SAME}
    waiting = [top]
    while waiting:
        current = waiting.pop(0)
        function = current.fn
        if function.type_name not in RULES:
            continue
        step = coord_map(function)
        for bottom in function.inputs[: 1 if function.type_name == "Crop" else None]:
            if bottom not in found:
                found[bottom] = found[current].after(step)
                waiting.append(bottom)
    return list(found.items())


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop layer that cuts `top_from` to the place and size of `top_to`.

    Raises NetcError where their scales differ, or the cut would begin outside or between pixels.
    """
    axis, scale, offset = coord_map_from_to(top_from, top_to)
    scale, offset = np.atleast_1d(scale), np.atleast_1d(offset)
    if (scale != 1).any():
        raise NetcError("a crop does not change the scale", expected="scale 1", found=scale.tolist())
    if (offset > 0).any():
        raise NetcError("a crop cannot begin before the first pixel", found=(-offset).tolist())
    if (np.round(offset) != offset).any():
        raise NetcError("a crop cannot begin between two pixels", found=(-offset).tolist())
    first = 2 if axis is None else axis + 1
    top: Top = layers.Crop(
        top_from, top_to, crop_param={"axis": first, "offset": [int(-n) for n in np.round(offset)]}
    )
    return top
