"""Losses: scalars that a net minimises. The gradient of a loss top is its loss weight."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from netc.errors import NetcError
from netc.layer.activation import log_1_plus_exp, sigmoid
from netc.layer.base import Arity, Array, Buffers, Indices, Layer, Scratch, Shape, count
from netc.layer.labels import labelled_places, labelled_rows, read_labels, score_of_label
from netc.layer.registry import register
from netc.layer.softmax import softmax
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # Caffe clamps at FLT_MIN

# What a sum over outer * inner places is divided by, `counted` of which are not ignored.
NORMALIZERS: dict[int, Callable[[int, int, Any], Any]] = {
    pb.LossParameter.FULL: lambda outer, inner, counted: outer * inner,
    pb.LossParameter.VALID: lambda outer, inner, counted: counted,
    pb.LossParameter.BATCH_SIZE: lambda outer, inner, counted: outer,
    pb.LossParameter.NONE: lambda outer, inner, counted: 1,
}


class Loss(Layer):
    """Two bottoms (predictions, truth) with one first axis, one scalar top. The truth gets no gradient."""

    is_loss = True
    other_options: ClassVar[tuple[str, ...]] = ("loss_param",)
    bottoms = Arity(2)
    backward_bottoms: Indices = ()
    backward_tops: Indices = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        first, second = bottoms
        if first[:1] != second[:1] or not first:
            raise self.error(
                "both bottoms of a loss must have the same first axis",
                blob=self.spec.bottom[1],
                expected=f"{first[0] if first else 'a batch axis'}, as {self.spec.bottom[0]!r} {list(first)}",
                found=list(second),
            )
        return [()]

    def gives_gradient(self, bottom: int) -> bool:
        return bottom == 0

    def normalization(self, default: int) -> int:
        """The mode of `loss_param`: `normalization`, the older `normalize`, or the layer's default."""
        options = self.spec.loss_param
        if options.HasField("normalization") or not options.HasField("normalize"):
            return options.normalization if options.HasField("normalization") else default
        return pb.LossParameter.VALID if options.normalize else pb.LossParameter.BATCH_SIZE

    def normalizer(self, default: int) -> Callable[[int, int, Any], Any]:
        """What a sum over outer * inner places is divided by, `counted` of which are not ignored."""
        mode = self.normalization(default)
        if mode == pb.LossParameter.PRE_FIXED:
            return lambda outer, inner, counted: self.spec.loss_param.pre_fixed_normalizer
        return NORMALIZERS[mode]

    def ignored(self) -> int | None:
        """`ignore_label` of loss_param."""
        return self.spec.loss_param.ignore_label if self.spec.loss_param.HasField("ignore_label") else None


@register
class SoftmaxWithLoss(Loss):
    """-sum log p[label] / normalizer with p = softmax(x) along `axis`, p clamped at the smallest float.

    x: outer x classes x inner (N C H W: a label for each pixel); labels: outer x inner numbers. A second top
    holds p. `loss_param` names an `ignore_label` and the normalizer: VALID (the labels that count) unless
    stated, and never below 1. `class_weight`, one number per class, weighs every place by its label, as
    SegNet's `class_weighting` does with `weight_by_label_freqs: true`; the normalizer stays as it is.
    """

    type = "SoftmaxWithLoss"
    options_field = "softmax_param"
    tops = Arity(1, 2)
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        super().infer(bottoms)
        scores, labels = bottoms
        axis = self.canonical_axis(self.options.axis, len(scores))
        self.outer, self.classes, self.inner = labelled_places(self, scores, labels, axis)
        self.normalize = self.normalizer(default=pb.LossParameter.VALID)
        self.class_weights = self._class_weights()
        self.saved = {
            "probability": Scratch((self.outer, self.classes, self.inner)),
            "index": Scratch((self.outer, self.inner), np.int64),
        }
        return [(), scores][: max(1, len(self.spec.top))]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        probability, index = b.saved["probability"], b.saved["index"]
        softmax(xp, b.bottoms[0].reshape(probability.shape), axis=1, out=probability)
        if len(b.tops) > 1:
            b.tops[1][...] = probability.reshape(b.tops[1].shape)
        labels = b.bottoms[1].reshape(index.shape)
        index[...] = read_labels(self, xp, labels, self.classes, self.ignored())
        likelihood = xp.log(xp.maximum(score_of_label(xp, probability, index), SMALLEST_PROBABILITY))
        if self.ignored() is not None:
            likelihood = xp.where(index >= 0, likelihood, 0)
        if self.class_weights is not None:
            likelihood = likelihood * self._weights(xp, index)
        self.deliver(xp, b, likelihood)

    def deliver(self, xp: ModuleType, b: Buffers, likelihood: Array) -> None:
        """Writes the loss, given log p[label] (outer x inner), weighted, 0 where a label is ignored."""
        b.tops[0][...] = 0 - likelihood.sum() / self._normalizer(xp, b.saved["index"])  # never -0

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        weight, index = b.top_grads[0], b.saved["index"]
        if weight is None:  # of two tops only the probabilities are given a gradient, which goes nowhere
            dx[...] = 0
            return
        slope = dx.reshape(b.saved["probability"].shape)
        slope[...] = b.saved["probability"]
        slope[xp.arange(self.outer)[:, None], index, xp.arange(self.inner)] -= 1
        if self.ignored() is not None:
            slope[...] = xp.where((index >= 0)[:, None, :], slope, 0)
        if self.class_weights is not None:
            slope *= self._weights(xp, index)[:, None, :]
        slope *= weight / self._normalizer(xp, index)

    def _class_weights(self) -> np.ndarray[Any, Any] | None:
        """One weight per class, None for none. Raises NetcError where they are not as many as the classes."""
        options = self.spec.loss_param
        name = "class_weight" if options.class_weight else "class_weighting"
        weights = getattr(options, name)
        if name == "class_weighting" and not options.weight_by_label_freqs:
            if weights:
                log.warning(
                    "%s: layer %s: class_weighting has no effect without weight_by_label_freqs: true",
                    self.locate("loss_param", name),
                    self.name,
                )
            return None
        if len(weights) != self.classes:
            raise NetcError(
                "one weight per class is needed",
                at=self.locate("loss_param", name),
                layer=f"{self.name} ({self.type})",
                expected=f"{self.classes} values of {name}, for {self.classes} classes",
                found=len(weights),
            )
        return np.array(weights, self.dtype)

    def _weights(self, xp: ModuleType, index: Array) -> Array:
        """Every place's weight by its label; an ignored label gets any."""
        return self.constant(xp, "class weights", lambda: self.class_weights)[index]

    def _normalizer(self, xp: ModuleType, index: Array) -> Any:
        counted = index.size if self.ignored() is None else (index >= 0).sum()
        return xp.maximum(self.normalize(self.outer, self.inner, counted), 1)


@register
class EuclideanLoss(Loss):
    """sum (a - b)^2 / (2 N); both bottoms get a gradient."""

    type = "EuclideanLoss"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms)
        first, second = bottoms
        if count(first) != count(second):
            raise self.error(
                "both bottoms of a EuclideanLoss must have as many elements",
                blob=self.spec.bottom[1],
                expected=f"{count(first)}, as {self.spec.bottom[0]!r} {list(first)}",
                found=f"{count(second)} ({list(second)})",
            )
        self.saved = {"difference": Scratch(first)}
        return tops

    def gives_gradient(self, bottom: int) -> bool:
        return True

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference = b.saved["difference"]
        xp.subtract(b.bottoms[0], b.bottoms[1].reshape(difference.shape), out=difference)
        flat = difference.reshape(-1)
        b.tops[0][...] = xp.dot(flat, flat) / (2 * difference.shape[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        difference = b.saved["difference"]
        weight: Array = b.top_grads[0]
        scale = weight / difference.shape[0]
        for dx, sign in zip(b.bottom_grads, (1, -1), strict=True):
            if dx is not None:
                xp.multiply(difference.reshape(dx.shape), sign * scale, out=dx)


@register
class HingeLoss(Loss):
    """sum_k max(0, 1 + s_k x_k)^p / N; s_k = -1 for the labelled class, else 1; p = 1 (L1) or 2 (L2).

    x: N x classes (all axes after the first are classes); labels: N numbers.
    """

    type = "HingeLoss"
    options_field = "hinge_loss_param"
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms)
        rows, self.classes = labelled_rows(self, *bottoms)
        self.saved = {
            "margin": Scratch((rows, self.classes)),
            "index": Scratch((rows,), np.int64),
        }
        return tops

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        margin, index = b.saved["margin"], b.saved["index"]
        index[...] = read_labels(self, xp, b.bottoms[1].reshape(-1), self.classes)
        margin[...] = b.bottoms[0].reshape(margin.shape)
        margin[xp.arange(len(index)), index] *= -1
        margin += 1
        xp.maximum(margin, 0, out=margin)
        flat = margin.reshape(-1)
        total = flat.sum() if self.options.norm == pb.HingeLossParameter.L1 else xp.dot(flat, flat)
        b.tops[0][...] = total / len(index)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        margin, index = b.saved["margin"], b.saved["index"]
        dx: Array = b.bottom_grads[0]
        slope = dx.reshape(margin.shape)
        weight: Array = b.top_grads[0]
        scale = weight / len(index)
        if self.options.norm == pb.HingeLossParameter.L1:
            xp.multiply(margin > 0, scale, out=slope)
        else:
            xp.multiply(margin, 2 * scale, out=slope)
        slope[xp.arange(len(index)), index] *= -1


@register
class SigmoidCrossEntropyLoss(Loss):
    """-sum (t log s + (1 - t) log(1 - s)) / normalizer with s = sigmoid(x), computed without overflow.

    x and the targets t (any number from 0 to 1) have as many elements. A target that, cut to an integer, is
    `ignore_label` does not count. The default normalizer is the batch size.
    """

    type = "SigmoidCrossEntropyLoss"
    backward_bottoms = (1,)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms)
        scores, targets = bottoms
        if count(scores) != count(targets):
            raise self.error(
                "a SigmoidCrossEntropyLoss needs one target for each score",
                blob=self.spec.bottom[1],
                expected=f"{count(scores)}, as {self.spec.bottom[0]!r} {list(scores)}",
                found=f"{count(targets)} ({list(targets)})",
            )
        self.normalize = self.normalizer(default=pb.LossParameter.BATCH_SIZE)
        self.saved = {"sigmoid": Scratch(scores)}
        return tops

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x = b.bottoms[0]
        targets = b.bottoms[1].reshape(x.shape)
        sigmoid(xp, x, out=b.saved["sigmoid"])
        loss = xp.maximum(x, 0) - x * targets + log_1_plus_exp(xp, -xp.abs(x))
        counts = self._counts(xp, targets)
        if counts is not None:
            loss = xp.where(counts, loss, 0)
        b.tops[0][...] = loss.sum() / self._normalizer(xp, x.shape, counts)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        targets = b.bottoms[1].reshape(dx.shape)
        counts = self._counts(xp, targets)
        xp.subtract(b.saved["sigmoid"], targets, out=dx)
        if counts is not None:
            dx[...] = xp.where(counts, dx, 0)
        weight: Array = b.top_grads[0]
        dx *= weight / self._normalizer(xp, dx.shape, counts)

    def _counts(self, xp: ModuleType, targets: Array) -> Array | None:
        ignored = self.ignored()
        return None if ignored is None else xp.trunc(targets) != ignored

    def _normalizer(self, xp: ModuleType, shape: Shape, counts: Array | None) -> Any:
        counted = count(shape) if counts is None else counts.sum()
        return xp.maximum(self.normalize(shape[0], count(shape[1:]), counted), 1)
