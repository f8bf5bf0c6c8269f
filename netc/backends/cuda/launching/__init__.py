"""How work is dealt out to threads and launched; the few kernels that belong to no layer."""

from netc.backends.cuda.launching.launch import Launch, Table, in_order

__all__ = ["Launch", "Table", "in_order"]
