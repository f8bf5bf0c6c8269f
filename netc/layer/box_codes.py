"""How boxes are written as offsets from prior boxes, and read back (`code_type`).

CORNER: offsets of the corners; CORNER_SIZE: the same, in units of the prior's size; CENTER_SIZE: the offset
of the centre in units of the prior's size, and the logarithm of the ratio of the sizes (Girshick et al.,
"R-CNN", 2014). Every offset is further divided by the prior's variance, unless the variance is left to the
target. Boxes, priors and variances are arrays of one shape (or broadcast to one) with 4 numbers along the
last axis.
"""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array
from netc.proto import netc_pb2 as pb

CORNER = pb.PriorBoxParameter.CORNER
CENTER_SIZE = pb.PriorBoxParameter.CENTER_SIZE
CORNER_SIZE = pb.PriorBoxParameter.CORNER_SIZE


def encode(xp: ModuleType, code: int, boxes: Array, priors: Array, variances: Array | None) -> Array:
    """The offsets of boxes from their priors. variances: None where they are left to the target."""
    if code == CENTER_SIZE:
        prior_center, prior_size = _center_and_size(priors)
        center, size = _center_and_size(boxes)
        offsets = xp.concatenate([(center - prior_center) / prior_size, xp.log(size / prior_size)], axis=-1)
    else:
        offsets = boxes - priors
        if code == CORNER_SIZE:
            offsets = offsets / _sizes_twice(xp, priors)
    return offsets if variances is None else offsets / variances


def decode(xp: ModuleType, code: int, offsets: Array, priors: Array, variances: Array | None) -> Array:
    """The boxes that offsets from priors stand for. variances: None where they are left to the target."""
    if variances is not None:
        offsets = offsets * variances
    if code == CENTER_SIZE:
        prior_center, prior_size = _center_and_size(priors)
        center = offsets[..., :2] * prior_size + prior_center
        half = xp.exp(offsets[..., 2:]) * prior_size / 2
        return xp.concatenate([center - half, center + half], axis=-1)
    if code == CORNER_SIZE:
        offsets = offsets * _sizes_twice(xp, priors)
    return priors + offsets


def _center_and_size(boxes: Array) -> tuple[Array, Array]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def _sizes_twice(xp: ModuleType, boxes: Array) -> Array:
    size = boxes[..., 2:] - boxes[..., :2]
    return xp.concatenate([size, size], axis=-1)
