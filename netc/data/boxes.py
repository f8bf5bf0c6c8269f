"""The geometry of boxes, vectorised over an array module: areas, overlaps, and boxes seen from other boxes.

A box is (xmin, ymin, xmax, ymax) along an array's last axis, mostly as shares of an image's width and height.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

Array = Any  # an array of `xp`: numpy.ndarray or cupy.ndarray


def areas(xp: ModuleType, boxes: Array, border: float = 0) -> Array:
    """Width times height; 0 for a box turned inside out. border: 1 where corners are pixels that belong to
    the box."""
    return _products(xp, boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1], border)


def intersections(xp: ModuleType, first: Array, second: Array, border: float = 0) -> Array:
    """(A, 4) and (B, 4): the areas that every pair has in common, (A, B); 0 where they only touch."""
    width, height = (
        xp.minimum(first[:, None, axis + 2], second[None, :, axis + 2])
        - xp.maximum(first[:, None, axis], second[None, :, axis])
        for axis in (0, 1)
    )
    return _products(xp, width, height, border)


def _products(xp: ModuleType, width: Array, height: Array, border: float) -> Array:
    """Products of sides, 0 where one is negative."""
    return xp.where((width >= 0) & (height >= 0), (width + border) * (height + border), 0)


def overlaps(xp: ModuleType, first: Array, second: Array, border: float = 0) -> Array:
    """(A, 4) and (B, 4): the Jaccard overlap of every pair, intersection over union, (A, B)."""
    shared = intersections(xp, first, second, border)
    union = areas(xp, first, border)[:, None] + areas(xp, second, border)[None, :] - shared
    return xp.where(shared > 0, shared / xp.where(shared > 0, union, 1), 0)


def coverages(xp: ModuleType, covered: Array, by: Array) -> Array:
    """(A, 4) and (B, 4): how much of each first box lies in each second one, (A, B), as a share of the
    first."""
    whole = areas(xp, covered)[:, None]
    return xp.where(whole > 0, intersections(xp, covered, by) / xp.where(whole > 0, whole, 1), 0)


def clip(xp: ModuleType, boxes: Array) -> Array:
    """The parts of boxes that lie in the image."""
    return xp.minimum(xp.maximum(boxes, 0), 1)


def crosses_border(boxes: Array) -> Array:
    """Whether a box reaches out of the image."""
    return ((boxes < 0) | (boxes > 1)).any(axis=-1)


def project(xp: ModuleType, boxes: Array, onto: Array) -> tuple[Array, Array]:
    """Boxes in the coordinates of the box `onto` (which becomes 0, 0, 1, 1), clipped to it; and which of them
    have something in it."""
    corner = xp.concatenate([onto[:2], onto[:2]])
    size = xp.concatenate([onto[2:] - onto[:2]] * 2)
    apart = (boxes[:, :2] >= onto[2:]).any(axis=-1) | (boxes[:, 2:] <= onto[:2]).any(axis=-1)
    projected = clip(xp, (boxes - corner) / size)
    return projected, ~apart & (areas(xp, projected) > 0)
