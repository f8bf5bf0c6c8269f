"""What the tests of feeding share: a folder of their own, nets that are closed, a look at what goes up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netc.data.prefetch import PrefetchedSource
from netc.data.raw_images import RawBatch
from netc.runtime import Net
from tests.cuda.feeding.databases import write_mean
from tests.cuda.feeding.watched import Sent


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Net]]:
    """The nets that a test makes; they are closed in the end."""
    made: list[Net] = []
    make = Net.__init__

    def remember(self: Net, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Net, "__init__", remember)
    yield made
    for net in made:
        net.close()


@pytest.fixture(autouse=True)
def folder(folder: Path) -> Path:
    """Where the databases of a test lie, and where it runs."""
    write_mean()
    return folder


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a source is asked what it has ahead, the next batch has been read."""
    raw_ahead = PrefetchedSource.raw_ahead

    def waiting(source: PrefetchedSource) -> RawBatch | None:
        end = time.monotonic() + 20
        while (batch := raw_ahead(source)) is None and time.monotonic() < end:
            time.sleep(0.001)
        return batch

    monkeypatch.setattr(PrefetchedSource, "raw_ahead", waiting)
