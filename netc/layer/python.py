"""Python: a layer whose meaning a user has written, as a class in a module of his own."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final

from netc.layer.base import Arity, Array, Buffers, Layer, ParamBlob, Shape
from netc.layer.blob import Blob, LayerBlobs, Memory
from netc.layer.registry import register
from netc.schema.suggestions import did_you_mean

log = logging.getLogger(__name__)

METHODS: Final = ("setup", "reshape", "forward", "backward")


@dataclass
class _Written:
    """The user's object, and what is remembered of it from one graph of the net to the next."""

    instance: Any
    bottom_shapes: list[Shape] | None = None  # at the last `reshape`
    tops: list[Memory] = field(default_factory=list)
    results: list[Array] | None = None  # the tops' values, between `real_shapes` and `forward`

    @property
    def top_shapes(self) -> list[Shape]:
        return [top.shape for top in self.tops]


@register
class Python(Layer):
    """Calls the class `layer` of the Python module `module`, which derives from `netc.Layer`.

    setup(bottom, top) runs once, when the net is made; reshape(bottom, top) and forward(bottom, top) run in
    every forward pass, backward(top, propagate_down, bottom) in every backward pass. Bottoms and tops are
    blobs whose `data` and `diff` are NumPy views of the net's memory. Tops get their shapes by
    `top[i].reshape(...)`, at the latest in forward, and may get others in every pass. The object has
    `param_str`, `phase`, and in `blobs` the parameters that its setup adds (`self.blobs.add_blob(3, 4)`).

    The module is found as `import` finds it, PYTHONPATH included, and last in the working directory. An
    exception in the user's code reaches the caller as it is, with a note that names the layer. Bottoms'
    diffs are zeros before backward. `share_in_parallel` has no meaning here: every net has its own object.
    """

    type = "Python"
    options_field = "python_param"
    bottoms = Arity(0, None)
    tops = Arity(0, None)
    in_place = True
    shapes_by_value = True
    decides_on_host = True

    @property
    def user_layer(self) -> Any:
        """The object of the user's class."""
        return self._written.instance

    @property
    def _written(self) -> _Written:
        return self.kept["written"]  # type: ignore[no-any-return]

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        blobs = [Memory(shape, self.dtype).blob() for shape in bottoms]
        if "written" not in self.kept:
            self.kept["written"] = self._set_up(blobs)
        written = self._written
        # A graph made in the middle of a pass must not disturb an object that has run in it: it is asked only
        # where its bottoms changed.
        if written.bottom_shapes != bottoms:
            for name, top in zip(self.spec.top, written.tops, strict=True):
                if name in self.spec.bottom:
                    top.reshape(bottoms[list(self.spec.bottom).index(name)])
            self._call("reshape", blobs, _tops(written.tops))
            written.bottom_shapes = list(bottoms)
        self.params = [ParamBlob(blob.shape, values=blob.data) for blob in written.instance.blobs]
        return written.top_shapes

    def attach(self, b: Buffers) -> None:
        self._written.instance.blobs.bind(b.params, b.param_grads)

    def real_shapes(self, xp: ModuleType, b: Buffers) -> list[Shape]:
        """Runs the user's forward, and keeps what it made for `forward`."""
        written = self._written
        tops = [Memory.of(top) for top in b.tops]
        bottoms = self._bottoms(b)
        self._call("reshape", bottoms, _tops(tops))
        self._call("forward", bottoms, _tops(tops))
        shapes = [top.shape for top in tops]
        written.bottom_shapes, written.tops = list(self.bottom_shapes), [Memory(shape) for shape in shapes]
        written.results = [top.data() for top in tops]
        if shapes != self.top_shapes:
            if self.runs_in_place:
                raise self.error(
                    "a Python layer that runs in place cannot give its top another shape",
                    expected=self.top_shapes,
                    found=shapes,
                    remedy="give the top a name of its own",
                )
            # What was written into the net's memory must outlive the change to the memory of other shapes.
            written.results = [result.copy() for result in written.results]
        return shapes

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        written = self._written
        if written.results is None and self.real_shapes(xp, b) != self.top_shapes:
            raise self.error(
                "the tops have other shapes than the net was made for",
                expected=self.top_shapes,
                found=written.top_shapes,
                remedy="run the whole net",
            )
        results, written.results = written.results or [], None
        for result, top in zip(results, b.tops, strict=True):
            if result is not top:
                top[...] = result

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        tops = [Memory.of(top, grad).blob() for top, grad in zip(b.tops, b.top_grads, strict=True)]
        for name, grad in zip(self.spec.bottom, b.bottom_grads, strict=True):
            if grad is not None and name not in self.spec.top:
                grad[...] = 0
        self._call("backward", tops, [grad is not None for grad in b.bottom_grads], self._bottoms(b))

    def _bottoms(self, b: Buffers) -> list[Blob]:
        grads = b.bottom_grads or [None] * len(b.bottoms)
        return [Memory.of(bottom, grad).blob() for bottom, grad in zip(b.bottoms, grads, strict=True)]

    def _set_up(self, bottoms: Sequence[Blob]) -> _Written:
        """Makes the user's object and calls its setup."""
        made = self._class()
        instance = made() if made.__init__ is object.__init__ else self._guarded("__init__", made, self.spec)
        instance.param_str, instance.phase = self.options.param_str, self.phase
        instance.param_str_ = instance.param_str  # its name before 2015, which published layers use
        if not isinstance(getattr(instance, "blobs", None), LayerBlobs):
            instance.blobs = LayerBlobs()
        written = _Written(instance, tops=[Memory((), self.dtype) for _ in self.spec.top])
        self._guarded("setup", instance.setup, bottoms, _tops(written.tops))
        return written

    def _class(self) -> Any:
        """The class that the prototxt names. Raises NetcError where there is none, or it is no layer."""
        module_name, class_name = self.options.module, self.options.layer
        for option, value in (("module", module_name), ("layer", class_name)):
            if not value:
                raise self.error(
                    f"python_param has no {option}", option, remedy="state module (a file's name) and layer"
                )
        if not all(part.isidentifier() for part in module_name.split(".")):
            raise self.error(
                f"{module_name!r} is no name of a Python module",
                "module",
                expected="a name as `import` takes it: the file's, without .py",
            )
        module = self._import(module_name)
        if not hasattr(module, class_name):
            classes = [name for name, value in vars(module).items() if isinstance(value, type)]
            raise self.error(
                f"the module {module_name} has no class {class_name!r}",
                "layer",
                expected=f"one of {', '.join(classes)}" if classes else "a class",
                remedy=did_you_mean(class_name, classes) or f"look into {module.__file__}",
            )
        made = getattr(module, class_name)
        missing = [name for name in METHODS if not callable(getattr(made, name, None))]
        if missing or not isinstance(made, type):
            raise self.error(
                f"{module_name}.{class_name} is no layer",
                "layer",
                expected=f"a class with {', '.join(METHODS)}",
                found=f"no {', '.join(missing)}" if missing else type(made).__name__,
                remedy="derive it from netc.Layer",
            )
        return made

    def _import(self, name: str) -> ModuleType:
        """The user's module; looked for in the working directory where `import` alone does not find it."""
        importlib.invalidate_caches()
        folder = os.getcwd()
        for _ in range(2):
            try:
                return self._guarded("import", importlib.import_module, name)  # type: ignore[no-any-return]
            except ModuleNotFoundError as error:
                if error.name is None or not (name + ".").startswith(error.name + "."):
                    raise  # the module is there, but one that it imports is not
                if folder in sys.path:
                    break
                sys.path.append(folder)
        raise self.error(
            f"there is no Python module {name!r}",
            "module",
            expected=f"{name.replace('.', '/')}.py in {folder} or on PYTHONPATH",
            remedy="start in its folder, or add that to PYTHONPATH",
        )

    def _call(self, method: str, *arguments: Any) -> None:
        self._guarded(method, getattr(self._written.instance, method), *arguments)

    def _guarded(self, what: str, function: Any, *arguments: Any) -> Any:
        """Calls the user's code; an exception in it goes on as it is, with a note that names this layer."""
        try:
            return function(*arguments)
        except Exception as error:
            at = self.locate()
            where = f" ({at})" if at else ""
            note = f"in {what} of the Python layer {self.name!r}{where}"
            if not hasattr(error, "in_python_layer"):
                error.in_python_layer = note  # type: ignore[attr-defined]
                if hasattr(error, "add_note"):  # Python 3.11
                    error.add_note(note)
            raise


def _tops(memories: Sequence[Memory]) -> list[Blob]:
    return [memory.blob(reshapes=True) for memory in memories]
