"""The loop of Accuracy, for numba to compile; needs numba.

A row is the scores of one item, and has one label. Bound: memory; 4 bytes a score.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

from numba import carray, int64, types

from netc.backends.cpu.loops.accuracy_job import JOB
from netc.backends.cpu.loops.pieces import STRICT, float_pointer, job_signature, pointer_to

SIGNATURE: Final = job_signature(JOB)

long_pointer = pointer_to(types.int64)


def forward(pointer):
    """The share of labels whose class is among the best, in one thread; a tie counts against it."""
    job = carray(pointer, 1)[0]
    rows, classes, top_k = job.rows, job.classes, job.top_k
    scores, labels = (
        carray(float_pointer(job.scores), (rows, classes)),
        carray(float_pointer(job.labels), rows),
    )
    wrong, right = 0, 0
    for row in range(rows):
        label = labels[row]
        if label > -1 and label < classes:  # -0.5 is cut to 0
            own, rank = scores[row, int64(label)], 0
            for i in range(classes):
                rank += scores[row, i] >= own
            right += rank <= top_k
        else:
            wrong += 1
    carray(long_pointer(job.wrong), 1)[0] = wrong
    carray(float_pointer(job.top), 1)[0] = right / rows


LOOPS: Final = {"forward": forward}
OPTIONS: Final = dict.fromkeys(LOOPS, STRICT)
