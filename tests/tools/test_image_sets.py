"""MNIST and CIFAR-10 from each form in which they are published, made small by the tests."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

import get_cifar10
import get_mnist
from image_sets import ImageSetError, unpack
from netc.proto import netc_pb2 as pb

DIGITS = np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8)
DIGIT_LABELS = np.arange(20, dtype=np.uint8) % 10
PLANES = np.random.default_rng(2).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
PLANE_LABELS = np.arange(12, dtype=np.uint8) % 10


def idx_bytes(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(folder: Path) -> Path:
    folder.mkdir()
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(DIGITS)))
        (folder / f"{prefix}-labels.idx1-ubyte").write_bytes(idx_bytes(DIGIT_LABELS))
    return folder


def write_cifar10_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    records = np.concatenate([PLANE_LABELS[:, None], PLANES.reshape(12, -1)], axis=1)
    (folder / "data_batch_1.bin").write_bytes(records[:7].tobytes())
    (folder / "data_batch_2.bin").write_bytes(records[7:].tobytes())
    (folder / "test_batch.bin").write_bytes(records.tobytes())
    return folder


def write_cifar10_pickled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("data_batch_1", "test_batch"):
        batch = {b"data": PLANES.reshape(12, -1), b"labels": PLANE_LABELS.tolist(), b"batch_label": b"x"}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def tar_of(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    return target


def run_tool(tool: object, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["tool", *map(str, arguments)])
    return tool.main()  # type: ignore[attr-defined]


def records(database: Path) -> list[tuple[int, np.ndarray]]:
    """The label and the (channels, height, width) pixels of each record, in key order."""
    with (
        lmdb.open(str(database), readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        datums = [pb.Datum.FromString(value) for _, value in transaction.cursor()]
    shape = [(datum.channels, datum.height, datum.width) for datum in datums]
    return [
        (datum.label, np.frombuffer(datum.data, np.uint8).reshape(size))
        for datum, size in zip(datums, shape, strict=True)
    ]


def assert_same_images(found: list[tuple[int, np.ndarray]], images: np.ndarray, labels: np.ndarray) -> None:
    """Compares images and labels as sets: a database of a tree has an order of its own."""
    wanted = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert {image.tobytes(): label for label, image in found} == wanted
    assert len(found) == len(labels)


def test_mnist_from_idx_files_becomes_gray_databases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_mnist(tmp_path / "idx"), tmp_path / "out"
    assert run_tool(get_mnist, monkeypatch, "--from", source, "--out", out) == 0
    for split in ("train", "test"):
        assert_same_images(records(out / f"mnist_{split}_lmdb"), DIGITS[:, None], DIGIT_LABELS)
        assert len((out / f"{split}.txt").read_text().splitlines()) == 20
    assert (out / "labels.txt").read_text().split() == list("0123456789")


def test_mnist_from_a_tar_of_class_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_mnist(tmp_path / "idx"), tmp_path / "out"
    assert run_tool(get_mnist, monkeypatch, "--from", source, "--out", out) == 0
    archive = tar_of(out / "images", tmp_path / "mnist.tar.gz")
    assert run_tool(get_mnist, monkeypatch, "--from", archive, "--out", tmp_path / "again") == 0
    assert_same_images(records(tmp_path / "again" / "mnist_train_lmdb"), DIGITS[:, None], DIGIT_LABELS)
    assert sorted(path.name for path in (tmp_path / "again").iterdir() if path.name.startswith(".")) == []


def test_a_tree_of_class_folders_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        run_tool(get_mnist, monkeypatch, "--from", write_mnist(tmp_path / "i"), "--out", tmp_path / "out")
        == 0
    )
    assert run_tool(get_mnist, monkeypatch, "--from", tmp_path / "out/images", "--out", tmp_path / "new") == 0
    assert not (tmp_path / "new" / "images").exists()
    assert_same_images(records(tmp_path / "new" / "mnist_test_lmdb"), DIGITS[:, None], DIGIT_LABELS)


def test_training_images_are_not_in_the_order_of_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run_tool(get_mnist, monkeypatch, "--from", write_mnist(tmp_path / "idx"), "--out", out) == 0
    labels = [label for label, _ in records(out / "mnist_train_lmdb")]
    assert labels != sorted(labels)


@pytest.mark.parametrize("write", [write_cifar10_binary, write_cifar10_pickled])
@pytest.mark.parametrize("packed", [False, True])
def test_cifar10_planes_become_bgr_databases_with_a_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: object, packed: bool
) -> None:
    source, out = write(tmp_path / "cifar-10-batches"), tmp_path / "out"  # type: ignore[operator]
    if packed:
        source = tar_of(source, tmp_path / "cifar.tar.gz")
    assert run_tool(get_cifar10, monkeypatch, "--from", source, "--out", out) == 0
    for split in ("train", "test"):
        assert_same_images(records(out / f"cifar10_{split}_lmdb"), PLANES[:, ::-1], PLANE_LABELS)
    mean = pb.BlobProto.FromString((out / "mean.binaryproto").read_bytes())
    np.testing.assert_allclose(mean.data, PLANES[:, ::-1].mean(axis=0).ravel(), rtol=1e-5)
    assert cv2.imread(str(out / "images/train/airplane/00000.png")).shape == (32, 32, 3)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Command:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    source = write_cifar10_pickled(tmp_path / "cifar")
    (source / "test_batch").write_bytes(pickle.dumps(Command()))
    assert run_tool(get_cifar10, monkeypatch, "--from", source, "--out", tmp_path / "out") == 1
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (idx_bytes(DIGITS)[:-1], "cut short"),
        (idx_bytes(DIGITS)[:6], "cut short"),
        (b"<html>", "no IDX file"),
        (b"", "no IDX file"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, body: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(body)
    with pytest.raises(ImageSetError, match=message) as caught:
        get_mnist.read_idx(path)
    assert str(path) in str(caught.value)


def test_a_cut_cifar10_batch_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    source = write_cifar10_binary(tmp_path / "cifar")
    (source / "test_batch.bin").write_bytes((source / "test_batch.bin").read_bytes()[:-1])
    assert run_tool(get_cifar10, monkeypatch, "--from", source, "--out", tmp_path / "out") == 1
    assert "test_batch.bin" in capsys.readouterr().err  # type: ignore[attr-defined]
    assert not (tmp_path / "out" / "images").exists()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "inner/../../outside.txt"])
def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"harm"))
    with pytest.raises(ImageSetError, match="outside"):
        unpack(tmp_path / "bad.tar", tmp_path / "folder")
    assert [path.name for path in tmp_path.rglob("*.txt")] == []


def test_links_in_an_archive_are_not_made(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/"
        archive.addfile(link)
    unpack(tmp_path / "links.tar", tmp_path / "folder")
    assert not (tmp_path / "folder" / "link").is_symlink()


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    archive = tar_of(write_mnist(tmp_path / "idx"), tmp_path / "mnist.tar.gz")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(ImageSetError, match=r"mnist\.tar\.gz"):
        unpack(archive, tmp_path / "folder")
