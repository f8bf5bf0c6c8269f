"""Name-and-size files: the names of the images of a test set and their sizes, in the order in which they are
tested."""

from __future__ import annotations

from dataclasses import dataclass

from netc.errors import Location, NetcError
from netc.schema.reading import read_file_text


@dataclass(frozen=True)
class NamedSize:
    """One image of a test set, and its size in pixels."""

    name: str
    height: int
    width: int

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def read_image_sizes(path: str) -> list[NamedSize]:
    """The lines `name height width` of a file. Raises NetcError where it cannot be read, is empty, or a line
    is anything else."""
    listed = []
    for number, line in enumerate(read_file_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, *size = line.split()
        if len(size) != 2 or not all(part.isdigit() and int(part) > 0 for part in size):
            raise NetcError(
                "not the name and the size of an image",
                at=Location(path, number),
                expected="name height width",
                found=line.strip(),
            )
        listed.append(NamedSize(name, int(size[0]), int(size[1])))
    if not listed:
        raise NetcError("the file is empty", at=Location(path), expected="lines of name height width")
    return listed
