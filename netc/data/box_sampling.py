"""SSD's batch samplers: random parts of an image that hold what they should of its objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.data.boxes import coverages, overlaps
from netc.data.source import Origin
from netc.proto import netc_pb2 as pb

FIELD = ("annotated_data_param", "batch_sampler")


class BoxSampler:
    """Draws parts of images.

    A sampler gives up to `max_sample` parts in `max_trials` draws: of a scale and an aspect ratio from its
    ranges, anywhere in the image, that meet its constraint with one object at least. One of the parts of all
    samplers is taken.
    """

    def __init__(self, samplers: Sequence[pb.BatchSampler], origin: Origin) -> None:
        """Raises NetcError where the range of a sampler is empty or out of bounds."""
        self._samplers = [sampler for sampler in samplers if sampler.use_original_image]
        for number, batch_sampler in enumerate(samplers):
            _check(batch_sampler.sampler, origin, (*FIELD, number, "sampler"))

    def draw(self, objects: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
        """A part of an image with these objects (n, 4): a box; None where no sampler finds one."""
        parts = [part for sampler in self._samplers for part in self._parts(sampler, objects, random)]
        return parts[int(random.integers(len(parts)))] if parts else None

    @staticmethod
    def _parts(
        batch_sampler: pb.BatchSampler, objects: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        drawn = _draw_boxes(batch_sampler.sampler, random.random((batch_sampler.max_trials, 4)))
        found = drawn[satisfies(drawn, objects, batch_sampler.sample_constraint)]
        return found[: batch_sampler.max_sample] if batch_sampler.HasField("max_sample") else found


def _draw_boxes(sampler: pb.Sampler, draws: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) from numbers in [0, 1) (n, 4): of scale, aspect ratio, and left and top edge."""
    scale = sampler.min_scale + draws[:, 0] * (sampler.max_scale - sampler.min_scale)
    ratio = sampler.min_aspect_ratio + draws[:, 1] * (sampler.max_aspect_ratio - sampler.min_aspect_ratio)
    root = np.sqrt(np.clip(ratio, scale**2, 1 / scale**2))  # so that the box is no larger than the image
    size = np.minimum(np.stack([scale * root, scale / root], axis=1), 1)
    corner = draws[:, 2:] * (1 - size)
    return np.concatenate([corner, corner + size], axis=1)


def satisfies(parts: np.ndarray, objects: np.ndarray, constraint: pb.SampleConstraint) -> np.ndarray:
    """Which parts (n, 4) meet all bounds of a constraint with one of the objects (m, 4) at least; all of them
    where there is no bound."""
    measures = {
        "jaccard_overlap": lambda: overlaps(np, parts, objects),
        "sample_coverage": lambda: coverages(np, parts, objects),
        "object_coverage": lambda: coverages(np, objects, parts).T,
    }
    bounded = False
    met = np.ones((len(parts), len(objects)), bool)
    for name, measure in measures.items():
        for bound, holds in ((f"min_{name}", np.greater_equal), (f"max_{name}", np.less_equal)):
            if constraint.HasField(bound):
                bounded = True
                met &= holds(measure(), getattr(constraint, bound))
    return np.asarray(met.any(axis=1)) if bounded else np.ones(len(parts), bool)


def _check(sampler: pb.Sampler, origin: Origin, path: tuple[Any, ...]) -> None:
    for name, limit in (("scale", 1.0), ("aspect_ratio", np.inf)):
        low, high = getattr(sampler, f"min_{name}"), getattr(sampler, f"max_{name}")
        if not 0 < low <= high <= limit:
            raise origin.error(
                f"a sampler's {name} must lie between its bounds",
                *path,
                expected=f"0 < min_{name} <= max_{name}" + (" <= 1" if limit == 1 else ""),
                found=f"{low:g} and {high:g}",
            )
