"""Finite differences over a whole net in float64: every gradient must be the slope of the net's total.

The total is the net's loss plus a fixed random weighting of its other outputs. A slope at a kink (a maximum's
tie, the corner of a ReLU) is nobody's gradient: give inputs that stay away from them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

Array = np.ndarray[Any, Any]


def check_gradients(
    text: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    fixed: Collection[str] = (),
    phase: int = pb.TRAIN,
    step: float = 1e-6,
    tolerance: float = 1e-5,
    places: int = 12,
    seed: int = 1,
) -> None:
    """Asserts that the gradients of a net's parameters and inputs are slopes.

    text: a net's prototxt; with `force_backward: true` its inputs are checked too. inputs: values of Input
    blobs, random ones for those left out; those in `fixed` (labels) get no gradient. places: how many numbers
    of each blob are moved, drawn at random; a gradient may differ from its slope by `tolerance` times the
    largest slope of the blob, or times 1 where all are smaller.
    """
    net = Net(parse_text(text, pb.NetParameter, "net.prototxt").message, phase, seed=seed, dtype=np.float64)
    random = np.random.default_rng(seed)
    for name in net.inputs:
        blob = net.blobs[name].data
        blob[...] = (inputs or {}).get(name, random.standard_normal(blob.shape))
    checked = _Checked(net, random)
    for name, values, gradient in checked.gradients(fixed):
        chosen = random.permutation(values.size)[:places]
        slopes = np.array([checked.slope(values, place, step) for place in chosen])
        allowed = tolerance * max(1.0, float(np.abs(slopes).max(initial=0)))
        for place, slope in zip(chosen, slopes, strict=True):
            found = gradient.ravel()[place]
            assert abs(found - slope) <= allowed, f"{name} at {place}: gradient {found:g}, slope {slope:g}"


class _Checked:
    """A net whose forward can be repeated: draws, running statistics and recurrent state start as they
    did."""

    def __init__(self, net: Net, random: np.random.Generator) -> None:
        self.net = net
        moving = [self._segment(net.parameters.data, s) for s in net.parameters.segments if not s.lr_mult]
        self.kept = [(array, array.copy()) for array in (*moving, *net.states.values())]
        net.forward()
        self.weights = {
            out.name: random.uniform(0.5, 1.5, out.data.shape)
            for out in net.output_values()
            if not out.loss_weight
        }

    def gradients(self, fixed: Collection[str]) -> list[tuple[str, Array, Array]]:
        """Name, values and gradient of every parameter that learns, and of every input not in `fixed`."""
        net = self.net
        self.total()
        for name, weight in self.weights.items():
            net.blobs[name].diff[...] = weight
        net.clear_param_diffs()
        net.backward()
        found = [
            (
                f"parameter {segment.name}",
                self._segment(net.parameters.data, segment),
                self._segment(net.parameters.grad, segment),
            )
            for segment in net.parameters.segments
            if segment.lr_mult
        ]
        found += [
            (f"blob {name}", net.blobs[name].data, net.blobs[name].diff)
            for name in net.inputs
            if net.definition.force_backward and name not in fixed
        ]
        assert any(gradient.any() for _, _, gradient in found), "there is no gradient to check"
        return [(name, values, gradient.copy()) for name, values, gradient in found]

    @staticmethod
    def _segment(arena: Array, segment: Any) -> Array:
        return arena[segment.offset : segment.offset + segment.count]

    def total(self) -> float:
        """The loss and the weighted outputs of one forward."""
        for array, values in self.kept:
            array[...] = values
        loss = self.net.forward()
        outputs = sum((weight * self.net.blobs[name].data).sum() for name, weight in self.weights.items())
        return float(loss + outputs)

    def slope(self, values: Array, place: int, step: float) -> float:
        """The total's slope when one number moves."""
        flat = values.reshape(-1)
        kept = flat[place]
        totals = []
        for moved in (kept + step, kept - step):
            flat[place] = moved
            totals.append(self.total())
        flat[place] = kept
        return (totals[0] - totals[1]) / (2 * step)
