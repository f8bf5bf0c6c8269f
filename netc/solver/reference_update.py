"""What an update means, over `xp`: clip, normalise, regularise, apply the rule, subtract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from netc.backends.backend import Backend
from netc.backends.clipping import clip_scale
from netc.backends.loss_scale import LossScale
from netc.backends.update_spec import UpdateSpec
from netc.layer.base import Array
from netc.solver.rules import Rule

BLOCK = 1 << 16  # elements: the handful of arrays that a rule touches stay in a core's second-level cache


@dataclass
class Block:
    """Views of one stretch of every array that an update touches, made once."""

    data: Array
    grad: Array
    history: tuple[Array, ...]
    scratch: tuple[Array, ...]
    lr_mult: float
    decay: float


class ReferenceUpdate:
    """The update of flat arrays, block by block: what a backend's own pass is held to."""

    capturable = False

    def __init__(
        self,
        backend: Backend,
        rule: Rule,
        spec: UpdateSpec,
        data: Array,
        grad: Array,
        history: Sequence[Array],
        loss_scale: Array | None = None,
        block: int = BLOCK,
    ) -> None:
        """block: elements that `xp` takes at once; loss_scale: how many times too large the gradients are, as
        `netc.backends.loss_scale` has it."""
        self.backend, self.xp = backend, backend.xp
        self.rule, self.spec = rule, spec
        self._data, self._grad, self._history = data, grad, history
        self._loss_scale = loss_scale
        self._rate, self._applied = 0.0, True
        self._blocks = self._make_blocks(block)

    def _make_blocks(self, size: int) -> list[Block]:
        data, grad = self._data, self._grad
        longest = min(size, len(data))
        # The first scratch array also serves the regularisation.
        scratches = [self.xp.empty(longest, data.dtype) for _ in range(max(1, self.rule.scratch_count))]
        blocks = []
        for first, count, lr_mult, decay in self.spec.stretches:
            for start in range(first, first + count, size):
                here = slice(start, min(start + size, first + count))
                blocks.append(
                    Block(
                        data=data[here],
                        grad=grad[here],
                        history=tuple(array[here] for array in self._history),
                        scratch=tuple(array[: here.stop - here.start] for array in scratches),
                        lr_mult=lr_mult,
                        decay=decay,
                    )
                )
        return blocks

    def prepare(self, iteration: int, rate: float) -> None:
        """As in `netc.backends.update_spec.Update`."""
        self.rule.begin(iteration)
        self._rate = rate

    def run(self) -> None:
        """One update of all blocks."""
        self._applied = self._loss_scale is None or self._take_back(self._loss_scale)
        if self._applied:
            self._apply_blocks()

    def outcome(self) -> bool:
        """Whether the last update was applied."""
        return self._applied

    def _take_back(self, loss_scale: Array) -> bool:
        """Divides the gradients by the loss scale, and moves that on; False where they overflowed."""
        value, held = self.backend.read(loss_scale).tolist()
        fits = bool(self.xp.isfinite(self._grad).all())
        if fits:
            self.xp.multiply(self._grad, 1 / value, out=self._grad)
        scale = LossScale(value, int(held))
        scale.note(fits)
        self.backend.write(loss_scale, np.array([scale.value, scale.held], loss_scale.dtype))
        return fits

    def _apply_blocks(self) -> None:
        xp = self.xp
        scale = self._clip_scale() / self.spec.iter_size
        for block in self._blocks:
            if scale != 1:
                xp.multiply(block.grad, scale, out=block.grad)
            if block.decay:
                self._regularize(block)
            self.rule.update(xp, block.grad, block.history, block.scratch, self._rate * block.lr_mult)
            xp.subtract(block.data, block.grad, out=block.data)

    def _regularize(self, block: Block) -> None:
        xp, t = self.xp, block.scratch[0]
        if self.spec.l1:
            xp.sign(block.data, out=t)
            xp.multiply(t, block.decay, out=t)
        else:
            xp.multiply(block.data, block.decay, out=t)
        xp.add(block.grad, t, out=block.grad)

    def _clip_scale(self) -> float:
        """What brings the gradients' L2 norm down to `clip_gradients`; 1 where nothing is to be clipped."""
        if self.spec.clip < 0:
            return 1.0
        # Blocks are summed in double: one float32 sum over millions of elements would lose digits.
        squares = sum(float(self.xp.dot(block.grad, block.grad)) for block in self._blocks)
        return clip_scale(math.sqrt(squares), self.spec.clip)
