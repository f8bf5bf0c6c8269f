"""Arrays that are lent to users, and whether what lies in them may have changed since."""

from __future__ import annotations

import weakref

import numpy as np


class Lending:
    """Lends views of arrays, and notices when nobody holds one any more.

    A view of a lent view keeps that alive, as does what shares its memory through the buffer protocol.
    """

    def __init__(self) -> None:
        self._lent: list[weakref.ref[np.ndarray]] = []

    def lend(self, array: np.ndarray) -> np.ndarray:
        """An array over the same memory."""
        # Over a memoryview, numpy does not give its views another array than this one for their base.
        lent: np.ndarray = np.asarray(array.data)
        self._lent.append(weakref.ref(lent))
        return lent

    def may_have_changed(self) -> bool:
        """Whether anything is lent, or was at any moment since this was last asked."""
        asked = bool(self._lent)
        self._lent = [lent for lent in self._lent if lent() is not None]
        return asked
