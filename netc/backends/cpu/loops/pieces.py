"""What the CPU's loops are written with: addresses as arrays, and a thread's share; needs numba."""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir
from numba import from_dtype, int32, int64, njit, types
from numba.extending import intrinsic

STRICT: Final[dict[str, Any]] = {"error_model": "numpy"}  # a division by zero gives infinity
CONTRACTED: Final[dict[str, Any]] = {**STRICT, "fastmath": {"contract"}}  # a product and a sum round once

team_thread = types.ExternalFunction("omp_get_thread_num", int32())
team_size = types.ExternalFunction("omp_get_num_threads", int32())


def job_signature(job: Any) -> Any:
    """Of a loop that is given the address of a record of this dtype."""
    return types.void(types.CPointer(from_dtype(job)))


def pointer_to(element: Any) -> Any:
    """A function for loops that makes an address a pointer to elements of this type."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return pointer


def function_of(result: Any, *arguments: Any) -> Any:
    """A function for loops that calls a C function of these types by its address, with a tuple of
    arguments."""

    @intrinsic
    def call(typing_context: Any, address: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            given = [builder.extract_value(args[1], i) for i in range(len(arguments))]
            returned = ir.VoidType() if result == types.void else context.get_value_type(result)
            kind = ir.FunctionType(returned, [value.type for value in given])
            answer = builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
            return context.get_dummy_value() if result == types.void else answer

        return result(types.int64, types.Tuple(arguments)), generate

    return call


float_pointer = pointer_to(types.float32)
double_pointer = pointer_to(types.float64)
byte_pointer = pointer_to(types.uint8)


@njit(**STRICT)
def share(count):
    """The first of this thread's part of so many things, and the one after its last."""
    thread, threads = int64(team_thread()), int64(team_size())
    return count * thread // threads, count * (thread + 1) // threads
