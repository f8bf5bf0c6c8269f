"""The matrix products that a device is asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """A matrix product C = relu(alpha op(A) op(B) + beta C + bias) over dense row-major matrices.

    op(A) is m x k, op(B) k x n, C m x n; trans_a: A lies in memory as k x m; trans_b: B lies as n x k;
    math: "fp32", "tf32", "bf16" or "fp16", to which the factors are rounded (in memory they are fp32 always);
    batch: so many products, whose matrices lie one behind the other; bias: "row" for one number to each row
    of C, "column" for one to each column, the same for the whole batch; relu: its negative slope.
    """

    m: int
    n: int
    k: int
    trans_a: bool = False
    trans_b: bool = False
    alpha: float = 1.0
    beta: float = 0.0
    math: str = "fp32"
    batch: int = 1
    bias: str | None = None
    relu: float | None = None
