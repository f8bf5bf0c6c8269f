"""Losses and the accuracy on the device: the table of kernels/loss.cu, and its launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.device import Argument, Device, Memory
from netc.backends.cuda.launching import Launch, Table
from netc.backends.cuda.launching.elementwise import FLOAT_BYTES, PACKS, THREADS, blocks_for, pack_of
from netc.backends.cuda.layers.softmax import Scores, by_lanes
from netc.backends.form import Run

FILE = "loss.cu"
OVER_SCORES = ("softmax_loss_forward", "softmax_loss_backward", "accuracy_forward")
OVER_ELEMENTS = ("euclidean_forward", "euclidean_backward", "sigmoid_loss_forward", "sigmoid_loss_backward")
VARIANTS: dict[Any, Variant] = {
    "finish_mean": Variant("finish_mean", FILE, "finish_mean<>", THREADS),
    **{row: variant for kernel in OVER_SCORES for row, variant in by_lanes(kernel, FILE).items()},
    **{
        (kernel, pack): Variant(f"{kernel} pack {pack}", FILE, f"{kernel}<{pack}>", THREADS)
        for kernel in OVER_ELEMENTS
        for pack in PACKS
    },
}
EXPONENTS = 2  # floats of softmax.cuh's structure


@dataclass(frozen=True)
class Shares:
    """What each of `parts` blocks leaves: a double in `sums`, an int32 in `counts`."""

    sums: Memory
    counts: Memory
    parts: int

    def finish(self, device: Device, fixed: float | None, mean: Memory, normalizer: Memory | None) -> Run:
        """The sum over all divided by `fixed`, or where it is None by the count, at least 1."""
        divisor = np.float32(-1 if fixed is None else fixed)
        arguments = (np.int32(self.parts), self.sums, self.counts, divisor, mean, normalizer)
        return Launch.of(device, VARIANTS["finish_mean"], (1,), arguments)


@dataclass(frozen=True)
class Labels:
    """Labels or targets, of which those that are `ignored` when cut to integers do not count."""

    values: Memory
    ignored: int | None = None

    def arguments(self) -> list[Argument]:
        return [self.values, np.bool_(self.ignored is not None), np.int32(self.ignored or 0)]


class WrongLabels:
    """Where kernels note the labels that are no classes, until somebody asks."""

    NONE = np.array([(2**64 - 1, 0, 0)], [("first", "u8"), ("count", "i4"), ("unused", "i4")])

    def __init__(self, device: Device) -> None:
        self._device = device
        self._table = Table.of(device, self.NONE, "wrong labels")
        self.memory = self._table.memory

    def take(self) -> tuple[float, int] | None:
        """The first of them and their number; None where there were none since the last time."""
        found = self._device.download(self.memory, np.empty_like(self.NONE))
        if not found["count"][0]:
            return None
        self._device.upload(self.memory, self.NONE)
        return float(found["first"].astype(np.uint32).view(np.float32)[0]), int(found["count"][0])


@dataclass(frozen=True)
class Kept:
    """What the softmax loss leaves for its backward: of each place EXPONENTS floats and an int32."""

    exponents: Memory
    index: Memory


def blocks_of_elements(device: Device, count: int) -> int:
    """How many shares a sum over `count` elements has."""
    return blocks_for(device, count, PACKS[0])


def softmax_loss(
    device: Device,
    scores: Scores,
    x: Memory,
    labels: Labels,
    class_weights: Table | None,
    probability: Memory | None,
    kept: Kept | None,
    shares: Shares,
    wrong: WrongLabels,
) -> Run:
    """The sum of -log p[label], times its class's weight; `probability` gets all p."""
    weights = class_weights.memory if class_weights else None
    saved = (kept.exponents, kept.index) if kept else (None, None)
    arguments = (*scores.arguments(), x, *labels.arguments(), weights, probability, *saved)
    arguments = (*arguments, shares.sums, shares.counts, wrong.memory)
    variant = VARIANTS["softmax_loss_forward", scores.lanes]
    return Launch.of(device, variant, (shares.parts,), arguments, class_weights, wrong)


def softmax_loss_backward(
    device: Device,
    scores: Scores,
    x: Memory,
    kept: Kept,
    class_weights: Table | None,
    weight: Memory,
    normalizer: Memory,
    dx: Memory,
) -> Run:
    """dx, from the gradient of the loss (one float) and what it was divided by (one float)."""
    weights = class_weights.memory if class_weights else None
    arguments = (*scores.arguments(), x, kept.exponents, kept.index, weights, weight, normalizer, dx)
    variant = VARIANTS["softmax_loss_backward", scores.lanes]
    return Launch.of(device, variant, (scores.blocks(device),), arguments, class_weights)


def accuracy(
    device: Device, scores: Scores, x: Memory, labels: Labels, top_k: int, shares: Shares, wrong: WrongLabels
) -> Run:
    """The number of places whose class is among the `top_k` best scores."""
    arguments = (*scores.arguments(), x, *labels.arguments(), np.int32(top_k), shares.sums, shares.counts)
    variant = VARIANTS["accuracy_forward", scores.lanes]
    return Launch.of(device, variant, (shares.parts,), (*arguments, wrong.memory), wrong)


def euclidean(device: Device, a: Memory, b: Memory, difference: Memory, shares: Shares) -> Run:
    """Half the sum of (a - b)^2; `difference` gets a - b."""
    pack = pack_of(a, b, difference)
    arguments = (np.int64(a.nbytes // FLOAT_BYTES), a, b, difference, shares.sums, shares.counts)
    return Launch.of(device, VARIANTS["euclidean_forward", pack], (shares.parts,), arguments)


def euclidean_backward(
    device: Device, difference: Memory, weight: Memory, images: int, da: Memory | None, db: Memory | None
) -> Run:
    """da = weight difference / images, db = -da."""
    count, pack = difference.nbytes // FLOAT_BYTES, pack_of(difference, da, db)
    arguments = (np.int64(count), difference, weight, np.float32(images), da, db)
    return Launch.of(
        device, VARIANTS["euclidean_backward", pack], (blocks_for(device, count, pack),), arguments
    )


def sigmoid_loss(device: Device, x: Memory, targets: Labels, sigmoid: Memory, shares: Shares) -> Run:
    """The sum of the cross entropies of the sigmoid of x with the targets; `sigmoid` is kept for backward."""
    pack = pack_of(x, targets.values, sigmoid)
    arguments = (np.int64(x.nbytes // FLOAT_BYTES), x, *targets.arguments(), sigmoid)
    arguments = (*arguments, shares.sums, shares.counts)
    return Launch.of(device, VARIANTS["sigmoid_loss_forward", pack], (shares.parts,), arguments)


def sigmoid_loss_backward(
    device: Device, sigmoid: Memory, targets: Labels, weight: Memory, normalizer: Memory, dx: Memory
) -> Run:
    """dx = weight (sigmoid - target) / normalizer, 0 where a target is ignored."""
    count, pack = dx.nbytes // FLOAT_BYTES, pack_of(sigmoid, targets.values, dx)
    arguments = (np.int64(count), sigmoid, *targets.arguments(), weight, normalizer, dx)
    variant = VARIANTS["sigmoid_loss_backward", pack]
    return Launch.of(device, variant, (blocks_for(device, count, pack),), arguments)
