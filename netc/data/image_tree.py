"""A folder of class folders as an image list, and the files that say which label is which class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from netc.data.image_list import ListedImage
from netc.errors import NetcError
from netc.schema.atomic import replacing

# The endings that OpenCV reads; other files in a class folder (notes, thumbnails' indexes) are left alone.
IMAGE_SUFFIXES = frozenset(
    [
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jp2",
        ".bmp",
        ".dib",
        ".webp",
        ".avif",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
        ".tif",
        ".tiff",
        ".sr",
        ".ras",
        ".gif",
    ]
)
LIST_SUFFIX = "_list.txt"
NAMES_SUFFIX = "_label_names.txt"


def list_tree(root: str) -> tuple[list[ListedImage], list[str]]:
    """The images of each folder in `root` (and the folders in it), and the folders' names, whose index is the
    label.

    Both in the order of their names; hidden files and folders are left out. Raises NetcError where there are
    none.
    """
    if not os.path.isdir(root):
        raise NetcError(f"there is no folder {root}", remedy="name the folder that holds the class folders")
    names = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    images = [
        ListedImage(path, (float(label),))
        for label, name in enumerate(names)
        for path in _images_below(root, name)
    ]
    if not images:
        raise NetcError(
            f"{root} holds no folders of images",
            expected="a folder for each class",
            found=f"{len(names)} folders without images" if names else "no folders",
            remedy="put each class in a folder of its own, or name a list of lines `path label`",
        )
    return images, names


def _images_below(root: str, name: str) -> list[str]:
    found = []
    for folder, subfolders, files in os.walk(os.path.join(root, name)):
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]
        inside = os.path.relpath(folder, root)
        found += [
            os.path.join(inside, file)
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
        ]
    return sorted(found)


def write_tree_lists(database: str, images: Sequence[ListedImage], names: Sequence[str]) -> tuple[str, str]:
    """Writes the list and the labels' names, one a line in order, beside a database; the two paths."""
    base = database.rstrip("/")
    _write_lines(base + LIST_SUFFIX, (f"{image.path} {int(image.labels[0])}" for image in images))
    _write_lines(base + NAMES_SUFFIX, names)
    return base + LIST_SUFFIX, base + NAMES_SUFFIX


def _write_lines(path: str, lines: Iterable[str]) -> None:
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.writelines(f"{line}\n" for line in lines)
