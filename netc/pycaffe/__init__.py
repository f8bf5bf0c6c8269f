"""The Python face: the names that pycaffe's users expect, and find in `netc` itself."""

from netc.proto.netc_pb2 import TEST, TRAIN
from netc.pycaffe.classifier import Classifier
from netc.pycaffe.detector import Detector
from netc.pycaffe.glog import init_log, log, set_logging_disabled
from netc.pycaffe.layer import Layer
from netc.pycaffe.mode import (
    NCCL,
    has_nccl,
    layer_type_list,
    set_device,
    set_mode_cpu,
    set_mode_gpu,
    set_multiprocess,
    set_random_seed,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from netc.pycaffe.net import Net
from netc.pycaffe.net_spec import NetSpec, layers, params, to_proto
from netc.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    Solver,
    get_solver,
)
from netc.pycaffe.timer import Timer
from netc.runtime import Blob

__all__ = [
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
]
