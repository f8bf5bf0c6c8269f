"""The Python face: the names that pycaffe's users expect."""

from netc.proto.netc_pb2 import TEST, TRAIN
from netc.pycaffe.mode import set_device, set_mode_cpu, set_mode_gpu, set_random_seed
from netc.pycaffe.net import Net

__all__ = ["TEST", "TRAIN", "Net", "set_device", "set_mode_cpu", "set_mode_gpu", "set_random_seed"]
