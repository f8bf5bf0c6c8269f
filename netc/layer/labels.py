"""Class labels as the layers read them: floats, cut to integers, some of them ignored."""

from __future__ import annotations

from types import ModuleType

from netc.errors import NetcError
from netc.layer.base import Array, Layer, Shape, count


def labelled_places(layer: Layer, scores: Shape, labels: Shape, axis: int) -> Shape:
    """Scores as (outer, classes, inner), the classes along `axis`. Raises NetcError unless every place of
    outer x inner has a label."""
    outer, classes, inner = count(scores[:axis]), scores[axis], count(scores[axis + 1 :])
    if count(labels) != outer * inner:
        raise layer.error(
            "the number of labels must match the number of predictions",
            blob=layer.spec.bottom[1],
            expected=f"{outer * inner} labels, one for each place of {layer.spec.bottom[0]!r} "
            f"{list(scores)} along axis {axis}",
            found=f"{count(labels)} ({list(labels)})",
            remedy="give labels N (or N x H x W for N x C x H x W), whole numbers, not one-hot rows",
        )
    return outer, classes, inner


def labelled_rows(layer: Layer, scores: Shape, labels: Shape) -> tuple[int, int]:
    """Scores as (rows, classes), all axes after the first as classes. Raises NetcError unless every row has
    one label."""
    if count(labels) != scores[0]:
        raise layer.error(
            f"a {layer.type} needs one label for each row of {layer.spec.bottom[0]!r}",
            blob=layer.spec.bottom[1],
            expected=scores[0],
            found=f"{count(labels)} ({list(labels)})",
        )
    return scores[0], count(scores[1:])


def read_labels(
    layer: Layer, xp: ModuleType, labels: Array, classes: int, ignored: int | None = None
) -> Array:
    """The labels as class indices (int64), -1 where a label is the ignored one.

    Raises NetcError where a label that counts is no class: Caffe reads beyond its arrays there, or crashes.
    """
    good = (labels > -1) & (labels < classes)  # a label of -0.5 is cut to 0
    wrong, usable = ~good, good
    if ignored is not None:
        counts = xp.trunc(labels) != ignored
        wrong, usable = counts & wrong, counts & good
    if wrong.any():
        raise label_error(layer, float(labels[wrong][0]), int(wrong.sum()), labels.size, classes, ignored)
    return xp.where(usable, labels, -1).astype(xp.int64)


def label_error(
    layer: Layer, first: float, wrong: int, labels: int, classes: int, ignored: int | None
) -> NetcError:
    """The error for so many `wrong` ones among `labels`, the first of which is `first`."""
    return layer.error(
        f"label {first:g} is not a class",
        blob=layer.spec.bottom[1],
        expected=f"0 to {classes - 1}, for {classes} classes"
        + ("" if ignored is None else f", or {ignored}"),
        found=f"{first:g}; {wrong} of {labels} labels are out of range",
        remedy="check the labels, num_output of the layer that makes the scores, or set ignore_label",
    )


def score_of_label(xp: ModuleType, scores: Array, index: Array) -> Array:
    """The scores (outer, classes, inner) at each place's own class index (outer, inner)."""
    return xp.take_along_axis(scores, index[:, None, :], axis=1)[:, 0, :]
