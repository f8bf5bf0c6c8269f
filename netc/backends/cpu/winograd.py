"""Convolution with few multiplications, after Winograd: 36 for 16 cells of a 3 x 3 filter or 4 of a 5 x 5.

The image's tiles and the filters are taken to 6 x 6 points by loops of our own (loops/winograd.py),
multiplied there by oneDNN, point by point as products of matrices, and taken back. Some tiles go through at a
time, so that their points stay in the cache: where there are blocks enough, every thread takes blocks of its
own from the image to the result. Lavin and Gray, Fast algorithms for convolutional neural networks (2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import product
from typing import Final

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.loops import threads_for
from netc.backends.cpu.native import dealt
from netc.backends.cpu.onednn import Descriptor, Engine, Refused, Routine, describe, kinds
from netc.backends.cpu.onednn.functions import dims
from netc.backends.cpu.threads import one_thread
from netc.backends.cpu.winograd_blocks import (
    group_of,
    image_numbers,
    loop_scratch,
    loops_of,
    matrices,
    result_numbers,
    run_of,
    share_of,
    shares_of,
)
from netc.backends.cpu.winograd_task import FLOAT, POINTS, Task, blocks
from netc.backends.form import Run
from netc.layer import Array, Scratch, Shape

BLOCKED_WEIGHTS: Final = {f"Acdb{lanes}a": lanes for lanes in (8, 16, 24, 32, 48, 64)}


class Correlation:
    """result = relu(factor * (w * image) + shift + residual).

    turned: for the bottom's gradient, whose filters are turned by half a circle and lead from outputs to
    inputs. Raises Refused where oneDNN has no fast product, ImportError without numba, OSError without
    OpenMP.
    """

    def __init__(self, engine: Engine, task: Task, *, turned: bool = False, slope: float = 1.0) -> None:
        self.task, self.turned, self.slope = task, turned, slope
        self.dealing = task.dealing(threads_for(task.tiles))
        with one_thread() if self.dealing.shares > 1 else nullcontext():
            self.product = _product(engine, task, self.dealing.block)
        filters = self.product.operands["filters 0"]
        self.lanes = _lanes(engine, task, filters)
        self.filter_plane = filters.nbytes // FLOAT
        self.loops = loops_of(("image_tiles", "tiles_to_image", "filter_points"))

    @property
    def filters_nbytes(self) -> int:
        """Of all filters' points."""
        return self.task.groups * POINTS * self.filter_plane * FLOAT

    @property
    def workspace(self) -> dict[str, Scratch]:
        """What `bind` must be given, but for the filters' points, when another has them."""
        own = shares_of(self._share_workspace, self.dealing.shares)
        return {"tiles": loop_scratch(self.task), **own}

    @property
    def _share_workspace(self) -> dict[str, Scratch]:
        """What each of the threads needs that take blocks of their own."""
        task, block = self.task, self.dealing.block
        return {
            "image points": Scratch((POINTS * block * task.inputs,), np.float32),
            "result points": Scratch((POINTS * block * task.outputs,), np.float32),
            **self.product.workspace,
        }

    def prepare(self, weight: Array, points: Array, scratch: Array) -> Run:
        """Makes the points of the filters from the layer's weights."""
        task, cells = self.task, self.task.size**2
        blocks = -(-task.outputs // self.lanes)
        inner, outer = cells, task.inputs * cells
        if self.turned:
            inner, outer = task.outputs * cells, cells
        numbers = {
            "size": task.size,
            "count": blocks * task.inputs,
            "plane": self.filter_plane,
            "lanes": self.lanes,
            "inputs": task.inputs,
            "channels": task.outputs,
            "filter_step": outer,
            "input_step": inner,
            "cell_step": -1 if self.turned else 1,
        }
        runs = []
        for group, part in enumerate(self._filters_of_groups(points)):
            weights = weight.reshape(task.groups, -1)[group][cells - 1 if self.turned else 0 :]
            arrays = {"filters": weights, "points": part, "scratch": scratch}
            runs.append(run_of(self.loops["filter_points"], numbers, arrays))
        return in_sequence(runs)

    def bind(
        self,
        image: Array,
        result: Array,
        points: Array,
        factor: Array,
        shift: Array,
        workspace: Mapping[str, Array],
        residual: Array | None = None,
    ) -> Run:
        """Its run on channels-last arrays, with the points that `prepare` made; factor and shift: of each
        of the result's channels; residual: None where nothing is added."""
        task, shares = self.task, self.dealing.shares
        arrays = {"result": result, "factor": factor, "shift": shift}
        if residual is not None:
            arrays["residual"] = residual
        pieces = list(product(range(task.groups), blocks(task.tiles, self.dealing.block)))
        dealt_out: list[list[Run]] = [[] for _ in range(shares)]
        for share, runs in enumerate(dealt_out):
            mine = share_of(workspace, self._share_workspace, share)
            products = [self._multiply(filters, mine) for filters in self._filters_of_groups(points)]
            for group, block in pieces[share::shares]:
                before, after = self._ends(group, block, image, arrays, {**workspace, **mine})
                runs += [before, products[group], after]
        return dealt(dealt_out)

    def _filters_of_groups(self, points: Array) -> Array:
        """The filters' points, (groups, points, packed)."""
        return points[: self.filters_nbytes // FLOAT].reshape(self.task.groups, POINTS, -1)

    def _points(self, workspace: Mapping[str, Array]) -> tuple[Array, Array]:
        """Those of a block of the image, and of the result."""
        task, block = self.task, self.dealing.block
        before = matrices(workspace["image points"], block, task.inputs)
        return before, matrices(workspace["result points"], block, task.outputs)

    def _multiply(self, filters: Array, workspace: Mapping[str, Array]) -> Run:
        """The products at all points, of one thread or of the team."""
        before, after = self._points(workspace)
        sides = {"rows": before, "filters": filters, "results": after}
        arrays = {f"{name} {i}": side[i] for name, side in sides.items() for i in range(POINTS)}
        return self.product.bind(arrays, workspace)

    def _ends(
        self,
        group: int,
        block: tuple[int, int],
        image: Array,
        arrays: Mapping[str, Array],
        workspace: Mapping[str, Array],
    ) -> tuple[Run, Run]:
        """What makes the points of a block of the image, and what makes a block of the result of its
        points."""
        task, rows, alone = self.task, self.dealing.block, self.dealing.shares > 1
        before, after = self._points(workspace)
        source = {"values": group_of(image, group, task.inputs), "points": before}
        target = {name: group_of(array, group, task.outputs) for name, array in arrays.items()}
        target = {"values": target.pop("result"), "points": after, **target}
        scratch = {"scratch": workspace["tiles"]}
        numbers = {**result_numbers(task, block, rows), "slope": self.slope}
        return (
            run_of(
                self.loops["image_tiles"], image_numbers(task, block, rows), source | scratch, alone=alone
            ),
            run_of(self.loops["tiles_to_image"], numbers, target | scratch, alone=alone),
        )


def _product(engine: Engine, task: Task, block: int) -> Routine:
    """At each of the points, rows @ filters: as a convolution of 1 x 1 filters, the fastest product of oneDNN
    with one side packed."""
    rows = Descriptor.strided(engine, *_rows(block, task.inputs))
    results = Descriptor.strided(engine, *_rows(block, task.outputs))
    filters = Descriptor.any(engine, (task.outputs, task.inputs, 1, 1))
    windows = (dims((1, 1)), dims((0, 0)), dims((0, 0)), dims((0, 0)))
    kind, algorithm = kinds.FORWARD_INFERENCE, kinds.CONVOLUTION_DIRECT
    operands = (rows, filters, None, results)
    primitive = describe(engine, "convolution_forward", kind, algorithm, *operands, *windows)
    if primitive.is_slow:
        raise Refused("oneDNN has no fast product of matrices")
    routine = Routine(engine)
    for i in range(POINTS):
        reads = {
            kinds.SOURCE: routine.operand(f"rows {i}", rows),
            kinds.WEIGHTS: routine.operand(f"filters {i}", primitive.argument(kinds.WEIGHTS)),
            kinds.DESTINATION: routine.operand(f"results {i}", results),
        }
        routine.add_as_given(primitive, reads)
    return routine


def _rows(rows: int, channels: int) -> tuple[Shape, Shape]:
    """The shape and the strides of row-major matrix as an image whose pixels are its rows."""
    return (1, channels, rows, 1), (rows * channels, 1, channels, channels)


def _lanes(engine: Engine, task: Task, filters: Descriptor) -> int:
    """How many filters lie side by side in the packed weights; Refused where they lie otherwise."""
    for tag, lanes in BLOCKED_WEIGHTS.items():
        if Descriptor.tagged(engine, (task.outputs, task.inputs, 1, 1), tag).is_like(filters):
            return lanes
    raise Refused("oneDNN packs the weights in another way")
