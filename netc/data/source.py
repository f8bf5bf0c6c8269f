"""What a data source is: batches one after another, from a position that can be saved and restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netc.data.raw_images import RawBatch, RawImages
from netc.errors import Location, NetcError
from netc.schema.reading import near_names

Shape = tuple[int, ...]
Locate = Callable[..., Location | None]
Allocate = Callable[[int], np.ndarray]  # so many bytes
Progress = Callable[[int, int | None], None]  # done, of how many (None: unknown)


@dataclass(frozen=True)
class TopSpec:
    """The shape and type of one top of the next batch."""

    shape: Shape
    dtype: type[np.generic] = np.float32


@dataclass(frozen=True)
class Origin:
    """The layer that a source belongs to: its name, and where its fields stand, for messages."""

    name: str = ""
    type: str = "Data"
    locate: Locate = lambda *path: None

    def error(self, what: str, *path: str, **details: Any) -> NetcError:
        """A NetcError about this layer at the line of one of its fields, e.g. `("data_param", "source")`."""
        if self.name:
            details.setdefault("layer", f"{self.name} ({self.type})")
        details.setdefault("at", self.locate(*path))
        return NetcError(what, **details)

    def unreadable(self, what: str, file: str, error: OSError, *path: str, remedy: str) -> NetcError:
        """The error for a file that cannot be opened; for a missing one it says what lies near."""
        near = near_names(Path(file)) if isinstance(error, FileNotFoundError) else None
        if near:
            remedy = f"{near} {remedy}" if near.endswith("?") else f"{near}; {remedy}"
        return self.error(f"{what} {file} cannot be read: {error.strerror}", *path, remedy=remedy)


class Source:
    """Gives batches as lists of arrays, one per top.

    A source is seeded: the same seed and position give the same batches. It may read ahead in threads;
    `state()` always speaks of the batches that `next()` has handed out.
    """

    varies: bool = False  # whether the shapes of the tops can change from batch to batch
    raw: RawImages | None = None  # what `next_raw()` gives; None where there are no raw batches
    waited_s: float = 0.0  # how long `next()` and `tops` have waited for data, in seconds

    @property
    def tops(self) -> tuple[TopSpec, ...]:
        """The tops of the next batch (read ahead where shapes vary)."""
        raise NotImplementedError

    def next(self) -> list[np.ndarray]:
        """The next batch: contiguous float32 arrays, valid until the following `next()`, `restore()` or
        `close()`.

        Raises NetcError where the data is damaged, or does not fit what the layer asks for.
        """
        raise NotImplementedError

    def next_raw(self, allocate: Allocate) -> RawBatch | list[np.ndarray]:
        """The next batch, raw where its images are as `raw` says, else as `next()` gives it.

        It is valid for as long as that of `next()`. allocate: gives the memory of raw batches; called from
        any thread. Raises NetcError as `next()` does.
        """
        return self.next()

    def raw_ahead(self) -> RawBatch | None:
        """What the following `next_raw()` will give, where it is raw and at hand; nothing moves on."""
        return None

    def state(self) -> dict[str, Any]:
        """The position after the last delivered batch, fit for JSON."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any]) -> None:
        """Goes to a position that `state()` gave; what was read ahead is thrown away."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends threads and reader programs; may be called twice."""
        raise NotImplementedError

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
