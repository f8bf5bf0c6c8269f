"""Every fast form on the device, by the chain of layer types that it runs."""

from __future__ import annotations

from collections.abc import Mapping

from netc.backends.form import Maker

FORMS: Mapping[tuple[str, ...], Maker] = {}
