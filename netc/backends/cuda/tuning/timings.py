"""How long each way to do some work took on a GPU: a small file on disk for each kind of GPU."""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from netc.backends.cache_folder import cache_folder
from netc.backends.cuda.compilation.sources import digest, read_source
from netc.backends.cuda.device import DeviceProperties
from netc.errors import NetcError
from netc.kernels_folder import kernels_folder
from netc.schema.atomic import replacing

log = logging.getLogger(__name__)

Seconds = Mapping[str, float]  # by the name of the way
Works = dict[str, dict[str, float]]  # by what is done
NO_WORD = re.compile(r"\W+")


class Timings:
    """The times of one kind of GPU, with the kernels as they are now.

    Several processes may read and write at once: a file is always whole, and of two that write in the same
    moment one's times may be lost, which costs it another timing.
    """

    def __init__(self, properties: DeviceProperties) -> None:
        name = NO_WORD.sub("_", f"{properties.model}-sm_{properties.architecture}")
        self.path = cache_folder("tuning") / f"{name}.json"

    def find(self, work: str) -> Seconds:
        """The times of the ways to do this work; none where it has not been timed."""
        return self._read().get(work, {})

    def add(self, work: str, seconds: Seconds) -> None:
        """Remembers the times of the ways to do this work. What cannot be written is logged."""
        works = {**self._read(), work: dict(seconds)}
        content = {"kernels": sources_of_all_kernels(), "seconds": dict(sorted(works.items()))}
        try:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
        except NetcError as error:
            log.warning("times of kernels are not remembered: %s", error)

    def _read(self) -> Works:
        """All that the file holds; nothing where it is missing, damaged, or about other kernels."""
        try:
            now = self.path.stat()
            return _works_of(self.path, (now.st_ino, now.st_mtime_ns, now.st_size), sources_of_all_kernels())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s is ignored, it is damaged: %r", self.path, error)
            return {}


@functools.lru_cache(maxsize=4)
def _works_of(path: Path, version: tuple[int, ...], kernels: str) -> Works:
    """The works in a file, if it is about these kernels; read once for each version of it: a net asks for
    each of its products."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["kernels"] != kernels:
        return {}
    return {
        work: {name: float(time) for name, time in seconds.items()}
        for work, seconds in content["seconds"].items()
    }


def sources_of_all_kernels() -> str:
    """The digest of all kernels' sources."""
    return _digest_of(kernels_folder())


@functools.cache
def _digest_of(folder: Path) -> str:
    return digest([(path.name, read_source(path)) for path in sorted(folder.glob("*.cu*"))])
