"""Every test begins without a random seed, as a process does."""

from __future__ import annotations

import pytest

from netc.pycaffe import mode


@pytest.fixture(autouse=True)
def no_random_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mode, "_seed", None)
