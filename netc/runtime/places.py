"""Where a program's values, gradients and forms' arrays lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from netc.backends.backend import Backend
from netc.backends.form import Form
from netc.backends.layout import view
from netc.graph import Value
from netc.layer import Array, Scratch
from netc.passes.memory import AGAIN, MemoryPlan
from netc.schema.layer_keys import LayerKey


@dataclass
class ParamArrays:
    """A parameter's values and, where gradients are computed, their gradients, in the shape that one layer
    gives it."""

    data: Array
    diff: Array | None


@dataclass(eq=False)
class Places:
    """A plan laid over memory. What backward reads may have been computed again, and then lies elsewhere than
    in forward."""

    plan: MemoryPlan
    memory: Array
    backend: Backend
    dtype: Any
    params: Mapping[tuple[LayerKey, int], ParamArrays]

    def data(self, value: Value) -> Array:
        """A value."""
        if (param := value.memory.param) is not None:
            return self.params[param.layer, param.index].data.reshape(value.shape)
        return self._value(value.memory, "data", value)

    def later_data(self, value: Value) -> Array:
        """A value, during backward."""
        return self._value(value.memory, AGAIN, value) if self.comes_again(value) else self.data(value)

    def comes_again(self, value: Value) -> bool:
        """Whether a value is computed again for backward."""
        return (value.memory, AGAIN) in self.plan.buffers

    def diff(self, value: Value) -> Array | None:
        """A value's gradient; None where the program computes none."""
        if (value.diff_memory, "diff") not in self.plan.buffers:
            return None
        return self._value(value.diff_memory, "diff", value)

    def scratch(
        self, form: Form, arrays: Mapping[str, Scratch], called: Callable[[str], str] = str
    ) -> dict[str, Array]:
        """Arrays of a form; called: the names that they have in the plan."""
        return {
            name: self.array(form, called(name), scratch.shape, scratch.dtype)
            for name, scratch in arrays.items()
        }

    def array(self, form: Form, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of a form, by the name that it has in the plan; dtype: None for the program's."""
        offset = self.plan.buffers[form, name].offset
        return self.backend.array(self.memory, offset, shape, dtype or self.dtype)

    def array_or(self, form: Form, name: str, array: Array) -> Array:
        """The place of a form's own that the plan has in an array's stead, or else the array."""
        if (form, name) not in self.plan.buffers:
            return array
        return self.array(form, name, array.shape, array.dtype)

    def _value(self, owner: Value, kind: str, value: Value) -> Array:
        offset = self.plan.buffers[owner, kind].offset
        return view(self.backend, self.memory, offset, value, self.dtype)
