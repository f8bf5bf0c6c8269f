"""netc: Caffe's nets, files and commands, compiled into a fixed program of kernels.

    import netc

    net = netc.Net("deploy.prototxt", netc.TEST, weights="model.caffemodel")
    net.blobs["data"].data[...] = netc.io.load_image("cat.png").transpose(2, 0, 1)
    print(net.forward()["prob"])

    solver = netc.get_solver("solver.prototxt")
    solver.step(100)

The names are those of Caffe's own Python module: Net, Layer, the solvers, NetSpec with `layers` and
`params`, io, Classifier, Detector. `import netc.as_caffe` makes them those of `caffe`. Every error is a
`netc.NetcError`, which says where, what, and what to do.

Importing the package loads nothing; each public name loads its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from netc.aliases import ALIASES, install
from netc.version import __version__

if TYPE_CHECKING:  # what `__getattr__` finds, for editors
    from netc.errors import NetcError, NetcErrors  # noqa: F401
    from netc.pycaffe import *  # noqa: F403

install()

_ERRORS = ("NetcError", "NetcErrors")
_PYCAFFE = (
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "layers",
    "log",
    "params",
    "set_device",
    "set_logging_disabled",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
)
PUBLIC_NAMES = dict.fromkeys(_ERRORS, "netc.errors") | dict.fromkeys(_PYCAFFE, "netc.pycaffe")
SUBMODULES = ("proto", "pycaffe", *(name.split(".")[1] for name in ALIASES if name.count(".") == 1))

__all__ = ["__version__", *PUBLIC_NAMES, *SUBMODULES]


def __getattr__(name: str) -> Any:
    if name in PUBLIC_NAMES:
        value = getattr(import_module(PUBLIC_NAMES[name]), name)
    elif name in SUBMODULES:
        value = import_module(f"netc.{name}")
    else:
        raise AttributeError(f"module 'netc' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC_NAMES, *SUBMODULES})
