"""The forms that run losses and the accuracy on the device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from netc.backends.cuda.device import Device
from netc.backends.cuda.device.form import DeviceForm, fits
from netc.backends.cuda.launching import Table, in_order
from netc.backends.cuda.layers import loss
from netc.backends.cuda.layers.loss import Kept, Labels, Shares, WrongLabels
from netc.backends.cuda.layers.softmax import Scores
from netc.backends.form import Form, Maker, Mode, Run
from netc.errors import NetcError
from netc.graph import Node
from netc.layer import Buffers, Scratch
from netc.layer.base import count
from netc.layer.labels import label_error
from netc.layer.loss import Loss, SigmoidCrossEntropyLoss, SoftmaxWithLoss
from netc.layer.metric import Accuracy
from netc.proto import netc_pb2 as pb


class LossForm(DeviceForm):
    """A sum over all places or elements, divided by a number of them."""

    parts: int  # the blocks that each leave a share of the sum
    fixed: float | None = None  # what the sum is divided by; None: the number of places that count
    wrong: WrongLabels | None = None  # labels that are no classes

    def __init__(self, nodes: Sequence[Node], device: Device, parts: int) -> None:
        super().__init__(nodes, device)
        self.parts = parts
        self.forward_workspace = {
            "sums": Scratch((parts,), np.float64),
            "counts": Scratch((parts,), np.int32),
        }

    def shares(self, b: Buffers) -> Shares:
        return Shares(self.memory(b.workspace["sums"]), self.memory(b.workspace["counts"]), self.parts)

    def finish(self, b: Buffers) -> Run:
        normalizer = self.memory_if(b.saved.get("normalizer"))
        return self.shares(b).finish(self.device, self.fixed, self.memory(b.tops[0]), normalizer)

    def zeros(self, b: Buffers) -> Run:
        """No gradient, for the first bottom."""
        return partial(self.device.fill, self.memory(b.bottom_grads[0]))

    def complaint_of_labels(self, scores: Scores, ignored: int | None) -> NetcError | None:
        """The error for labels that were no classes; None where all were."""
        found = self.wrong.take() if self.wrong else None
        if found is None:
            return None
        first, wrong = found
        error = label_error(self.node.layer, first, wrong, scores.places, scores.classes, ignored)
        if wrong > scores.places:
            error.found = f"{first:g}; {wrong} labels of several batches are out of range"
        return error


def fixed_normalizer(layer: Loss, default: int, outer: int, inner: int) -> float | None:
    """What the sum over outer x inner places is divided by; None where that hangs on the labels."""
    if layer.normalization(default) == pb.LossParameter.VALID:
        return None
    return float(layer.normalizer(default)(outer, inner, 0))


class SoftmaxLossForm(LossForm):
    """SoftmaxWithLoss: keeps two numbers of each place, and makes the probabilities anew in backward."""

    variant = "softmax loss"

    def __init__(self, nodes: Sequence[Node], mode: Mode, device: Device) -> None:
        layer = nodes[0].layer
        assert isinstance(layer, SoftmaxWithLoss)
        self.layer = layer
        self.scores = Scores(layer.outer, layer.classes, layer.inner)
        super().__init__(nodes, device, self.scores.blocks(device))
        self.fixed = fixed_normalizer(layer, pb.LossParameter.VALID, layer.outer, layer.inner)
        self.weights = layer.class_weights
        self.backward_bottoms = (0,)
        self.saved = {}
        if mode.backward and self.needs_backward:
            self.saved = {
                "exponents": Scratch((self.scores.places, loss.EXPONENTS)),
                "index": Scratch((self.scores.places,), np.int32),
                "normalizer": Scratch((1,)),
            }

    def forward(self, b: Buffers) -> Run | None:
        x, values = self.memory(b.bottoms[0]), self.memory(b.bottoms[1])
        labels = Labels(values, self.layer.ignored())
        probability = self.memory(b.tops[1]) if len(b.tops) > 1 else None
        kept, weights = self._kept(b), self._class_weights()
        shares = self.shares(b)
        self.wrong = self.wrong or WrongLabels(self.device)
        run = loss.softmax_loss(
            self.device, self.scores, x, labels, weights, probability, kept, shares, self.wrong
        )
        return in_order(run, self.finish(b))

    def complaint(self) -> NetcError | None:
        return self.complaint_of_labels(self.scores, self.layer.ignored())

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        kept = self._kept(b)
        if b.top_grads[0] is None or kept is None:  # only the probabilities are given a gradient, to no avail
            return self.zeros(b)
        x, weight, dx = (self.memory(a) for a in (b.bottoms[0], b.top_grads[0], b.bottom_grads[0]))
        normalizer, weights = self.memory(b.saved["normalizer"]), self._class_weights()
        return loss.softmax_loss_backward(self.device, self.scores, x, kept, weights, weight, normalizer, dx)

    def _kept(self, b: Buffers) -> Kept | None:
        if not b.saved:
            return None
        return Kept(self.memory(b.saved["exponents"]), self.memory(b.saved["index"]))

    def _class_weights(self) -> Table | None:
        return None if self.weights is None else Table.of(self.device, self.weights, "class weights")


class AccuracyForm(LossForm):
    """Accuracy without a top for each class."""

    variant = "accuracy"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        self.layer = layer = nodes[0].layer
        assert isinstance(layer, Accuracy)
        self.scores = Scores(layer.outer, layer.classes, layer.inner)
        super().__init__(nodes, device, self.scores.blocks(device))

    def forward(self, b: Buffers) -> Run | None:
        labels = Labels(self.memory(b.bottoms[1]), self.layer.option("ignore_label"))
        x, top_k = self.memory(b.bottoms[0]), self.layer.options.top_k
        self.wrong = self.wrong or WrongLabels(self.device)
        run = loss.accuracy(self.device, self.scores, x, labels, top_k, self.shares(b), self.wrong)
        return in_order(run, self.finish(b))

    def complaint(self) -> NetcError | None:
        return self.complaint_of_labels(self.scores, self.layer.option("ignore_label"))

    def backward(self, b: Buffers) -> None:
        """It has no gradient."""


class EuclideanForm(LossForm):
    """EuclideanLoss."""

    variant = "euclidean loss"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        elements = count(nodes[0].inputs[0].shape)
        super().__init__(nodes, device, loss.blocks_of_elements(device, elements))
        self.images = self.inputs[0].shape[0]
        self.fixed = float(self.images)

    def forward(self, b: Buffers) -> Run | None:
        first, second, difference = (self.memory(a) for a in (*b.bottoms, b.saved["difference"]))
        run = loss.euclidean(self.device, first, second, difference, self.shares(b))
        return in_order(run, self.finish(b))

    def backward(self, b: Buffers) -> Run | None:
        da, db = (self.memory_if(grad) for grad in b.bottom_grads)
        if da is None and db is None:
            return None
        difference, weight = self.memory(b.saved["difference"]), self.memory(b.top_grads[0])
        return loss.euclidean_backward(self.device, difference, weight, self.images, da, db)


class SigmoidLossForm(LossForm):
    """SigmoidCrossEntropyLoss."""

    variant = "sigmoid loss"

    def __init__(self, nodes: Sequence[Node], device: Device) -> None:
        layer = nodes[0].layer
        assert isinstance(layer, SigmoidCrossEntropyLoss)
        self.layer = layer
        shape = nodes[0].inputs[0].shape
        super().__init__(nodes, device, loss.blocks_of_elements(device, count(shape)))
        self.fixed = fixed_normalizer(layer, pb.LossParameter.BATCH_SIZE, shape[0], count(shape[1:]))
        self.saved = {**layer.saved, "normalizer": Scratch((1,))}

    def forward(self, b: Buffers) -> Run | None:
        x, sigmoid = self.memory(b.bottoms[0]), self.memory(b.saved["sigmoid"])
        run = loss.sigmoid_loss(self.device, x, self._targets(b), sigmoid, self.shares(b))
        return in_order(run, self.finish(b))

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        sigmoid, normalizer = self.memory(b.saved["sigmoid"]), self.memory(b.saved["normalizer"])
        weight, dx = self.memory(b.top_grads[0]), self.memory(b.bottom_grads[0])
        return loss.sigmoid_loss_backward(self.device, sigmoid, self._targets(b), weight, normalizer, dx)

    def _targets(self, b: Buffers) -> Labels:
        return Labels(self.memory(b.bottoms[1]), self.layer.ignored())


def make_softmax_loss(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None where another layer writes over the scores, which backward reads again."""
    scores = nodes[0].inputs[0]
    while scores.producer.layer.shares_data:  # the other views of their memory are views of what it shows
        scores = scores.producer.inputs[0]
    if not fits(nodes) or (mode.backward and scores.is_overwritten()):
        return None
    return SoftmaxLossForm(nodes, mode, device)


def make_accuracy(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    """None with a second top."""
    return AccuracyForm(nodes, device) if fits(nodes) and len(nodes[0].outputs) < 2 else None


def make_euclidean(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return EuclideanForm(nodes, device) if fits(nodes) else None


def make_sigmoid_loss(nodes: Sequence[Node], mode: Mode, device: Device) -> Form | None:
    return SigmoidLossForm(nodes, device) if fits(nodes) else None


FORMS: dict[tuple[str, ...], Maker] = {
    ("SoftmaxWithLoss",): make_softmax_loss,
    ("Accuracy",): make_accuracy,
    ("EuclideanLoss",): make_euclidean,
    ("SigmoidCrossEntropyLoss",): make_sigmoid_loss,
}
