"""Image lists: lines of a path and its labels, as convert_imageset and the ImageData layer read them."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

import numpy as np

from netc.data.bad_records import Undecodable
from netc.data.image import decode_image, planes, resize
from netc.data.pixel_room import PixelRoom
from netc.data.source import Origin
from netc.errors import Location, NetcError, raise_errors

MOST_ERRORS_SHOWN = 10
LINES_TRIED = 100
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.0*)?")


@dataclass(frozen=True)
class ListedImage:
    """One line of a list."""

    path: str  # as written, relative to the root folder
    labels: tuple[float, ...]


def read_list(
    path: str, origin: Origin, field: tuple[str, ...] = (), *, root: str = "", several: bool = False
) -> list[ListedImage]:
    """The lines `path label` of a file; blank lines are left out.

    A path may hold spaces: the label is the last word of the line, a whole number, perhaps written 3.0
    (Caffe's `atoi` would cut 0.5 to 0, and make 0 of words). several: lines may end in several labels, any
    numbers; how many is settled by the first files that exist below `root`. Raises NetcError at the lines
    that are wrong.
    """
    lines = read_lines(path, origin, field)
    labels = _count_labels(lines, root) if several else 1
    listed: list[ListedImage] = []
    errors: list[NetcError] = []
    for number, line in lines:
        image = _parse_line(line, labels)
        if image:
            listed.append(image)
        elif len(errors) < MOST_ERRORS_SHOWN:
            expected = "a path and a whole number" if labels == 1 else f"a path and {labels} numbers"
            errors.append(
                NetcError(
                    "not a line of an image list", at=Location(path, number), expected=expected, found=line
                )
            )
    raise_errors(errors)
    if not listed:
        raise origin.error(f"the image list {path} is empty", *field)
    return listed


def read_lines(path: str, origin: Origin, field: tuple[str, ...]) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            return [(number, line.rstrip()) for number, line in enumerate(file, 1) if line.strip()]
    except OSError as error:
        raise origin.unreadable(
            "the image list", path, error, *field, remedy="name a file of lines `path label`"
        ) from error


def _count_labels(lines: list[tuple[int, str]], root: str) -> int:
    """How many labels a line has: as few as make its path a file that exists."""
    for _, line in lines[:LINES_TRIED]:
        words = line.rsplit(None)
        for labels in range(1, len(words)):
            if not _is_number(words[-labels]):
                break
            if os.path.isfile(full_path(root, line.rsplit(None, labels)[0])):
                return labels
    return 1


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parse_line(line: str, labels: int) -> ListedImage | None:
    path, *words = line.rsplit(None, labels)
    if len(words) != labels or (labels == 1 and not WHOLE_NUMBER.fullmatch(words[0])):
        return None
    values = tuple(float(word) if _is_number(word) else math.nan for word in words)
    fits = math.isfinite if labels > 1 else lambda value: -(2**31) <= value < 2**31
    return ListedImage(path, values) if all(map(fits, values)) else None


def full_path(root: str, path: str) -> str:
    """The two glued together, as Caffe does (an absolute path too), with a slash between."""
    return os.path.join(root, "") + path if root else path


def load_image(
    path: str, flag: int, size: tuple[int, int] | None = None, room: PixelRoom | None = None
) -> np.ndarray:
    """A file as C x H x W, uint8, BGR, resized bilinearly to size (height, width). Raises Undecodable.

    flag: one of `read_flags`; room: where the image is put.
    """
    return planes(resize(decode_image(file_bytes(path), flag), size), room)


def file_bytes(path: str) -> np.ndarray:
    """What a file holds. Raises Undecodable."""
    try:
        return np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise Undecodable(reason) from error
