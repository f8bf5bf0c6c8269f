"""NumPy's matrix products are held to one thread, in a process of their own: the setting is the process's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys
import numpy as np
from netc.backends.cpu.blas import _loaded, limit_blas_threads

def counts():
    names = "scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_", "openblas_get_num_threads"
    libraries = [ctypes.CDLL(path) for path in _loaded()]
    return [next(getattr(lib, name)() for name in names if hasattr(lib, name)) for lib in libraries]

before = counts()
if not before:
    sys.exit(3)
print(before, limit_blas_threads(1), counts())
a = np.ones((300, 300), np.float32)
assert (a @ a == 300).all()
"""


def test_every_openblas_is_held_to_one_thread() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode == 3:
        pytest.skip("this NumPy computes without OpenBLAS")
    assert result.returncode == 0, result.stderr
    before, _, rest = result.stdout.strip().partition("] ")
    count, _, after = rest.partition(" ")
    threads = [int(word) for word in before.strip("[").split(",")]
    assert 2 in threads
    assert int(count) == len(threads)
    assert after == str([1] * len(threads))
