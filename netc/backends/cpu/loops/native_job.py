"""Native calls as records, and sequences of them: what native.py works on.

A record is WIDTH whole numbers: its kind, the address of a function, and that function's arguments.
"""

from __future__ import annotations

from typing import Final

import numpy as np

WIDTH: Final = 14

# The kinds. What stands behind the function's address:
LOOP: Final = 0  # a job: the running thread alone runs the loop on it
TEAM: Final = 1  # a loop, its job, the threads that run it; the function is GOMP_parallel
DEALT: Final = 2  # the same of the loop that runs sequences of calls, whose job says how they ended
PRIMITIVE: Final = 3  # the arguments of dnnl_primitive_execute
PRODUCT: Final = 4  # those of dnnl_sgemm, but for alpha, which is 1; beta, 0 or 1, as a whole number

# Calls, one after the other. calls: the address of records; failed, status: the place and the answer of the
# first call that did not answer 0, behind which no other was made.
SEQUENCE: Final = np.dtype([(name, "i8") for name in ("calls", "count", "failed", "status")])
# Sequences that the threads of a team run at the same time.
SHARES: Final = np.dtype([(name, "i8") for name in ("sequences", "count")])
