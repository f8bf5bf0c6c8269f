"""Layers that measure and have no gradient: Accuracy and ArgMax."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape, count
from netc.layer.labels import labelled_places, read_labels, score_of_label
from netc.layer.registry import register


@register
class Accuracy(Layer):
    """The share of labels whose class is among the `top_k` best scores; a tie counts against it.

    Scores: outer x classes x inner, the classes along `axis`; labels: outer x inner numbers, of which
    `ignore_label` does not count. A second top holds the accuracy of each class, 0 where it has no labels.
    """

    type = "Accuracy"
    options_field = "accuracy_param"
    bottoms = Arity(2)
    tops = Arity(1, 2)
    differentiable = False
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        scores, labels = bottoms
        axis = self.canonical_axis(self.options.axis, len(scores))
        self.outer, self.classes, self.inner = labelled_places(self, scores, labels, axis)
        if self.options.top_k > self.classes:
            raise self.error(
                "top_k is more than there are classes",
                "top_k",
                expected=f"at most {self.classes}",
                found=self.options.top_k,
            )
        return [(), (self.classes,)][: len(self.spec.top)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        scores = b.bottoms[0].reshape(self.outer, self.classes, self.inner)
        labels = b.bottoms[1].reshape(self.outer, self.inner)
        index = read_labels(self, xp, labels, self.classes, self.option("ignore_label"))
        rank = (scores >= score_of_label(xp, scores, index)[:, None, :]).sum(
            axis=1
        )  # the class itself included
        counted = index >= 0
        right = counted & (rank <= self.options.top_k)
        b.tops[0][...] = right.sum() / xp.maximum(counted.sum(), 1)
        if len(b.tops) > 1:
            total = xp.bincount(index[counted], minlength=self.classes)
            b.tops[1][...] = xp.bincount(index[right], minlength=self.classes) / xp.maximum(total, 1)


@register
class ArgMax(Layer):
    """The indices of the `top_k` largest values, best first; among equals the higher index comes first.

    With `axis`, along it: that axis shrinks to top_k, and `out_max_val` gives values in place of indices.
    Without, over everything but the first axis: N x 1 x top_k, or with `out_max_val` N x 2 x top_k (indices,
    values), and further axes of 1 for a bottom of more than 3 axes.
    """

    type = "ArgMax"
    options_field = "argmax_param"
    differentiable = False

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if not shape:
            raise self.error("ArgMax needs a bottom of at least 1 axis", found="a scalar")
        top_k, self.axis = self.options.top_k, None
        if self.options.HasField("axis"):
            self.axis = self.canonical_axis(self.options.axis, len(shape))
        choices = count(shape[1:]) if self.axis is None else shape[self.axis]
        if not 1 <= top_k <= choices:
            raise self.error(
                "top_k must be at least 1 and at most the number of values to choose from",
                "top_k",
                expected=f"1 to {choices}",
                found=top_k,
            )
        self.decides_on_host = top_k > 1  # it sorts
        if self.axis is not None:
            return [(*shape[: self.axis], top_k, *shape[self.axis + 1 :])]
        rows = 2 if self.options.out_max_val else 1
        return [(shape[0], rows, top_k) + (1,) * (len(shape) - 3)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, top_k = b.bottoms[0], b.tops[0], self.options.top_k
        if self.axis is not None:
            index = _largest(xp, x, self.axis, top_k)
            y[...] = xp.take_along_axis(x, index, axis=self.axis) if self.options.out_max_val else index
            return
        rows = x.reshape(len(x), count(x.shape[1:]))
        index = _largest(xp, rows, 1, top_k)
        result = y.reshape(len(x), y.shape[1], top_k)
        result[:, 0] = index
        if self.options.out_max_val:
            result[:, 1] = xp.take_along_axis(rows, index, axis=1)


def _largest(xp: ModuleType, x: Array, axis: int, top_k: int) -> Array:
    """The indices of the largest values along an axis, best first, the higher index before its equals."""
    mirrored = xp.flip(x, axis)
    if top_k == 1:
        place = xp.expand_dims(mirrored.argmax(axis=axis), axis)
    else:
        ranked = xp.argsort(-mirrored, axis=axis, kind="stable")
        place = xp.take(ranked, xp.arange(top_k), axis=axis)
    return x.shape[axis] - 1 - place
