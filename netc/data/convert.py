"""Turns images into a database of Datums, as Caffe's convert_imageset does."""

from __future__ import annotations

import logging
import os
import secrets
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice

import cv2
import numpy as np

from netc.cores import cores_allowed
from netc.data.bad_records import BadRecord, Undecodable
from netc.data.draws import permutation
from netc.data.image import decode_image, planes, resize
from netc.data.image_list import ListedImage, file_bytes, full_path, read_list
from netc.data.image_tree import list_tree, write_tree_lists
from netc.data.read_flags import IMREAD_COLOR, IMREAD_GRAYSCALE
from netc.data.source import Origin, Progress, Shape
from netc.data.writer import DatabaseWriter, check_target, writing_database
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)

LABELS_SUFFIX = "_labels"  # of the database that holds the vectors where a line has several labels
TASK_IMAGES = 16  # read by one thread at a time
TASKS_PER_WORKER = 3  # under way or waiting to be written: this bounds the memory
SKIPPED_SHOWN = 20
JPEG = {"jpg", "jpeg"}


@dataclass
class ConvertReport:
    """What a conversion did."""

    written: int = 0
    skipped: list[BadRecord] = field(default_factory=list)  # unreadable files, by their paths in the list
    list_file: str | None = None  # written for a tree of class folders
    label_names_file: str | None = None
    labels_database: str | None = None  # written where lines have several labels


@dataclass(frozen=True)
class Decoded:
    """One image: its serialized Datum and its shape, C x H x W."""

    datum: bytes
    shape: Shape


@dataclass(frozen=True)
class ImageForm:
    """How each image is stored."""

    flag: int  # OpenCV's IMREAD_*
    size: tuple[int, int] | None  # height and width
    encode: bool
    encode_type: str  # the extension to encode to; empty: that of the file

    def store(self, path: str, label: int) -> Decoded:
        """An image file as it goes into the database. Raises Undecodable."""
        file = file_bytes(path)
        image = resize(decode_image(file, self.flag), self.size)
        shape = (image.shape[2] if image.ndim == 3 else 1, *image.shape[:2])
        extension = self._extension(path) if self.encode else ""
        if not extension:
            channels, height, width = shape
            datum = pb.Datum(
                channels=channels, height=height, width=width, data=planes(image).tobytes(), label=label
            )
            datum.encoded = False  # Caffe writes it even so
        # An encoded Datum states no shape. A file of the wanted type goes in byte for byte unless it is
        # resized, even a colour one with -gray, as in Caffe; whoever reads it then says force_gray.
        elif self.size is None and _same_type(path, extension):
            datum = pb.Datum(data=file.tobytes(), label=label, encoded=True)
        else:
            datum = pb.Datum(data=_encode(image, extension), label=label, encoded=True)
        return Decoded(datum.SerializeToString(), shape)

    def _extension(self, path: str) -> str:
        extension = self.encode_type or _suffix(path)
        if not extension:
            log.warning("%s has no extension that says how to encode it; it is stored raw", path)
        return extension


def convert_imageset(
    root: str,
    list_file: str | None,
    database: str,
    *,
    resize_height: int = 0,
    resize_width: int = 0,
    gray: bool = False,
    shuffle: bool = False,
    check_size: bool = False,
    encoded: bool = False,
    encode_type: str = "",
    backend: str = "lmdb",
    workers: int | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Writes the images below `root` that `list_file` names to a new database.

    The key of a record is its line's number (after shuffling, from 0, eight digits), an underscore and its
    path. Unreadable files are skipped and named; their numbers stay unused. Without `list_file` each folder
    in `root` is a class, numbered in the order of the names; the list goes to `<database>_list.txt`, the
    names to `<database>_label_names.txt`. Where lines have several labels, the Datums carry the first if it
    is a whole number, else 0, and a second database `<database>_labels` has, under the same keys, Datums with
    the labels as float_data (labels x 1 x 1). Only resize_height and resize_width together resize. seed: of
    the shuffle, None for a new order every time. The database takes its name once it is whole.

    Raises NetcError where the target exists (unless overwrite), the list is wrong, no image can be read, or
    with `check_size` one differs in size from the first.
    """
    check_target(database, backend, overwrite)
    form = _image_form(resize_height, resize_width, gray, encoded, encode_type)
    images, names = _listed(root, list_file)
    if shuffle:
        images = _shuffled(images, seed)
    log.info("a total of %d images", len(images))
    report = ConvertReport()
    with ExitStack() as stack:
        writers = [(stack.enter_context(writing_database(database, backend, overwrite=overwrite)), False)]
        if len(images[0].labels) > 1:
            report.labels_database = database.rstrip("/") + LABELS_SUFFIX
            labels = writing_database(report.labels_database, backend, overwrite=overwrite)
            writers.append((stack.enter_context(labels), True))
        _write_images(images, _decoded(images, root, form, workers), writers, report, check_size, progress)
        if names is not None:
            report.list_file, report.label_names_file = write_tree_lists(database, images, names)
    log.info("processed %d files", report.written)
    if report.skipped:
        log.warning("skipped %d of %d files that cannot be read", len(report.skipped), len(images))
    return report


def _write_images(
    images: Sequence[ListedImage],
    decoded: Generator[Decoded | str],
    writers: Sequence[tuple[DatabaseWriter, bool]],
    report: ConvertReport,
    check_size: bool,
    progress: Progress | None,
) -> None:
    """Puts each image that could be decoded into the databases: its Datum, or where so marked its labels."""
    first: Shape | None = None
    with closing(decoded):
        for number, (image, outcome) in enumerate(zip(images, decoded, strict=True)):
            if isinstance(outcome, str):
                _skip(report, BadRecord(image.path, outcome))
            else:
                first = first or outcome.shape
                if check_size and outcome.shape != first:
                    raise _wrong_size(image.path, first, outcome.shape)
                key = f"{number:08d}_{image.path}".encode("utf-8", "surrogateescape")
                for writer, takes_labels in writers:
                    writer.put(key, _label_datum(image.labels) if takes_labels else outcome.datum)
                report.written += 1
            if progress:
                progress(number + 1, len(images))
    if not report.written:
        raise NetcError(
            f"none of the {len(images)} images can be read; the first is {report.skipped[0].key}",
            found=report.skipped[0].why,
            remedy="check that the paths in the list start at the root folder",
        )


def _shuffled(images: Sequence[ListedImage], seed: int | None) -> list[ListedImage]:
    if seed is None:
        seed = secrets.randbits(64)
    return [images[i] for i in permutation(seed, "convert_imageset", 0, len(images))]


def _listed(root: str, list_file: str | None) -> tuple[list[ListedImage], list[str] | None]:
    """The images to convert, and the names of the labels where folders give them."""
    if list_file is None:
        return list_tree(root)
    return read_list(list_file, Origin(), root=root, several=True), None


def _decoded(
    images: Sequence[ListedImage], root: str, form: ImageForm, workers: int | None
) -> Generator[Decoded | str]:
    """What becomes of each image, in order; a str says why it cannot be read. Decodes in threads."""
    workers = workers or cores_allowed()
    tasks = iter([images[i : i + TASK_IMAGES] for i in range(0, len(images), TASK_IMAGES)])
    pool = ThreadPoolExecutor(workers, "netc-convert")
    waiting: deque[Future[list[Decoded | str]]] = deque()
    try:
        for task in islice(tasks, workers * TASKS_PER_WORKER):
            waiting.append(pool.submit(_decode_task, task, root, form))
        while waiting:
            yield from waiting.popleft().result()
            for task in islice(tasks, 1):
                waiting.append(pool.submit(_decode_task, task, root, form))
    finally:
        pool.shutdown(cancel_futures=True)


def _decode_task(images: Sequence[ListedImage], root: str, form: ImageForm) -> list[Decoded | str]:
    outcomes: list[Decoded | str] = []
    for image in images:
        try:
            outcomes.append(form.store(full_path(root, image.path), _whole_label(image.labels[0])))
        except Undecodable as error:
            outcomes.append(str(error))
    return outcomes


def _whole_label(label: float) -> int:
    """What Datum.label, an int32, can hold of a label: 0 for anything else."""
    return int(label) if label.is_integer() and abs(label) < 2**31 else 0


def _label_datum(labels: Sequence[float]) -> bytes:
    return pb.Datum(channels=len(labels), height=1, width=1, float_data=labels).SerializeToString()


def _image_form(height: int, width: int, gray: bool, encoded: bool, encode_type: str) -> ImageForm:
    """How the flags say that images are stored. Raises NetcError where they make no sense."""
    if min(height, width) < 0:
        raise NetcError("a size cannot be negative", found=f"{height} x {width}")
    if bool(height) != bool(width):
        log.warning("only one of resize_height and resize_width is given: images are not resized")
    extension = encode_type.lower().lstrip(".")
    if extension and not cv2.haveImageWriter(f"x.{extension}"):
        raise NetcError(
            f"OpenCV cannot encode to {extension}", expected="a type such as png or jpg", found=extension
        )
    return ImageForm(
        flag=IMREAD_GRAYSCALE if gray else IMREAD_COLOR,
        size=(height, width) if height and width else None,
        encode=encoded or bool(extension),
        encode_type=extension,
    )


def _encode(image: np.ndarray, extension: str) -> bytes:
    try:
        done, data = cv2.imencode(f".{extension}", image)
    except cv2.error as error:
        raise Undecodable(f"OpenCV cannot encode it to {extension}") from error
    if not done:
        raise Undecodable(f"OpenCV cannot encode it to {extension}")
    return data.tobytes()


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1][1:].lower()


def _same_type(path: str, extension: str) -> bool:
    suffix = _suffix(path)
    return suffix == extension or (suffix in JPEG and extension in JPEG)


def _skip(report: ConvertReport, bad: BadRecord) -> None:
    report.skipped.append(bad)
    level = logging.WARNING if len(report.skipped) <= SKIPPED_SHOWN else logging.DEBUG
    log.log(level, "could not read %s: %s", bad.key, bad.why)


def _wrong_size(path: str, expected: tuple[int, ...], found: tuple[int, ...]) -> NetcError:
    return NetcError(
        f"{path} does not have the size of the first image",
        expected="x".join(map(str, expected)),
        found="x".join(map(str, found)),
        remedy="resize with -resize_height and -resize_width, or leave out -check_size",
    )
