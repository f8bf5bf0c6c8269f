"""Blobs as a net's users see them, under the names that they know them by."""

from dataclasses import dataclass

from netc.layer import Array
from netc.layer.blob import Blob

__all__ = ["Blob", "OutputValue"]


@dataclass(frozen=True)
class OutputValue:
    """One output blob after a forward pass, and its weight in the loss (0: a figure, not a loss)."""

    name: str
    data: Array
    loss_weight: float
