"""Convolution with few multiplications, after Winograd: 36 for 16 cells of a 3 x 3 filter or 4 of a 5 x 5.

The image's tiles and the filters are taken to 6 x 6 points by loops of our own (winograd_loops.py),
multiplied there by oneDNN, point by point as products of matrices, and taken back. Some tiles go through at a
time, so that their points stay in the cache. Lavin and Gray, Fast algorithms for convolutional neural
networks (2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.onednn import Descriptor, Engine, Refused, Routine, describe, kinds
from netc.backends.cpu.onednn.functions import dims
from netc.backends.cpu.onednn.product import Product, row_of
from netc.backends.cpu.winograd_task import FLOAT, LEAST_TILES, POINTS, Task, blocks
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
        self.task, self.block = task, task.block()
        self.turned = turned
        self.slope = slope
        self.product = _product(engine, task, self.block)
        filters = self.product.operands["filters 0"]
        self.lanes = _lanes(engine, task, filters)
        self.filter_plane = filters.nbytes // FLOAT
        names = ("image_tiles", "tiles_to_image", "filter_points")
        self.loops = {name: compiled("winograd_loops", name) for name in names}

    @property
    def filters_nbytes(self) -> int:
        """Of all filters' points."""
        return self.task.groups * POINTS * self.filter_plane * FLOAT

    @property
    def workspace(self) -> dict[str, Scratch]:
        """What `bind` must be given, but for the filters' points, when another has them."""
        task = self.task
        return {
            "image points": Scratch((POINTS * self.block * task.inputs,), np.float32),
            "result points": Scratch((POINTS * self.block * task.outputs,), np.float32),
            "tiles": loop_scratch(task),
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
            runs.append(self._run("filter_points", numbers, arrays))
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
        task = self.task
        before = _matrices(workspace["image points"], self.block, task.inputs)
        after = _matrices(workspace["result points"], self.block, task.outputs)
        scratch = workspace["tiles"]
        runs: list[Run] = []
        for group, filters in enumerate(self._filters_of_groups(points)):
            multiply = self._multiply(before, filters, after, workspace)
            source, target = _group(image, group, task.inputs), _group(result, group, task.outputs)
            ends = {
                "factor": _group(factor, group, task.outputs),
                "shift": _group(shift, group, task.outputs),
            }
            if residual is not None:
                ends["residual"] = _group(residual, group, task.outputs)
            for block in blocks(task.tiles, self.block):
                arrays = {"values": source, "points": before, "scratch": scratch}
                runs.append(self._run("image_tiles", image_numbers(task, block, self.block), arrays))
                runs.append(multiply)
                arrays = {"values": target, "points": after, "scratch": scratch, **ends}
                numbers = {**result_numbers(task, block, self.block), "slope": self.slope}
                runs.append(self._run("tiles_to_image", numbers, arrays))
        return in_sequence(runs)

    def _filters_of_groups(self, points: Array) -> Array:
        """The filters' points, (groups, points, packed)."""
        return points[: self.filters_nbytes // FLOAT].reshape(self.task.groups, POINTS, -1)

    def _multiply(self, before: Array, planes: Array, after: Array, workspace: Mapping[str, Array]) -> Run:
        sides = {"rows": before, "filters": planes, "results": after}
        arrays = {f"{name} {i}": side[i] for name, side in sides.items() for i in range(POINTS)}
        return self.product.bind(arrays, workspace)

    def _run(self, name: str, numbers: Mapping[str, Any], arrays: Mapping[str, Array]) -> Run:
        from netc.backends.cpu.winograd_loops import JOB

        return bound(self.loops[name], JOB, threads_for(numbers["count"]), numbers, arrays)


class FilterGradient:
    """The gradient of the filters, and of the bias where that is wanted.

    Raises ImportError without numba, OSError without OpenMP.
    """

    def __init__(self, engine: Engine, task: Task) -> None:
        self.engine = engine
        # Each block's products are added to the sums over all: the more tiles, the less often.
        balanced = task.inputs * task.outputs // (task.inputs + task.outputs)
        self.task, self.block = task, task.block(max(LEAST_TILES, balanced))
        self.image_row, self.result_row = row_of(task.inputs), row_of(task.outputs)
        names = ("image_tiles", "gradient_tiles", "points_to_filters")
        self.loops = {name: compiled("winograd_loops", name) for name in names}

    @property
    def workspace(self) -> dict[str, Scratch]:
        """What `bind` must be given."""
        task = self.task
        return {
            "image points": Scratch((POINTS * self.block * self.image_row,), np.float32),
            "result points": Scratch((POINTS * self.block * self.result_row,), np.float32),
            "filter points": Scratch((POINTS * task.inputs * task.outputs,), np.float32),
            "sums": Scratch((threads_for(task.tiles) * task.outputs,), np.float64),
            "tiles": loop_scratch(task),
        }

    def bind(
        self,
        image: Array,
        result: Array,
        weight: Array | None,
        bias: Array | None,
        workspace: Mapping[str, Array],
        *,
        adds: tuple[bool, bool],
    ) -> Run:
        """Its run: image, and the gradient of the result, channels last; weight, bias: the gradients to
        write; adds: whether they are added to what is there."""
        runs = []
        for group in range(self.task.groups):
            runs += self._group_runs(group, image, result, weight, bias, workspace, adds)
        return in_sequence(runs)

    def _group_runs(
        self,
        group: int,
        image: Array,
        result: Array,
        weight: Array | None,
        bias: Array | None,
        workspace: Mapping[str, Array],
        adds: tuple[bool, bool],
    ) -> list[Run]:
        task = self.task
        scratch = workspace["tiles"]
        sums = workspace["sums"][: threads_for(task.tiles) * task.outputs]
        source, target = _group(image, group, task.inputs), _group(result, group, task.outputs)
        counted = {} if bias is None else {"sums": sums}
        runs: list[Run] = [] if bias is None else [partial(sums.fill, 0)]
        for first, count in blocks(task.tiles, self.block):
            before = _matrices(workspace["image points"], count, self.image_row)
            after = _matrices(workspace["result points"], count, self.result_row)
            arrays = {"values": source, "points": before, "scratch": scratch}
            block = (first, count)
            numbers = image_numbers(task, block, count, self.image_row)
            runs.append(self._run("image_tiles", numbers, arrays))
            arrays = {"values": target, "points": after, "scratch": scratch, **counted}
            numbers = result_numbers(task, block, count, self.result_row)
            runs.append(self._run("gradient_tiles", numbers, arrays))
            runs += self._products(before, after, workspace["filter points"], add=first > 0)
        if weight is not None:
            part = weight.reshape(task.groups, -1)[group]
            runs.append(self._filters(workspace["filter points"], part, scratch, adds[0]))
        if bias is not None:
            rows, total = sums.reshape(-1, task.outputs), np.empty(task.outputs)
            runs.append(partial(sum_up, rows, total, _group(bias, group, task.outputs), adds[1]))
        return runs

    def _products(self, before: Array, after: Array, points: Array, *, add: bool) -> list[Run]:
        task = self.task
        target = _matrices(points, task.outputs, task.inputs)
        before, after = before[:, :, : task.inputs], after[:, :, : task.outputs]
        return [Product(self.engine, after[i].T, before[i], target[i], add=add) for i in range(POINTS)]

    def _filters(self, points: Array, weight: Array, scratch: Array, adds: bool) -> Run:
        task, cells = self.task, self.task.size**2
        numbers = {
            "size": task.size,
            "count": task.outputs,
            "plane": task.outputs * task.inputs,
            "row": task.inputs,
            "channels": task.inputs,
            "filter_step": task.inputs * cells,
            "input_step": cells,
            "adds": int(adds),
        }
        arrays = {"filters": weight, "points": points, "scratch": scratch}
        return self._run("points_to_filters", numbers, arrays)

    def _run(self, name: str, numbers: Mapping[str, Any], arrays: Mapping[str, Array]) -> Run:
        from netc.backends.cpu.winograd_loops import JOB

        return bound(self.loops[name], JOB, threads_for(numbers["count"]), numbers, arrays)


def image_numbers(task: Task, block: tuple[int, int], rows: int, row: int = 0) -> dict[str, int]:
    """What a loop over the image's tiles goes by; rows: of the block's points; row: the floats from one to
    the next, the channels if 0."""
    numbers = dict(zip(("top", "left"), task.padding, strict=True))
    return {**numbers, **_block_numbers(task, block, rows, row or task.inputs, task.image, task.inputs)}


def result_numbers(task: Task, block: tuple[int, int], rows: int, row: int = 0) -> dict[str, int]:
    """What a loop over the result's tiles goes by."""
    return _block_numbers(task, block, rows, row or task.outputs, task.result, task.outputs)


def _block_numbers(
    task: Task, block: tuple[int, int], rows: int, row: int, image: Shape, channels: int
) -> dict[str, int]:
    return {
        "size": task.cells,
        "first": block[0],
        "count": block[1],
        "down": task.down,
        "across": task.across,
        "height": image[1],
        "width": image[2],
        "pixel": task.groups * channels,
        "plane": rows * row,
        "row": row,
        "channels": channels,
    }


def loop_scratch(task: Task) -> Scratch:
    """What the loops' threads work in."""
    from netc.backends.cpu.winograd_loops import SCRATCH

    most = max(task.tiles, task.inputs * task.outputs)
    return Scratch((threads_for(most) * SCRATCH,), np.float32)


def sum_up(sums: Array, total: Array, target: Array, adds: bool) -> None:
    """target = the sum of the rows (+ target with `adds`); total: a row to work in."""
    np.sum(sums, axis=0, out=total)
    if adds:
        np.add(total, target, out=total)
    np.copyto(target, total, casting="same_kind")


def _matrices(array: Array, rows: int, columns: int) -> Array:
    """A matrix for each point, at the beginning of an array."""
    return array[: POINTS * rows * columns].reshape(POINTS, rows, columns)


def _group(array: Array, group: int, channels: int) -> Array:
    """The channels of one group."""
    mine = slice(group * channels, (group + 1) * channels)
    return array[mine] if array.ndim == 1 else array[:, mine]


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
