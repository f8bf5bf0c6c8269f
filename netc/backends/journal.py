"""What recorded work comes to, run after run: kept where it ran until the host asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from netc.backends.form import Run
from netc.layer import Array


class Journal(Protocol):
    """A row of float32 for each run of recorded work, and a hold on how far the host runs ahead of it.

    rows: how many it keeps; they must be taken before there are more.
    """

    rows: int

    def writing(self, numbers: Sequence[Array]) -> Run:
        """Work that adds a row: what the journal notes always, then these numbers, arrays of one element of 4
        bytes each. May be recorded."""

    def pace(self) -> None:
        """Called when work that adds a row has been asked for: returns when little of it is still to do."""

    def take(self) -> np.ndarray:
        """The rows since the last time, (rows, numbers). Waits until the work that adds them is done."""
