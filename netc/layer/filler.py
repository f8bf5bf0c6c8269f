"""Fillers: the first values of a parameter, from its `filler { type: ... }` and its shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from netc.cores import thread_count
from netc.errors import NetcError
from netc.layer.base import Shape, count
from netc.proto import netc_pb2 as pb
from netc.schema.suggestions import did_you_mean

Values = NDArray[Any]
PART: Final = 1 << 20  # numbers that one stream draws


def fill(filler: pb.FillerParameter | None, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """A new array of this shape, filled as the filler says; zeros without one.

    Raises NetcError for an unknown type, for options that make no sense, and for a shape that the type cannot
    fill.
    """
    if filler is None:
        return np.zeros(shape, dtype)
    kind = _kind(filler)
    if filler.sparse != -1 and not kind.sparse:
        raise NetcError(
            f"the {filler.type} filler cannot be sparse",
            expected="no `sparse`",
            found=f"sparse: {filler.sparse}",
            remedy='only type: "gaussian" takes it',
        )
    if 0 in shape:
        return np.zeros(shape, dtype)
    values = kind.draw(filler, tuple(shape), rng, _precision(dtype))
    return values.astype(dtype, copy=False)


def _constant(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """value everywhere."""
    return np.full(shape, filler.value, dtype)


def _uniform(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """Uniform in [min, max)."""
    if filler.min > filler.max:
        raise NetcError(
            "a uniform filler needs min <= max", expected=f"max of at least {filler.min}", found=filler.max
        )
    return _between(rng, filler.min, filler.max, shape, dtype)


def _gaussian(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """Normal with mean and std; with `sparse` each value stays with probability sparse / shape[0], else it is
    0.

    So each input has about `sparse` weights that are not 0. (Martens, "Deep learning via Hessian-free
    optimization", 2010)
    """
    if filler.std < 0:
        raise NetcError(
            "a standard deviation cannot be negative", expected="std of at least 0", found=filler.std
        )
    values = _normal(rng, filler.mean, filler.std, shape, dtype)
    if filler.sparse >= 0:
        outputs = _first(filler, shape)
        values *= rng.random(shape, dtype=dtype) < filler.sparse / outputs
    elif filler.sparse != -1:
        raise NetcError("`sparse` counts weights", expected="0 or more (-1: not sparse)", found=filler.sparse)
    return values


def _positive_unitball(
    filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any
) -> Values:
    """Uniform in [0, 1), then each of the shape[0] rows divided by its sum."""
    values = rng.random((_first(filler, shape), count(shape[1:])), dtype=dtype)
    values /= np.maximum(values.sum(axis=1, keepdims=True), np.finfo(dtype).tiny)
    return values.reshape(shape)


def _xavier(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """Uniform in +-sqrt(3 / fan). (Glorot and Bengio, "Understanding the difficulty of training deep
    feedforward neural networks", 2010; as in Caffe the fan is the fan in, unless `variance_norm` asks for
    another.)"""
    limit = math.sqrt(3 / _fan(filler, shape))
    return _between(rng, -limit, limit, shape, dtype)


def _msra(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """Normal with std sqrt(2 / fan). (He et al., "Delving deep into rectifiers", 2015)"""
    return _normal(rng, 0, math.sqrt(2 / _fan(filler, shape)), shape, dtype)


def _bilinear(filler: pb.FillerParameter, shape: Shape, rng: np.random.Generator, dtype: Any) -> Values:
    """The weights of linear interpolation in both spatial axes: a Deconvolution with them enlarges an image
    smoothly.

    With f = ceil(size / 2) and c = (size - 1) / (2 f), the weight at (y, x) is (1 - |x / f - c|) (1 - |y / f
    - c|). (Long et al., "Fully convolutional networks for semantic segmentation", 2015)
    """
    if len(shape) != 4 or shape[2] != shape[3]:
        raise NetcError(
            "a bilinear filler fills square 2-D filters", expected="(K, C, size, size)", found=tuple(shape)
        )
    size = shape[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    line = 1 - abs(np.arange(size) / factor - centre)
    return np.broadcast_to(np.outer(line, line), shape).astype(dtype)


@dataclass(frozen=True)
class _Kind:
    draw: Callable[[pb.FillerParameter, Shape, np.random.Generator, Any], Values]
    sparse: bool = False


FILLERS = {
    "constant": _Kind(_constant),
    "uniform": _Kind(_uniform),
    "gaussian": _Kind(_gaussian, sparse=True),
    "positive_unitball": _Kind(_positive_unitball),
    "xavier": _Kind(_xavier),
    "msra": _Kind(_msra),
    "bilinear": _Kind(_bilinear),
}

FANS: dict[int, Callable[[float, float], float]] = {
    pb.FillerParameter.FAN_IN: lambda fan_in, fan_out: fan_in,
    pb.FillerParameter.FAN_OUT: lambda fan_in, fan_out: fan_out,
    pb.FillerParameter.AVERAGE: lambda fan_in, fan_out: (fan_in + fan_out) / 2,
}


def _kind(filler: pb.FillerParameter) -> _Kind:
    if filler.type in FILLERS:
        return FILLERS[filler.type]
    raise NetcError(
        f"unknown filler type {filler.type!r}",
        expected=", ".join(FILLERS),
        found=filler.type,
        remedy=did_you_mean(filler.type, FILLERS),
    )


def _fan(filler: pb.FillerParameter, shape: Shape) -> float:
    """Caffe's fans: count / shape[0] values in, count / shape[1] out (count, for a single axis)."""
    values = count(shape)
    fan_in = values / _first(filler, shape)
    fan_out = values / shape[1] if len(shape) > 1 else values
    return FANS[filler.variance_norm](fan_in, fan_out)


def _first(filler: pb.FillerParameter, shape: Shape) -> int:
    """The size of the first axis, which a single number does not have."""
    if not shape:
        raise NetcError(
            f"the {filler.type} filler needs a shape with axes",
            expected="at least 1 axis",
            found="a single number",
            remedy='type: "constant", "uniform" or "gaussian" without `sparse`',
        )
    return shape[0]


def _precision(dtype: Any) -> Any:
    """The precision to draw in: 32 bits unless the values need 64."""
    return np.float64 if np.dtype(dtype).itemsize > 4 else np.float32


def _between(rng: np.random.Generator, low: float, high: float, shape: Shape, dtype: Any) -> Values:
    def draw(rng: np.random.Generator, values: Values) -> None:
        rng.random(out=values, dtype=dtype)
        values *= dtype(high - low)
        values += dtype(low)

    return _drawn(rng, draw, shape, dtype)


def _normal(rng: np.random.Generator, mean: float, std: float, shape: Shape, dtype: Any) -> Values:
    def draw(rng: np.random.Generator, values: Values) -> None:
        rng.standard_normal(out=values, dtype=dtype)
        values *= dtype(std)
        values += dtype(mean)

    return _drawn(rng, draw, shape, dtype)


def _drawn(
    rng: np.random.Generator,
    draw: Callable[[np.random.Generator, Values], None],
    shape: Shape,
    dtype: Any,
) -> Values:
    """An array filled by `draw(generator, part)`.

    Large ones are filled in parts of one size, each by a stream of its own, so that the numbers are the same
    whatever the number of threads.
    """
    values = np.empty(shape, dtype)
    flat = values.reshape(-1)
    parts = [flat[first : first + PART] for first in range(0, flat.size, PART)]
    streams = [np.random.Generator(rng.bit_generator.jumped(i)) for i in range(1, len(parts))]  # type: ignore[attr-defined]
    if len(parts) == 1:
        draw(rng, flat)
        return values
    with ThreadPoolExecutor(min(thread_count(), len(parts))) as threads:
        list(threads.map(draw, [rng, *streams], parts))
    return values
