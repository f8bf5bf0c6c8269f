"""Modules that go by a second name: pycaffe's, under `netc` (netc.io) and, when asked for, under `caffe`.

A module is loaded once, when one of its names is first imported, and is the same object under each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, cast

from netc.errors import NetcError

if TYPE_CHECKING:
    from importlib.abc import Loader  # in each process it would load much for a name

ALIASES = {
    "netc.classifier": "netc.pycaffe.classifier",
    "netc.coord_map": "netc.pycaffe.coord_map",
    "netc.detector": "netc.pycaffe.detector",
    "netc.draw": "netc.pycaffe.draw",
    "netc.io": "netc.pycaffe.io",
    "netc.net_spec": "netc.pycaffe.net_spec",
    "netc.proto.caffe_pb2": "netc.proto.netc_pb2",
}


class AliasFinder:
    """Imports an alias by importing the module that it stands for."""

    def __init__(self, renamed: dict[str, str]) -> None:
        self.renamed = renamed  # whole packages under another name, as {"caffe": "netc"}

    def target(self, name: str) -> str | None:
        """The module that a name stands for; None for a name that is no alias."""
        package, _, rest = name.partition(".")
        own = f"{self.renamed[package]}.{rest}" if package in self.renamed and rest else name
        found = ALIASES.get(own, own)
        return found if found != name else None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        real = self.target(fullname)
        if real is None:
            return None
        return ModuleSpec(fullname, cast("Loader", self), origin=real)

    def create_module(self, spec: ModuleSpec) -> None:
        """None: an empty module, which `exec_module` puts the real one in the place of."""

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        real = self.target(name) or name
        try:
            sys.modules[name] = import_module(real)
        except ModuleNotFoundError as error:
            if error.name == real:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name) from None
            raise


FINDER = AliasFinder({})


def install() -> None:
    """Makes the aliases importable. Before all other finders, so that no module is loaded a second time from
    its file."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)


def be_caffe() -> None:
    """Makes `caffe` another name of netc. Raises NetcError where another caffe has been imported before."""
    netc, other = sys.modules["netc"], sys.modules.get("caffe")
    if other is not None and other is not netc:
        raise NetcError(
            "another caffe is imported already, and there can be only one",
            found=getattr(other, "__file__", None) or repr(other),
            remedy="put `import netc.as_caffe` before the first `import caffe`, or write netc for caffe",
        )
    FINDER.renamed["caffe"] = "netc"
    sys.modules["caffe"] = netc
