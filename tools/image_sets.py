"""From an image set as it is published (archive, arrays, or folders) to a tree of images, lists and LMDBs."""

from __future__ import annotations

import os
import random
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import cv2
import numpy as np
from rich.progress import track

from netc.cli.main import main as netc
from netc.schema.atomic import replacing

SPLITS = ("train", "test")
SHUFFLE_SEED = 1  # a tree is sorted by class, and a net learns nothing from one class after the other


class ImageSetError(Exception):
    """The set is not what it should be, or a command on it failed; the message is for the user."""


@dataclass(frozen=True)
class LabelledImages:
    """Images, (count, height, width) gray or (count, height, width, 3) BGR uint8, and labels (count,)."""

    images: np.ndarray
    labels: np.ndarray


Reader = Callable[[Path], Mapping[str, LabelledImages]]


def image_tree(source: Path, out: Path, classes: Sequence[str], read_arrays: Reader) -> Path:
    """The folder that holds train/<class>/* and test/<class>/*.

    source: a folder or a tar with such a tree, or with files that `read_arrays` turns into the images of
    each split. A tree in a folder stays where it is; anything else becomes `out`/images, which appears when
    it is whole.
    """
    ready = out / "images"
    if ready.is_dir():
        print(f"{ready} is there already (delete it to have it made again)")
        return ready
    if not source.exists():
        raise ImageSetError(f"{source} does not exist")
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".images-") as scratch:
        folder = source
        if source.is_file():
            folder = Path(scratch) / "unpacked"
            unpack(source, folder)
        tree = find_tree(folder, classes)
        if tree is not None and folder is source:
            return tree
        if tree is None:
            tree = Path(scratch) / "tree"
            write_tree(tree, classes, read_arrays(folder))
        tree.rename(ready)
    return ready


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar of any compression, files and folders only, each inside `folder`.

    Raises ImageSetError for a damaged archive and for an entry that would land outside.
    """
    try:
        with tarfile.open(archive) as entries:
            for entry in track(entries, description=f"unpacking {archive.name}"):
                name = PurePosixPath(entry.name)
                if name.is_absolute() or ".." in name.parts:
                    raise ImageSetError(f"{archive}: the entry {entry.name} would land outside the folder")
                if not entry.isfile():
                    continue
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                body = entries.extractfile(entry)
                assert body is not None, "a regular file has a body"
                with body, target.open("wb") as file:
                    shutil.copyfileobj(body, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ImageSetError(f"{archive} cannot be unpacked: {error}") from error


def find_tree(folder: Path, classes: Sequence[str]) -> Path | None:
    """The folder with train/<class> and test/<class> for all classes: `folder` or one right below it."""
    below = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for candidate in (folder, *below):
        if all((candidate / split / name).is_dir() for split in SPLITS for name in classes):
            return candidate
    return None


def write_tree(tree: Path, classes: Sequence[str], splits: Mapping[str, LabelledImages]) -> None:
    """Writes every image as <split>/<class>/<place in the split>.png."""
    for split, content in splits.items():
        for name in classes:
            (tree / split / name).mkdir(parents=True)
        pairs = zip(content.images, content.labels, strict=True)
        progress = track(pairs, description=f"writing {split} images", total=len(content.labels))
        for place, (image, label) in enumerate(progress):
            done, png = cv2.imencode(".png", image)
            assert done, "OpenCV writes any 8-bit image as PNG"
            (tree / split / classes[label] / f"{place:05d}.png").write_bytes(png.tobytes())


def write_list(tree: Path, split: str, classes: Sequence[str], target: Path) -> None:
    """Writes `<class>/<file> <label>` for every image of a split; training images in a fixed random order."""
    lines = [
        f"{name}/{path.name} {label}\n"
        for label, name in enumerate(classes)
        for path in sorted((tree / split / name).iterdir())
    ]
    if split == "train":
        random.Random(SHUFFLE_SEED).shuffle(lines)
    with replacing(target) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def build_databases(
    name: str, tree: Path, out: Path, classes: Sequence[str], flags: Sequence[str] = ()
) -> None:
    """Makes <out>/<split>.txt, <out>/labels.txt and <out>/<name>_<split>_lmdb.

    flags: more flags for convert_imageset.
    """
    with replacing(out / "labels.txt") as temporary:
        temporary.write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")
    for split in SPLITS:
        listed, database = out / f"{split}.txt", out / f"{name}_{split}_lmdb"
        write_list(tree, split, classes, listed)
        if database.is_dir():
            print(f"{database} is there already (delete it to have it made again)")
        else:
            run_netc("convert_imageset", *flags, f"{tree / split}{os.sep}", str(listed), str(database))


def run_netc(*arguments: str) -> None:
    """Shows and runs one netc command.

    Raises ImageSetError if it fails; the command itself has said why.
    """
    print("$ netc", *arguments)
    if netc(list(arguments)) != 0:
        raise ImageSetError(f"netc {arguments[0]} failed")
