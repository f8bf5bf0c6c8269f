"""WindowData: window files, which windows a batch shows, and where they land in the crop."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.data.source import Origin
from netc.data.window_file import read_window_file
from netc.data.window_source import Placement, with_context
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

WINDOWS = """
# 0
{folder}/a.png
3 20 30
4
5 0.9 0 0 9 9
7 0.5 10 5 29 19
2 0.49 3 3 8 12
2 0.1 0 0 29 19
# 1
{folder}/b.png
3 12 10
2
1 1 2 3 5 8
4 0.29 0 0 9 11
"""
TEXT = """layer {{ name: "w" type: "WindowData" top: "data" top: "label"
  transform_param {{ crop_size: {crop} {transform} }}
  window_data_param {{ source: "{folder}/windows.txt" batch_size: {batch} {options} }} }}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of noise and their windows, four of them foreground at the threshold of 0.5 ..."""
    random = np.random.default_rng(4)
    cv2.imwrite(str(tmp_path / "a.png"), random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), random.integers(0, 256, (12, 10, 3), dtype=np.uint8))
    (tmp_path / "windows.txt").write_text(WINDOWS.format(folder=tmp_path))
    return tmp_path


def layer(folder: Path, options: str = "", transform: str = "", batch: int = 8, crop: int = 6) -> str:
    return TEXT.format(folder=folder, options=options, transform=transform, batch=batch, crop=crop)


def warped(path: Path, corners: tuple[int, int, int, int], crop: int) -> Any:
    x1, y1, x2, y2 = corners
    image = cv2.imread(str(path))[y1 : y2 + 1, x1 : x2 + 1]
    return cv2.resize(image, (crop, crop), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)


def test_a_file_is_images_and_windows(folder: Path) -> None:
    found = read_window_file(str(folder / "windows.txt"), Origin())
    assert found.paths == [f"{folder}/a.png", f"{folder}/b.png"]
    assert found.images.tolist() == [0, 0, 0, 0, 1, 1]
    assert found.windows[1].tolist() == [7, 0.5, 10, 5, 29, 19]


def test_background_windows_come_first_as_class_0(folder: Path, opened: Any) -> None:
    source = opened(layer(folder, "fg_fraction: 0.4 bg_threshold: 0.3", batch=9), seed=3)
    assert [top.shape for top in source.tops] == [(9, 3, 6, 6), (9,)]
    seen = set()
    for _ in range(12):
        labels = source.next()[1].tolist()
        assert labels[:6] == [0] * 6  # 9 * 0.4 is 3.6: three of the foreground
        assert set(labels[6:]) <= {1, 5, 7}
        seen.update(labels)
    assert seen == {0, 1, 5, 7}


def test_every_window_shown_is_one_of_its_kind_warped(folder: Path, opened: Any) -> None:
    source = opened(layer(folder, "fg_fraction: 0.5 fg_threshold: 0.6 bg_threshold: 0.2 scale: 0.5"))
    foreground = {5: ("a.png", (0, 0, 9, 9)), 1: ("b.png", (2, 3, 5, 8))}
    for _ in range(3):
        data, labels = source.next()
        for shown, label in zip(data, labels.tolist(), strict=True):
            name, corners = foreground.get(label, ("a.png", (0, 0, 29, 19)))
            np.testing.assert_array_equal(shown, warped(folder / name, corners, 6) * np.float32(0.5))


def test_windows_are_mirrored_by_the_toss_of_a_coin(folder: Path, opened: Any) -> None:
    data, _ = opened(layer(folder, "fg_threshold: 2 bg_threshold: 0.2 fg_fraction: 0", "mirror: true")).next()
    plain = warped(folder / "a.png", (0, 0, 29, 19), 6).astype(np.float32)
    mirrored = [np.array_equal(shown, plain[:, :, ::-1]) for shown in data]
    assert [np.array_equal(shown, plain) for shown in data] == [not m for m in mirrored]
    assert 0 < sum(mirrored) < 8


def test_mean_values_are_subtracted_before_the_scale(folder: Path, opened: Any) -> None:
    options = "fg_threshold: 2 bg_threshold: 0.2 fg_fraction: 0 scale: 0.25"
    means = "mean_value: 10 mean_value: 20 mean_value: 30"
    data, _ = opened(layer(folder, options, means)).next()
    plain = warped(folder / "a.png", (0, 0, 29, 19), 6).astype(np.float32)
    np.testing.assert_array_equal(data[0], (plain - np.reshape([10, 20, 30], (3, 1, 1))) * 0.25)


def test_the_middle_of_a_mean_image_is_subtracted(folder: Path, opened: Any) -> None:
    mean = np.random.default_rng(0).random((3, 9, 9)).astype(np.float32)
    blob = pb.BlobProto(num=1, channels=3, height=9, width=9, data=mean.ravel())
    (folder / "mean").write_bytes(blob.SerializeToString())
    options = "fg_threshold: 2 bg_threshold: 0.2 fg_fraction: 0"
    data, _ = opened(layer(folder, options, f'mean_file: "{folder}/mean"')).next()
    plain = warped(folder / "a.png", (0, 0, 29, 19), 6).astype(np.float32)
    np.testing.assert_array_equal(data[0], plain - mean[:, 1:7, 1:7])


@pytest.mark.parametrize(
    ("corners", "pad", "square", "mirrored", "expected"),
    [
        # 10 x 10 in the middle, 2 of 20 pixels of context: grown by 20 / 16 to 13 and a half each way
        ((40, 40, 49, 49), 2, False, False, Placement((39, 39, 51, 51), (20, 20), 0, 0)),
        # at the left and top edges 14 of 17 pixels are there
        ((0, 0, 9, 9), 4, False, False, Placement((0, 0, 13, 13), (16, 16), 4, 4)),
        ((0, 0, 9, 9), 4, False, True, Placement((0, 0, 13, 13), (16, 16), 4, 0)),
        # at the right and bottom edges 13 of 17 pixels are there; mirrored, the right's padding comes first
        ((90, 90, 99, 99), 4, False, False, Placement((87, 87, 99, 99), (15, 15), 0, 0)),
        ((90, 90, 99, 99), 4, False, True, Placement((87, 87, 99, 99), (15, 15), 0, 5)),
        # the square around a wide window
        ((20, 40, 59, 49), 0, True, False, Placement((20, 25, 60, 65), (20, 20), 0, 0)),
    ],
)
def test_context_is_taken_from_the_image_and_clipped(
    corners: Any, pad: int, square: bool, mirrored: bool, expected: Placement
) -> None:
    assert with_context(corners, 100, 100, 20, pad, square, mirrored) == expected


def test_what_lies_outside_the_image_is_zero(folder: Path, opened: Any) -> None:
    options = "fg_threshold: 2 bg_threshold: 0.2 fg_fraction: 0 context_pad: 2"
    data, _ = opened(layer(folder, options, "mean_value: 300", crop=10)).next()
    assert (data[:, :, 2:8, 2:8] < 0).all()  # 0 to 255, less 300
    for edge in (data[:, :, :2], data[:, :, -1:], data[..., :2], data[..., -1:]):
        assert not edge.any()


def test_a_run_is_repeated_from_its_seed_and_position(folder: Path, opened: Any) -> None:
    text = layer(folder, transform="mirror: true")
    one, other, third = (opened(text, seed=seed) for seed in (1, 1, 2))
    one.next()
    other.restore(one.state())
    data, labels = one.next()
    again, labels_again = other.next()
    np.testing.assert_array_equal(data, again)
    np.testing.assert_array_equal(labels, labels_again)
    third.next()
    assert not np.array_equal(third.next()[0], data)


def test_a_net_reads_windows(folder: Path) -> None:
    net = Net(parse_text(layer(folder), pb.NetParameter, "net.prototxt").message, pb.TRAIN, seed=1)
    net.forward()
    assert net.blobs["data"].shape == (8, 3, 6, 6)
    assert set(net.blobs["label"].data[6:].tolist()) <= {1, 5, 7}
    net.close()


def test_an_image_that_is_missing_is_named_and_replaced(
    folder: Path, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b.png").unlink()
    source = opened(layer(folder, "fg_fraction: 0.5 fg_threshold: 0.6 bg_threshold: 0.2"))
    for _ in range(3):
        assert 1 not in source.next()[1]
    assert f"skipped record {folder}/b.png" in caplog.text


@pytest.mark.parametrize("cache", ["true", "false"])
def test_paths_begin_at_the_root_folder(folder: Path, opened: Any, cache: str) -> None:
    (folder / "windows.txt").write_text(WINDOWS.format(folder=""))
    options = f'fg_fraction: 1 fg_threshold: 1 root_folder: "{folder}" cache_images: {cache}'
    source = opened(layer(folder, options))
    for _ in range(2):
        np.testing.assert_array_equal(source.next()[0][0], warped(folder / "b.png", (2, 3, 5, 8), 6))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("# 1", "# 2", 9, "numbered from 0"),
        ("# 1", "@ 1", 9, "an image begins with #"),
        ("3 12 10", "1 12 10", 11, "read in colour"),
        ("2 0.49 3 3", "2 x 3 3", 7, "not a window"),
        ("2 0.49 3 3", "2 0.49 nan 3", 7, "not a window"),
        ("4\n5", "four\n5", 4, "a whole number is needed"),
        ("0 0 9 11", "0 0 9", 14, "the middle of an image's windows"),
        ("2\n1 1 2 3 5 8\n4 0.29 0 0 9 11\n", "", 11, "the middle of an image"),
    ],
)
def test_a_damaged_file_is_refused_at_its_line(
    folder: Path, opened: Any, old: str, new: str, line: int, message: str
) -> None:
    text = WINDOWS.format(folder=folder).strip() + "\n"
    assert old in text
    (folder / "windows.txt").write_text(text.replace(old, new))
    with pytest.raises(NetcError, match=message) as caught:
        opened(layer(folder))
    assert f"windows.txt:{line}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "transform", "crop", "message"),
    [
        ("", "", 0, "crop_size, which is not set"),
        ("context_pad: 3", "", 6, "context_pad leaves nothing"),
        ('crop_mode: "round"', "", 6, "unknown crop_mode"),
        ("fg_threshold: 1.1", "", 6, "no foreground window"),
        ("fg_threshold: 0 bg_threshold: 0", "", 6, "no background window"),
        ("", "mean_value: 1 mean_value: 2", 6, "mean_value does not fit"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    folder: Path, opened: Any, options: str, transform: str, crop: int, message: str
) -> None:
    with pytest.raises(NetcError, match=message):
        opened(layer(folder, options, transform, crop=crop))


def test_a_batch_of_nothing_is_refused(folder: Path, opened: Any) -> None:
    with pytest.raises(NetcError, match="batch_size must be at least 1"):
        opened(layer(folder, batch=0))


def test_a_file_that_is_missing_or_empty_is_named(folder: Path, opened: Any) -> None:
    (folder / "windows.txt").write_text(" \n")
    with pytest.raises(NetcError, match="is empty"):
        opened(layer(folder))
    (folder / "windows.txt").unlink()
    with pytest.raises(NetcError, match="cannot be read"):
        opened(layer(folder))


def test_an_object_without_a_class_is_refused(folder: Path, opened: Any) -> None:
    (folder / "windows.txt").write_text(WINDOWS.format(folder=folder).replace("5 0.9", "0 0.9"))
    with pytest.raises(NetcError, match="has no class"):
        opened(layer(folder))


def test_a_window_outside_its_image_is_refused(folder: Path, opened: Any) -> None:
    (folder / "windows.txt").write_text(WINDOWS.format(folder=folder).replace("0 0 29 19", "0 0 30 19"))
    with pytest.raises(NetcError, match="does not lie in its image"):
        opened(layer(folder, "fg_fraction: 0 bg_threshold: 0.2")).next()


def test_a_scale_without_effect_is_named(folder: Path, opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened(layer(folder, transform="scale: 2"))
    assert "transform_param.scale has no effect" in caplog.text
