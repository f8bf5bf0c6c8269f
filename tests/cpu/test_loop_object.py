"""Object files as images: what LLVM makes of a few functions runs from memory, or is refused."""

from __future__ import annotations

import ctypes
import platform

import pytest

from netc.backends.cpu.loops.image import MappedImage
from netc.backends.cpu.loops.object_file import image_of

binding = pytest.importorskip("llvmlite.binding", reason="LLVM comes with numba (netc[cpu])")
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="images are made for x86-64")

CALLS = """
declare double @cos(double)
define double @other(double %x) { %y = fmul double %x, 3.0 ret double %y }
define double @function(double %x) {
  %y = call double @cos(double %x)
  %z = call double @other(double %y)
  ret double %z
}
"""
TABLE = """
@table = private constant [4 x double] [double 2.0, double 3.0, double 5.0, double 7.0], align 32
define double @function(double %x) {
  %i = fptosi double %x to i64
  %place = getelementptr [4 x double], [4 x double]* @table, i64 0, i64 %i
  %y = load double, double* %place
  ret double %y
}
"""
WRITES = """
@count = internal global double 1.0
define double @function(double %x) {
  %before = load volatile double, double* @count
  store volatile double %x, double* @count
  ret double %before
}
"""


def compiled(code: str, model: str = "jitdefault") -> bytes:
    """LLVM's object file of some code for this processor."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(reloc="static", codemodel=model, jit=model == "jitdefault")
    return bytes(machine.emit_object(binding.parse_assembly(code)))


def run(code: str, argument: float) -> float:
    """What `function` gives."""
    libm = ctypes.CDLL("libm.so.6")
    mapped = MappedImage(
        image_of(compiled(code), "function"),
        lambda symbol: ctypes.cast(getattr(libm, symbol), ctypes.c_void_p).value or 0,
    )
    return float(ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(mapped.address)(argument))


def test_functions_call_each_other_and_libraries() -> None:
    assert run(CALLS, 0.0) == 3.0


def test_constants_are_found() -> None:
    assert [run(TABLE, float(i)) for i in range(4)] == [2.0, 3.0, 5.0, 7.0]


def test_code_that_must_lie_near_what_it_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="relocation of kind"):
        image_of(compiled(CALLS, "small"), "function")


def test_data_to_write_is_refused() -> None:
    with pytest.raises(ValueError, match="refers to data"):
        image_of(compiled(WRITES), "function")


def test_a_function_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="no function missing"):
        image_of(compiled(TABLE), "missing")
