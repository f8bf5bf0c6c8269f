"""The gradient of filters by Winograd's convolution: the way back through all of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.loops import threads_for
from netc.backends.cpu.native import dealt
from netc.backends.cpu.onednn import Engine
from netc.backends.cpu.onednn.product import Product, row_of
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
from netc.backends.cpu.winograd_task import FILTER_POINTS, POINTS, Task, blocks
from netc.backends.form import Run
from netc.layer import Array, Scratch

NONE: Final[Mapping[str, Array]] = {}
LOOPS: Final = "image_tiles", "gradient_tiles", "points_to_filters", "clear_sums", "bias_gradient"


class FilterGradient:
    """The gradient of the filters, and of the bias where that is wanted.

    The order of the sums hangs on the number of threads only. Raises ImportError without numba, OSError
    without OpenMP.
    """

    def __init__(self, engine: Engine, task: Task) -> None:
        self.engine, self.task = engine, task
        self.dealing = task.gradient_dealing(threads_for(task.tiles))
        self.image_row, self.result_row = row_of(task.inputs), row_of(task.outputs)
        self.loops = loops_of(LOOPS)

    @property
    def workspace(self) -> dict[str, Scratch]:
        """What `bind` must be given."""
        task = self.task
        return {
            "sums": Scratch((threads_for(task.tiles) * task.outputs,), np.float64),
            "tiles": loop_scratch(task),
            **shares_of(self._share_workspace, self.dealing.shares),
        }

    @property
    def _share_workspace(self) -> dict[str, Scratch]:
        """What each of the threads needs that take blocks of their own."""
        task, block = self.task, self.dealing.block
        return {
            "image points": Scratch((POINTS * block * self.image_row,), np.float32),
            "result points": Scratch((POINTS * block * self.result_row,), np.float32),
            FILTER_POINTS: Scratch((POINTS * task.inputs * task.outputs,), np.float32),
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
        task, runs = self.task, list[Run]()
        for group in range(task.groups):
            sides = group_of(image, group, task.inputs), group_of(result, group, task.outputs)
            if bias is not None:
                runs.append(self._bias("clear_sums", workspace))
            runs.append(self._sums_over_tiles(sides, workspace, biased=bias is not None))
            if weight is not None:
                runs.append(self._filters(weight.reshape(task.groups, -1)[group], workspace, adds[0]))
            if bias is not None:
                part = group_of(bias, group, task.outputs)
                runs.append(self._bias("bias_gradient", workspace, {"filters": part}, adds[1]))
        return in_sequence(runs)

    def _sums_over_tiles(
        self, sides: tuple[Array, Array], workspace: Mapping[str, Array], *, biased: bool
    ) -> Run:
        """The points of the filters of one group, in a copy for each share, and the sums for the bias."""
        task, shares = self.task, self.dealing.shares
        pieces = list(blocks(task.tiles, self.dealing.block))
        dealt_out: list[list[Run]] = [[] for _ in range(shares)]
        for share, runs in enumerate(dealt_out):
            mine = {**workspace, **share_of(workspace, self._share_workspace, share)}
            for block in pieces[share::shares]:
                runs += self._block_runs(sides, block, mine, biased=biased, add=bool(runs))
        return dealt(dealt_out)

    def _block_runs(
        self,
        sides: tuple[Array, Array],
        block: tuple[int, int],
        workspace: Mapping[str, Array],
        *,
        biased: bool,
        add: bool,
    ) -> list[Run]:
        """What a block of tiles gives; add: to the filters' points that are there."""
        task, rows, alone = self.task, block[1], self.dealing.shares > 1
        before = matrices(workspace["image points"], rows, self.image_row)
        after = matrices(workspace["result points"], rows, self.result_row)
        target = matrices(workspace[FILTER_POINTS], task.outputs, task.inputs)
        scratch = {"scratch": workspace["tiles"]}
        source = {"values": sides[0], "points": before, **scratch}
        result = {"values": sides[1], "points": after, **scratch}
        if biased:
            result["sums"] = workspace["sums"]
        numbers = [
            image_numbers(task, block, rows, self.image_row),
            result_numbers(task, block, rows, self.result_row),
        ]
        before, after = before[:, :, : task.inputs], after[:, :, : task.outputs]
        return [
            run_of(self.loops["image_tiles"], numbers[0], source, alone=alone),
            run_of(self.loops["gradient_tiles"], numbers[1], result, alone=alone),
            *(Product(self.engine, after[i].T, before[i], target[i], add=add) for i in range(POINTS)),
        ]

    def _filters(self, weight: Array, workspace: Mapping[str, Array], adds: bool) -> Run:
        """The gradient of one group's filters."""
        task, cells = self.task, self.task.size**2
        copies = [
            share_of(workspace, self._share_workspace, share)[FILTER_POINTS]
            for share in range(self.dealing.shares)
        ]
        apart = copies[-1].ctypes.data - copies[0].ctypes.data
        numbers = {
            "size": task.size,
            "count": task.outputs,
            "plane": task.outputs * task.inputs,
            "row": task.inputs,
            "channels": task.inputs,
            "filter_step": task.inputs * cells,
            "input_step": cells,
            "adds": int(adds),
            "copies": len(copies),
            "copy_step": apart // copies[0].itemsize // max(1, len(copies) - 1),
        }
        arrays = {"filters": weight, "points": copies[0], "scratch": workspace["tiles"]}
        return run_of(self.loops["points_to_filters"], numbers, arrays)

    def _bias(
        self,
        loop: str,
        workspace: Mapping[str, Array],
        arrays: Mapping[str, Array] = NONE,
        adds: bool = False,
    ) -> Run:
        """A loop over the sums for the bias, of a row for each thread."""
        numbers = {"count": threads_for(self.task.tiles), "channels": self.task.outputs, "adds": int(adds)}
        return run_of(self.loops[loop], numbers, {"sums": workspace["sums"], **arrays}, alone=True)
