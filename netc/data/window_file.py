"""Window files, as R-CNN trains from them: images, and in each the windows that overlap an object or none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from netc.data.source import Origin
from netc.errors import Location, NetcError

FIELDS = 6  # of a window: class, overlap with the object, x1, y1, x2, y2 (corners included)
HEAD = 6  # words before an image's windows: #, its number, path, channels, height, width


@dataclass(frozen=True)
class WindowFile:
    """`paths`: the images'. `images` (N): the image of each window; `windows` (N, 6): class, overlap, x1, y1,
    x2, y2 as float32."""

    paths: list[str]
    images: np.ndarray
    windows: np.ndarray


def read_window_file(path: str, origin: Origin, field: tuple[str, ...] = ()) -> WindowFile:
    """The images and windows of a file of blocks

        # number
        path
        channels height width
        windows
        class overlap x1 y1 x2 y2      (once for each window)

    whose numbers count from 0. Raises NetcError where the file cannot be read, or at the line that is wrong.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            words = file.read().split()
    except OSError as error:
        remedy = "name a file of blocks `# number, path, channels height width, windows, ...`"
        raise origin.unreadable("the window file", path, error, *field, remedy=remedy) from error
    if not words:
        raise origin.error(f"the window file {path} is empty", *field)
    return _Reader(path, words).read()


class _Reader:
    def __init__(self, path: str, words: list[str]) -> None:
        self.path = path
        self.words = words
        self.at = 0

    def read(self) -> WindowFile:
        paths: list[str] = []
        counts: list[int] = []
        windows: list[np.ndarray] = []
        while self.at < len(self.words):
            paths.append(self.image(len(paths)))
            windows.append(self.window_rows())
            counts.append(len(windows[-1]))
        return WindowFile(paths, np.repeat(np.arange(len(paths)), counts), np.concatenate(windows))

    def image(self, number: int) -> str:
        """Reads an image's head; its path."""
        if self.words[self.at] != "#":
            raise self.error("an image begins with #", self.at, "#", self.words[self.at])
        if self.at + HEAD >= len(self.words):
            raise self.error(
                "the file ends in the middle of an image",
                len(self.words) - 1,
                "# number, path, channels height width, windows",
                "the end of the file",
            )
        if self.whole(self.at + 1) != number:
            raise self.error(
                "the images must be numbered from 0", self.at + 1, number, self.words[self.at + 1]
            )
        if self.whole(self.at + 3) != 3:
            raise self.error("images are read in colour", self.at + 3, "3 channels", self.words[self.at + 3])
        self.at += HEAD
        return self.words[self.at - 4]

    def window_rows(self) -> np.ndarray:
        """Reads how many windows an image has, and the windows: (n, 6)."""
        count = self.whole(self.at)
        first = self.at + 1
        rows = self.words[first : first + FIELDS * count]
        if len(rows) < FIELDS * count:
            raise self.error(
                "the file ends in the middle of an image's windows",
                len(self.words) - 1,
                f"{count} windows of {FIELDS} numbers",
                f"{len(rows)} numbers",
            )
        try:
            numbers = np.array(rows, np.float32)
            if not np.isfinite(numbers).all():
                raise ValueError
        except ValueError:
            wrong = next(i for i, word in enumerate(rows) if not _is_number(word))
            raise self.error(
                "not a window", first + wrong, "class overlap x1 y1 x2 y2", rows[wrong]
            ) from None
        self.at = first + len(rows)
        return numbers.reshape(count, FIELDS)

    def whole(self, at: int) -> int:
        if not self.words[at].isdecimal():
            raise self.error("a whole number is needed", at, "a number", self.words[at])
        return int(self.words[at])

    def error(self, what: str, word: int, expected: object, found: object) -> NetcError:
        return NetcError(what, at=Location(self.path, self.line_of(word)), expected=expected, found=found)

    def line_of(self, word: int) -> int:
        """The line on which a word stands."""
        with open(self.path, encoding="utf-8-sig", errors="surrogateescape") as file:
            seen = 0
            for number, line in enumerate(file, 1):
                seen += len(line.split())
                if seen > word:
                    return number
        return 1


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(np.float32(word))
    except ValueError:
        return False
