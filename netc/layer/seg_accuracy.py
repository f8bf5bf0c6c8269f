"""SegAccuracy: how well the pixels of images are classified."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Layer, Scratch, Shape
from netc.layer.registry import register


@register
class SegAccuracy(Layer):
    """Pixel accuracy, mean recall of the classes and their mean overlap (intersection over union):
    (1, 1, 1, 3).

    Bottoms: scores (N, C, H, W) and labels (N, 1, H, W); labels of `ignore_label` (any number of them) do not
    count. Among equal scores the higher class wins. A class without labels is left out of the recall; one
    that is neither a label nor a prediction has overlap 1. With `reset: false` the counts go on from one
    forward to the next. (Chen et al., "DeepLab", 2015)
    """

    type = "SegAccuracy"
    options_field = "seg_accuracy_param"
    bottoms = Arity(2)
    differentiable = False
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        scores, labels = bottoms
        if len(scores) != 4:
            raise self.error(
                "SegAccuracy needs scores (N, C, H, W)",
                blob=self.spec.bottom[0],
                expected="4 axes",
                found=scores,
            )
        if labels not in ((scores[0], 1, *scores[2:]), (scores[0], *scores[2:])):
            raise self.error(
                "a label is needed for every pixel of the scores",
                blob=self.spec.bottom[1],
                expected=(scores[0], 1, *scores[2:]),
                found=labels,
            )
        self.classes = scores[1]
        self.states = {"counts": Scratch((self.classes, self.classes), np.int64)}  # of label i, predicted j
        return [(1, 1, 1, 3)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        counts = b.states["counts"]
        if self.options.reset:
            counts[...] = 0
        scores, classes = b.bottoms[0], self.classes
        labels = self._labels(xp, b.bottoms[1])
        predicted = (classes - 1 - scores[:, ::-1].argmax(axis=1)).reshape(-1)
        counted = labels >= 0
        pairs = labels[counted] * classes + predicted[counted]
        counts += xp.bincount(pairs, minlength=classes * classes).reshape(counts.shape)
        right, labelled, found = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        union = labelled + found - right
        present = labelled > 0
        result = b.tops[0].reshape(-1)
        result[0] = right.sum() / xp.maximum(labelled.sum(), 1)
        result[1] = (right / xp.maximum(labelled, 1)).sum() / xp.maximum(present.sum(), 1)
        result[2] = xp.where(union > 0, right / xp.maximum(union, 1), 1).mean()

    def _labels(self, xp: ModuleType, labels: Array) -> Array:
        """The labels as class indices, -1 where they are ignored. Raises NetcError where one is no class."""
        index = labels.reshape(-1).astype(xp.int64)
        ignored = xp.zeros(index.shape, bool)
        for label in self.options.ignore_label:
            ignored |= index == label
        wrong = ~ignored & ((index < 0) | (index >= self.classes))
        if wrong.any():
            raise self.error(
                f"label {int(index[wrong][0])} is not a class",
                blob=self.spec.bottom[1],
                expected=f"0 to {self.classes - 1}, or one of ignore_label {list(self.options.ignore_label)}",
                found=f"{int(index[wrong][0])}; {int(wrong.sum())} of {index.size} labels are out of range",
                remedy="check the labels, num_output of the layer that makes the scores, or add ignore_label",
            )
        return xp.where(ignored, -1, index)
