"""NumPy as an array module that allows no more than CuPy does while work is recorded for a GPU.

Nothing may look at a value on the host, since a recording is replayed with other values; nothing may come
from the host's memory; names, keywords and mixtures of arrays that CuPy does not know are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

CUPY_NAMES = frozenset((Path(__file__).parent / "cupy_names.txt").read_text(encoding="utf-8").split())
"""What both CuPy 13.6 and 14.2 have; of submodules as "random.Generator"."""
WAITS = frozenset({"argsort", "argwhere", "asnumpy", "bincount", "flatnonzero", "nonzero", "sort", "unique"})
"""Functions that wait for the device, because sizes or their algorithms hang on values."""
UPLOADS = frozenset({"array", "asarray", "ascontiguousarray"})


class NotForCupy(AssertionError):
    """CuPy would refuse this, or a recording could not hold it."""


def _refuse(what: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotForCupy(f"{what} looks at values on the host")

    return refuse


class DeviceArray(np.ndarray):
    """An array in a GPU's memory, as far as what may be done with it goes."""

    for _name in (
        "__float__",
        "__int__",
        "__bool__",
        "__index__",
        "__complex__",
        "item",
        "tolist",
        "nonzero",
    ):
        locals()[_name] = _refuse(_name)
    for _name in ("argsort", "sort", "__contains__", "tobytes"):
        locals()[_name] = _refuse(_name)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if "where" in options and options["where"] is not True:
            raise NotForCupy(f"{ufunc.__name__} has no where= in CuPy")
        out = options.pop("out", None)
        if out is not None:
            options["out"] = tuple(_unwrapped(item) for item in out)
        result = getattr(ufunc, method)(*map(_unwrapped, inputs), **options)
        return out[0] if out is not None and len(out) == 1 else _wrapped(result)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> NoReturn:
        raise NotForCupy(f"np.{function.__name__} where xp's is meant")

    def __getitem__(self, key: Any) -> Any:
        key = _index(key)
        if any(isinstance(part, np.ndarray) and part.dtype == bool for part in key):
            raise NotForCupy("how many elements a mask picks hangs on values")
        return _wrapped(self.view(np.ndarray)[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        key = _index(key)
        masked = any(isinstance(part, np.ndarray) and part.dtype == bool for part in key)
        if masked and np.ndim(_unwrapped(value)):
            raise NotForCupy("how many elements a mask picks hangs on values")
        self.view(np.ndarray)[key] = _unwrapped(value)

    def argmax(self, *args: Any, **options: Any) -> Any:
        return _wrapped(self.view(np.ndarray).argmax(*args, **options))

    def argmin(self, *args: Any, **options: Any) -> Any:
        return _wrapped(self.view(np.ndarray).argmin(*args, **options))


def _index(key: Any) -> tuple[Any, ...]:
    return tuple(_unwrapped(part) for part in (key if isinstance(key, tuple) else (key,)))


def _unwrapped(value: Any) -> Any:
    """The NumPy array of a device's, or the value itself. Raises NotForCupy for an array of the host."""
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim:
        raise NotForCupy("an array of the host among those of the device")
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrapped, value))
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).view(DeviceArray)
    return type(value)(map(_wrapped, value)) if isinstance(value, (tuple, list)) else value


class CupyRules(ModuleType):
    """The array module. uploads: whether arrays of the host may be copied to the device, as they may in a
    first run, before anything is recorded."""

    def __init__(self, uploads: bool = False, path: str = "", real: Any = np) -> None:
        super().__init__("cupy")
        self._uploads, self._path, self._real = uploads, path, real

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        path = self._path + name
        if path in WAITS:
            raise NotForCupy(f"xp.{path} waits for the device")
        real = getattr(self._real, name, None)
        if isinstance(real, ModuleType):
            return CupyRules(self._uploads, f"{path}.", real)
        if path not in CUPY_NAMES or real is None:
            raise NotForCupy(f"CuPy has no {path}")
        return real if isinstance(real, type) or not callable(real) else self._wrap(name, real)

    def _wrap(self, name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if isinstance(function, np.ufunc) and "where" in options:
                raise NotForCupy(f"{name} has no where= in CuPy")
            if name in UPLOADS:
                host = [arg for arg in args[:1] if not isinstance(arg, (DeviceArray, int, float))]
                if host and not self._uploads:
                    raise NotForCupy(f"xp.{name} copies from the host")
                return _wrapped(function(*(np.asarray(arg) for arg in args[:1]), *args[1:], **options))
            out = options.get("out")
            result = function(*map(_unwrapped, args), **{k: _unwrapped(v) for k, v in options.items()})
            return out if out is not None else _wrapped(result)

        return call


def on_device(arrays: Any) -> Any:
    """The arrays of a list or dict, as of a device: the same memory."""
    if isinstance(arrays, dict):
        return {name: on_device(array) for name, array in arrays.items()}
    if isinstance(arrays, list):
        return [on_device(array) for array in arrays]
    return arrays.view(DeviceArray) if isinstance(arrays, np.ndarray) else arrays
