"""The protobuf messages, generated from `proto/netc.proto` when the package is built.

`netc.proto.caffe_pb2`, Caffe's name for them, is the same module as `netc.proto.netc_pb2`.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("caffe_pb2", "netc_pb2"):
        return import_module(f"netc.proto.{name}")
    raise AttributeError(f"module 'netc.proto' has no attribute {name!r}")
