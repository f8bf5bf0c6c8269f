"""Tiles of shared memory as wgmma takes them."""

from __future__ import annotations

import numpy as np

ROW_BYTES = 128
PIECE_BYTES = 16


def as_tiles(rows: np.ndarray) -> np.ndarray:
    """Of (..., 8 i, columns) rows of 128 bytes: of every 8 rows, row i has its piece j in place i xor j."""
    assert rows.shape[-1] * rows.itemsize == ROW_BYTES
    pieces = rows.reshape(-1, 8, 8, PIECE_BYTES // rows.itemsize)
    row, piece = np.ogrid[:8, :8]
    tiles = np.empty_like(pieces)
    tiles[:, row, row ^ piece] = pieces
    return tiles.reshape(rows.shape)
