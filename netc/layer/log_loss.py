"""Losses by the logarithm of a probability: MultinomialLogisticLoss of given ones, InfogainLoss of a
softmax's."""

from __future__ import annotations

from types import ModuleType
from typing import Final

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Scratch, Shape, count
from netc.layer.labels import labelled_rows, read_labels
from netc.layer.loss import Loss, SoftmaxWithLoss
from netc.layer.registry import register
from netc.layer.softmax import softmax
from netc.schema.blobs import read_blob

LEAST_PROBABILITY: Final = 1e-20  # Caffe takes the logarithm of no less


@register
class MultinomialLogisticLoss(Loss):
    """-sum log p[label] / N for probabilities p, which some Softmax layer before it makes.

    p: N x classes (all axes after the first are classes); labels: N numbers. Probabilities below 1e-20 count
    as 1e-20. SoftmaxWithLoss does the same with a more stable gradient.
    """

    type = "MultinomialLogisticLoss"
    backward_bottoms = (0,)
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms)
        self.rows = labelled_rows(self, *bottoms)
        self.saved = {"index": Scratch((self.rows[0],), np.int64)}
        return tops

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        index = b.saved["index"]
        index[...] = read_labels(self, xp, b.bottoms[1].reshape(-1), self.rows[1])
        b.tops[0][...] = 0 - xp.log(self._of_labels(xp, b)).sum() / max(1, self.rows[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        weight: Array = b.top_grads[0]
        dx[...] = 0
        slopes = -weight / max(1, self.rows[0]) / self._of_labels(xp, b)
        dx.reshape(self.rows)[xp.arange(self.rows[0]), b.saved["index"]] = slopes

    def _of_labels(self, xp: ModuleType, b: Buffers) -> Array:
        """The probability of each row's own label."""
        rows = b.bottoms[0].reshape(self.rows)
        chosen = rows[xp.arange(self.rows[0]), b.saved["index"]]
        return xp.maximum(chosen, chosen.dtype.type(LEAST_PROBABILITY))


@register
class InfogainLoss(SoftmaxWithLoss):
    """-sum over classes k of H[label, k] log p[k], / normalizer, with p = softmax(x) along `axis`.

    H (classes x classes) says how much each prediction is worth for each label; the identity makes this
    SoftmaxWithLoss. It is the third bottom, or the BlobProto file `source`. x, labels, `loss_param` and the
    second top are as in SoftmaxWithLoss; probabilities below 1e-20 count as 1e-20.
    """

    type = "InfogainLoss"
    options_field = "infogain_loss_param"
    bottoms = Arity(2, 3)
    backward_bottoms = (2,)

    matrix: Array | None  # of `source`

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms[:2])
        if self.class_weights is not None:
            raise self.error(
                "an InfogainLoss knows no class weights",
                remedy="multiply each row of H by its class's weight",
            )
        self.matrix = None if len(bottoms) == 3 else self._read_matrix()
        found = bottoms[2] if self.matrix is None else self.matrix.shape
        if count(found) != self.classes**2:
            raise self.error(
                "the infogain matrix must have a row and a column for each class",
                *([] if self.matrix is None else ["source"]),
                blob=self.spec.bottom[2] if self.matrix is None else None,
                expected=f"{self.classes} x {self.classes}",
                found=" x ".join(map(str, found)),
            )
        return tops

    def _read_matrix(self) -> Array:
        if not self.options.HasField("source"):
            raise self.error(
                "the infogain matrix is missing",
                expected="a third bottom, or a source",
                remedy='add `infogain_loss_param { source: "H.binaryproto" }`',
            )
        return read_blob(self.options.source)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        probability, index = b.saved["probability"], b.saved["index"]
        softmax(xp, b.bottoms[0].reshape(probability.shape), axis=1, out=probability)
        if len(b.tops) > 1:
            b.tops[1][...] = probability.reshape(b.tops[1].shape)
        labels = b.bottoms[1].reshape(index.shape)
        index[...] = read_labels(self, xp, labels, self.classes, self.ignored())
        logarithms = xp.log(xp.maximum(probability, probability.dtype.type(LEAST_PROBABILITY)))
        worth = (self._worth(xp, b) * logarithms).sum(axis=1)
        if self.ignored() is not None:
            worth = xp.where(index >= 0, worth, 0)
        b.tops[0][...] = 0 - worth.sum() / self._normalizer(xp, index)  # never -0

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        weight, index = b.top_grads[0], b.saved["index"]
        if weight is None:  # of two tops only the probabilities are given a gradient, which goes nowhere
            dx[...] = 0
            return
        slope = dx.reshape(b.saved["probability"].shape)
        worth = self._worth(xp, b)
        xp.multiply(b.saved["probability"], worth.sum(axis=1, keepdims=True), out=slope)
        slope -= worth
        if self.ignored() is not None:
            slope[...] = xp.where((index >= 0)[:, None, :], slope, 0)
        slope *= weight / self._normalizer(xp, index)

    def _worth(self, xp: ModuleType, b: Buffers) -> Array:
        """The row of H for the label of each place: (outer, classes, inner)."""
        own = self.matrix
        if own is None:
            matrix = b.bottoms[2]
        else:
            matrix = self.constant(xp, "matrix", lambda: own.astype(self.dtype))
        return xp.moveaxis(matrix.reshape(self.classes, self.classes)[b.saved["index"]], 2, 1)
