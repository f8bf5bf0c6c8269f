"""Which boxes belong together, and which are kept: matching with true boxes, non-maximum suppression."""

from __future__ import annotations

from types import ModuleType

from netc.data.boxes import crosses_border, overlaps
from netc.layer.base import Array

UNMATCHED = -1
IGNORED = -2  # reaches out of the image, and such boxes are to be left out
BLOCK = 256  # boxes that are held against each other at a time
SMALLEST_OVERLAP = 1e-6  # what overlaps less does not count as overlapping


def match_boxes(
    xp: ModuleType, boxes: Array, truths: Array, threshold: float | None, leave_out_crossing: bool = False
) -> tuple[Array, Array]:
    """For every box (P, 4) the number of its true box (G, 4), UNMATCHED or IGNORED; and its largest overlap.

    First every true box takes the box that it overlaps most: the largest overlap of all is settled first, and
    each box is taken once (bipartite matching). Then, with a threshold, every box that is left takes the true
    box that it overlaps most, if that is at least the threshold.
    """
    index = xp.full(len(boxes), UNMATCHED, xp.int64)
    if len(truths) == 0 or len(boxes) == 0:
        return index, xp.zeros(len(boxes), boxes.dtype)
    shared = overlaps(xp, boxes, truths)
    shared[shared <= SMALLEST_OVERLAP] = 0
    if leave_out_crossing:
        crossing = crosses_border(boxes)
        index[crossing] = IGNORED
        shared[crossing] = 0
    best = shared.max(axis=1)
    left = shared.copy()
    for _ in range(len(truths)):
        box, truth = divmod(int(left.argmax()), len(truths))
        if left[box, truth] <= 0:
            break
        index[box], best[box] = truth, left[box, truth]
        left[box], left[:, truth] = 0, 0
    if threshold is not None:
        nearest = shared.argmax(axis=1)
        overlap = shared[xp.arange(len(boxes)), nearest]
        close = (index == UNMATCHED) & (overlap > 0) & (overlap >= threshold)
        index = xp.where(close, nearest, index)
    return index, best


def best_first(xp: ModuleType, scores: Array, most: int = -1) -> Array:
    """The numbers of the highest scores in falling order, at most `most` where that is not negative."""
    order = xp.argsort(-scores, kind="stable")
    return order if most < 0 else order[:most]


def suppress_overlapping(xp: ModuleType, boxes: Array, threshold: float, eta: float = 1.0) -> list[int]:
    """Non-maximum suppression: of boxes (n, 4), the best first, the numbers of those that overlap no better
    one that was kept by more than the threshold.

    eta: what the threshold is multiplied by after each box that is kept, while it is above 0.5.
    """
    kept: list[int] = []
    for start in range(0, len(boxes), BLOCK):
        block = boxes[start : start + BLOCK]
        worst = xp.zeros(len(block), boxes.dtype)  # the largest overlap with a kept box
        if kept:
            worst = overlaps(xp, block, boxes[xp.asarray(kept)]).max(axis=1)
        among = overlaps(xp, block, block)
        for i in range(len(block)):
            if not worst[i] <= threshold:
                continue
            kept.append(start + i)
            xp.maximum(worst, among[i], out=worst)
            if eta < 1 and threshold > 0.5:
                threshold *= eta
    return kept
