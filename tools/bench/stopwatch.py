"""How the processor time of some work is spent: functions are named, what each takes itself is added up."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

# By part: modules or classes, and the names of functions there.
Parts = Mapping[str, Sequence[tuple[Any, str]]]


class Stopwatch:
    """seconds: of processor time, by part, without what other parts took meanwhile; of the thread that made
    it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._thread = threading.get_ident()
        self._within = [0.0]  # what parts took within each of the calls under way

    def watching(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, what it takes counted to a part."""

        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != self._thread:
                return function(*arguments, **named)
            begin = time.thread_time()
            self._within.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                whole = time.thread_time() - begin
                own = whole - self._within.pop()
                self._within[-1] += whole
                self.seconds[part] = self.seconds.get(part, 0.0) + own

        return watched


@contextmanager
def watching(parts: Parts) -> Iterator[dict[str, float]]:
    """Within it, functions are timed; what it gives fills up with the processor seconds of each part."""
    watch = Stopwatch()
    watch.seconds.update(dict.fromkeys(parts, 0.0))
    with ExitStack() as stack:
        for part, functions in parts.items():
            for place, name in functions:
                stack.enter_context(patch.object(place, name, watch.watching(part, getattr(place, name))))
        yield watch.seconds
