"""The functions of oneDNN's C interface that netc calls: their arguments, and a check of every status."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_uint, c_void_p
from typing import Any, Final

from netc.errors import NetcError

P: Final = c_void_p  # whatever the library hands out, and arrays
OUT: Final = POINTER(c_void_p)  # where it writes what it has made
DIMS: Final = P
SPATIAL: Final = (DIMS,) * 4  # strides, dilations, padding before and behind
UNIMPLEMENTED: Final = (2, 3)  # what a request is answered with that no implementation fits

# All return a status; all names begin with dnnl_.
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "engine_create": (OUT, c_int, c_size_t),
    "stream_create": (OUT, P, c_uint),
    "memory_desc_create_with_tag": (OUT, c_int, DIMS, c_int, c_int),
    "memory_desc_create_with_strides": (OUT, c_int, DIMS, c_int, DIMS),
    "memory_desc_create_submemory": (OUT, P, DIMS, DIMS),
    "memory_desc_clone": (OUT, P),
    "memory_desc_query": (P, c_int, P),
    "memory_desc_destroy": (P,),
    "memory_create": (OUT, P, P, P),
    "memory_destroy": (P,),
    "post_ops_create": (OUT,),
    "post_ops_append_eltwise": (P, c_int, c_float, c_float),
    "post_ops_append_sum": (P, c_float, c_int32, c_int),
    "post_ops_append_binary": (P, c_int, P),
    "post_ops_destroy": (P,),
    "primitive_attr_create": (OUT,),
    "primitive_attr_set_scratchpad_mode": (P, c_int),
    "primitive_attr_set_post_ops": (P, P),
    "primitive_attr_destroy": (P,),
    "primitive_desc_query": (P, c_int, c_int, P),
    "primitive_desc_destroy": (P,),
    "primitive_create": (OUT, P),
    "primitive_destroy": (P,),
    "primitive_execute": (P, P, c_int, P),
    "convolution_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, P, P, *SPATIAL, P),
    "convolution_backward_data_primitive_desc_create": (OUT, P, c_int, P, P, P, *SPATIAL, P, P),
    "convolution_backward_weights_primitive_desc_create": (OUT, P, c_int, P, P, P, P, *SPATIAL, P, P),
    "deconvolution_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, P, P, *SPATIAL, P),
    "deconvolution_backward_data_primitive_desc_create": (OUT, P, c_int, P, P, P, *SPATIAL, P, P),
    "deconvolution_backward_weights_primitive_desc_create": (OUT, P, c_int, P, P, P, P, *SPATIAL, P, P),
    "inner_product_forward_primitive_desc_create": (OUT, P, c_int, P, P, P, P, P),
    "inner_product_backward_data_primitive_desc_create": (OUT, P, P, P, P, P, P),
    "inner_product_backward_weights_primitive_desc_create": (OUT, P, P, P, P, P, P, P),
    "pooling_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, DIMS, DIMS, DIMS, DIMS, DIMS, P),
    "pooling_backward_primitive_desc_create": (OUT, P, c_int, P, P, DIMS, DIMS, DIMS, DIMS, DIMS, P, P),
    "lrn_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, c_int64, c_float, c_float, c_float, P),
    "lrn_backward_primitive_desc_create": (OUT, P, c_int, P, P, P, c_int64, c_float, c_float, c_float, P, P),
    "batch_normalization_forward_primitive_desc_create": (OUT, P, c_int, P, P, c_float, c_uint, P),
    "batch_normalization_backward_primitive_desc_create": (OUT, P, c_int, P, P, P, c_float, c_uint, P, P),
    "eltwise_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, c_float, c_float, P),
    "eltwise_backward_primitive_desc_create": (OUT, P, c_int, P, P, P, c_float, c_float, P, P),
    "softmax_forward_primitive_desc_create": (OUT, P, c_int, c_int, P, P, c_int, P),
    "softmax_backward_primitive_desc_create": (OUT, P, c_int, P, P, P, c_int, P, P),
    "binary_primitive_desc_create": (OUT, P, c_int, P, P, P, P),
    "sum_primitive_desc_create": (OUT, P, P, c_int, P, P, P),
    "concat_primitive_desc_create": (OUT, P, P, c_int, c_int, P, P),
    "reorder_primitive_desc_create": (OUT, P, P, P, P, P),
    "sgemm": (
        *(ctypes.c_char, ctypes.c_char, c_int64, c_int64, c_int64),
        *(c_float, P, c_int64, P, c_int64, c_float, P, c_int64),
    ),
}
# What returns something else than a status.
ANSWERS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "memory_desc_equal": (c_int, (P, P)),
    "memory_desc_get_size": (c_size_t, (P,)),
    "primitive_desc_query_md": (c_void_p, (P, c_int, c_int)),
    "fmt_tag2str": (c_char_p, (c_int,)),
    "status2str": (c_char_p, (c_int,)),
    "get_effective_cpu_isa": (c_int, ()),
}


class Refused(NetcError):
    """oneDNN has no implementation for what it was asked for."""


class Functions:
    """The functions of one loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._functions: dict[str, Any] = {}
        for name, arguments in FUNCTIONS.items():
            self._functions[name] = self._typed(library, name, c_int, arguments)
        for name, (result, arguments) in ANSWERS.items():
            self._functions[name] = self._typed(library, name, result, arguments)

    @staticmethod
    def _typed(library: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
        function = getattr(library, f"dnnl_{name}")
        function.restype, function.argtypes = result, arguments
        return function

    def __getitem__(self, name: str) -> Any:
        """A function as it is: its status, if it returns one, is the caller's to check."""
        return self._functions[name]

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function. Raises Refused where nothing fits the request, NetcError on any other failure."""
        self.check(self._functions[name](*arguments), name)

    def create(self, name: str, *arguments: Any) -> c_void_p:
        """What a function makes and writes to its first argument."""
        made = c_void_p()
        self.call(name, ctypes.byref(made), *arguments)
        return made

    def check(self, status: int, name: str) -> None:
        """Raises as `call` does unless the status is success."""
        if status:
            kind = Refused if status in UNIMPLEMENTED else NetcError
            answer = self._functions["status2str"](status).decode()
            raise kind(f"oneDNN's dnnl_{name} failed", found=f"{answer} (status {status})")


def dims(sizes: Any) -> Any:
    """A C array of sizes, strides or paddings."""
    return (c_int64 * len(sizes))(*sizes)
