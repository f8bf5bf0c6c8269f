"""Convolution in double precision, and how kernels are run and held to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from netc.backends.cuda.convolution.shape import ConvShape
from netc.backends.cuda.convolution.work import Candidate, Filters, Images
from netc.backends.cuda.device import Device
from tests.cuda.arrays import room

Slices = tuple[slice, slice]


def shape_of(
    n: int = 1,
    c: int = 1,
    h: int = 1,
    w: int = 1,
    k: int = 1,
    kernel: tuple[int, int] = (3, 3),
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    group: int = 1,
) -> ConvShape:
    """A convolution's sizes, its output's among them."""
    (r, s) = kernel
    p, q = (
        (size + 2 * pads - gaps * (taps - 1) - 1) // steps + 1
        for size, pads, gaps, taps, steps in zip((h, w), pad, dilation, kernel, stride, strict=True)
    )
    return ConvShape(n, c, h, w, k, r, s, p, q, stride, pad, dilation, group)


def arrays_of(shape: ConvShape, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, w and dy of normally distributed numbers."""
    rng = np.random.default_rng(seed)
    sizes = (
        (shape.n, shape.c, shape.h, shape.w),
        (shape.k, shape.group_c, shape.r, shape.s),
        (shape.n, shape.k, shape.p, shape.q),
    )
    x, w, dy = (rng.standard_normal(size).astype(np.float32) for size in sizes)
    return x, w, dy


def _padded(shape: ConvShape) -> tuple[int, int]:
    """Room for the input, its padding, and every window."""
    sizes = zip(
        (shape.h, shape.w), shape.pad, (shape.p, shape.q), shape.stride, (shape.r, shape.s), shape.dilation,
        strict=True,
    )  # fmt: skip
    high, wide = (max(n + 2 * pad, (p - 1) * step + (r - 1) * gap + 1) for n, pad, p, step, r, gap in sizes)
    return high, wide


def _taps(shape: ConvShape) -> Iterator[tuple[int, int, Slices]]:
    """Every tap, and the cells of the padded input that it meets."""
    for r in range(shape.r):
        for s in range(shape.s):
            top, left = r * shape.dilation[0], s * shape.dilation[1]
            down = slice(top, top + (shape.p - 1) * shape.stride[0] + 1, shape.stride[0])
            right = slice(left, left + (shape.q - 1) * shape.stride[1] + 1, shape.stride[1])
            yield r, s, (down, right)


def _by_group(shape: ConvShape, array: np.ndarray, axis: int) -> np.ndarray:
    return array.reshape(*array.shape[:axis], shape.group, -1, *array.shape[axis + 1 :])


def _pad(shape: ConvShape, x: np.ndarray) -> np.ndarray:
    padded = np.zeros((shape.n, shape.c, *_padded(shape)))
    padded[:, :, shape.pad[0] : shape.pad[0] + shape.h, shape.pad[1] : shape.pad[1] + shape.w] = x
    return _by_group(shape, padded, 1)


def convolve(shape: ConvShape, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """y."""
    padded, filters = _pad(shape, x), _by_group(shape, w.astype(np.float64), 0)
    y = np.zeros((shape.n, shape.group, shape.group_k, shape.p, shape.q))
    for r, s, (down, right) in _taps(shape):
        y += np.einsum("ngcpq,gkc->ngkpq", padded[..., down, right], filters[..., r, s], optimize=True)
    return y.reshape(shape.n, shape.k, shape.p, shape.q)


def input_gradient(shape: ConvShape, dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """dx."""
    gradient, filters = _by_group(shape, dy.astype(np.float64), 1), _by_group(shape, w.astype(np.float64), 0)
    dx = np.zeros((shape.n, shape.group, shape.group_c, *_padded(shape)))
    for r, s, (down, right) in _taps(shape):
        dx[..., down, right] += np.einsum("ngkpq,gkc->ngcpq", gradient, filters[..., r, s], optimize=True)
    rows, columns = (slice(pad, pad + n) for pad, n in zip(shape.pad, (shape.h, shape.w), strict=True))
    return dx[..., rows, columns].reshape(shape.n, shape.c, shape.h, shape.w)


def filter_gradient(shape: ConvShape, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dw."""
    padded, gradient = _pad(shape, x), _by_group(shape, dy.astype(np.float64), 1)
    dw = np.zeros((shape.group, shape.group_k, shape.group_c, shape.r, shape.s))
    for r, s, (down, right) in _taps(shape):
        dw[..., r, s] = np.einsum("ngkpq,ngcpq->gkc", gradient, padded[..., down, right], optimize=True)
    return dw.reshape(shape.k, shape.group_c, shape.r, shape.s)


def run_candidate(device: Device, candidate: Candidate, shape: ConvShape, work: Images | Filters) -> None:
    """Runs a direction with the workspace that it asks for."""
    workspace = room(device, candidate.floats, name="workspace") if candidate.floats else None
    candidate.bind(device, shape, replace(work, workspace=workspace))()


def check_close(got: np.ndarray, wanted: np.ndarray, terms: int) -> None:
    """Factors are rounded alike on both sides, so that only the fp32 sums of `terms` products differ."""
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6 * max(1.0, np.sqrt(terms)) * 8)
