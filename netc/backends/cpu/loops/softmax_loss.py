"""The loops of the softmax loss behind oneDNN's softmax, for numba to compile; needs numba.

A row is the probabilities of one item, and has one label. Bound: memory; 4 bytes an element forward, 8
backward.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from math import log
from typing import Final

from numba import carray, float32, int64, njit, types

from netc.backends.cpu.loops.pieces import STRICT, float_pointer, job_signature, pointer_to, share
from netc.backends.cpu.loops.softmax_loss_job import JOB

SIGNATURE: Final = job_signature(JOB)

ANY_ORDER: Final = {**STRICT, "fastmath": {"reassoc"}}  # a sum in any order can use vectors

long_pointer = pointer_to(types.int64)


@njit(**ANY_ORDER)
def _nothing(row):
    """0, or NaN where the row holds a NaN: oneDNN gives one only to the class whose score was none, where in
    Caffe all classes have one."""
    total = float32(0)
    for i in range(len(row)):
        total += row[i] * float32(0)
    return total


def forward(pointer):
    """The loss and the index, in one thread. Where a label is no class there is neither."""
    job = carray(pointer, 1)[0]
    rows, classes = job.rows, job.classes
    labels, index = carray(float_pointer(job.labels), rows), carray(long_pointer(job.index), rows)
    probability = carray(float_pointer(job.probability), rows * classes)
    wrong, total = 0, 0.0
    for row in range(rows):
        label = labels[row]
        if label > -1 and label < classes:  # -0.5 is cut to 0
            place = row * classes + int64(label)
            index[row] = place
            likelihood = probability[place] + _nothing(probability[row * classes : (row + 1) * classes])
            total -= log(job.smallest if likelihood < job.smallest else likelihood)  # NaN stays NaN
        else:
            wrong += 1
    carray(long_pointer(job.wrong), 1)[0] = wrong
    carray(float_pointer(job.loss), 1)[0] = total * job.share


def backward(pointer):
    """slope = weight share (p - 1 at the label, else p)."""
    job = carray(pointer, 1)[0]
    rows, classes = job.rows, job.classes
    index = carray(long_pointer(job.index), rows)
    probability = carray(float_pointer(job.probability), rows * classes)
    slope = carray(float_pointer(job.slope), rows * classes)
    scale = carray(float_pointer(job.weight), 1)[0] * job.share
    first, last = share(rows)
    for i in range(first * classes, last * classes):
        slope[i] = scale * probability[i]
    for row in range(first, last):
        slope[index[row]] -= scale


LOOPS: Final = {"forward": forward, "backward": backward}
OPTIONS: Final = dict.fromkeys(LOOPS, STRICT)
