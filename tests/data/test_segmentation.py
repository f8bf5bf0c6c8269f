"""ImageSegData: an image and a label for every pixel, cut and turned together."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb

TEXT = """layer {{ name: "d" type: "ImageSegData" top: "data" top: "label" top: "dim"
  transform_param {{ {transform} }}
  image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" {options} }} }}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of 6 x 8, and their labels in files of their own: in image i the pixel (h, w) is
    (10 h + w, i, 7), its label 8 h + w."""
    h, w = np.mgrid[:6, :8].astype(np.uint8)
    for i in range(4):
        image = np.stack([10 * h + w, np.full_like(h, i), np.full_like(h, 7)], axis=2)
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"{i}_label.png"), 8 * h + w)
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}_label.png\n" for i in range(4)))
    return tmp_path


def text(folder: Path, transform: str = "", options: str = "label_type: PIXEL batch_size: 2") -> str:
    return TEXT.format(folder=folder, transform=transform, options=options)


def test_images_labels_and_sizes_come_together(folder, opened):
    source = opened(text(folder))
    assert [top.shape for top in source.tops] == [(2, 3, 6, 8), (2, 1, 6, 8), (2, 1, 1, 2)]
    data, label, dim = source.next()
    assert data[1, :, 2, 3].tolist() == [23, 1, 7]
    assert label[1, 0, 2].tolist() == list(range(16, 24))
    assert dim.reshape(2, 2).tolist() == [[6, 8], [6, 8]]
    assert source.next()[0][:, 1, 0, 0].tolist() == [2, 3]


def test_mean_and_scale_change_the_image_only(folder, opened):
    data, label, _ = opened(text(folder, "mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.5")).next()
    assert data[0, :, 0, 5].tolist() == [2, -1, 2]
    assert label[0, 0, 0, 5] == 5


@pytest.mark.parametrize("crop", ["crop_h: 4 crop_w: 5", "crop_height: 4 crop_width: 5"])
def test_crops_of_images_and_labels_are_the_same_ones(crop, folder, opened):
    source = opened(text(folder, f"mirror: true {crop}"), pb.TRAIN, seed=3)
    corners, mirrored = set(), set()
    for _ in range(80):
        data, label, dim = source.next()
        assert data.shape == (2, 3, 4, 5)
        assert dim.reshape(2, 2).tolist() == [[4, 5], [4, 5]]
        h, w = np.divmod(label[:, 0], 8)
        assert np.array_equal(data[:, 0], 10 * h + w)
        mirrored.update((label[:, 0, 0, 1] < label[:, 0, 0, 0]).tolist())
        corners.update(label[:, 0].min(axis=(1, 2)).tolist())
    assert mirrored == {True, False}
    assert corners == {8 * h + w for h in range(3) for w in range(4)}


def test_the_crop_is_in_the_middle_while_testing(folder, opened):
    _, label, _ = opened(text(folder, "crop_size: 3"), pb.TEST).next()
    assert label[0, 0].tolist() == [[10, 11, 12], [18, 19, 20], [26, 27, 28]]


def test_a_crop_beyond_the_image_is_padded_with_mean_and_ignored_label(folder, opened):
    options = "label_type: PIXEL batch_size: 1 ignore_label: -1"
    data, label, dim = opened(text(folder, "crop_size: 9 mean_value: 5", options), pb.TEST).next()
    assert not data[0, :, 6:].any()
    assert not data[0, :, :, 8:].any()
    assert np.all(label[0, 0, 6:] == -1)
    assert np.all(label[0, 0, :, 8:] == -1)
    assert label[0, 0, 5, 7] == 47
    assert dim.reshape(2).tolist() == [6, 8]


def test_scale_factors_resize_labels_to_the_nearest(folder, opened):
    source = opened(text(folder, "scale_factors: 2 crop_size: 16"), pb.TEST)
    data, label, dim = source.next()
    assert set(np.unique(label[0, 0, :12])) == set(range(48))
    assert data[0, 0, 11, 15] == 57
    assert np.all(label[0, 0, 12:] == 255)
    assert dim.reshape(2, 2)[0].tolist() == [6, 8]


def test_new_size_resizes_both(folder, opened):
    data, label, dim = opened(
        text(folder, options="label_type: PIXEL batch_size: 1 new_height: 3 new_width: 4")
    ).next()
    assert (data.shape, label.shape) == ((1, 3, 3, 4), (1, 1, 3, 4))
    assert label[0, 0].tolist() == [[0, 2, 4, 6], [16, 18, 20, 22], [32, 34, 36, 38]]
    assert dim.reshape(2).tolist() == [3, 4]


def test_one_label_for_all_pixels(folder, opened):
    (folder / "list.txt").write_text("0.png 3\n1.png 4\n")
    _, label, _ = opened(text(folder, options="batch_size: 2")).next()
    assert label[:, 0].min(axis=(1, 2)).tolist() == label[:, 0].max(axis=(1, 2)).tolist() == [3, 4]


def test_without_labels_every_pixel_is_ignored(folder, opened):
    (folder / "list.txt").write_text("0.png\n")
    _, label, _ = opened(text(folder, options="label_type: NONE batch_size: 1 ignore_label: 21")).next()
    assert np.all(label == 21)


def test_gray_images_have_one_channel(folder, opened):
    data = opened(text(folder, options="label_type: PIXEL batch_size: 1 is_color: false")).next()[0]
    assert data.shape == (1, 1, 6, 8)


def test_sizes_may_change_with_a_batch_of_one(folder, opened):
    cv2.imwrite(str(folder / "1.png"), np.zeros((4, 5, 3), np.uint8))
    cv2.imwrite(str(folder / "1_label.png"), np.ones((4, 5), np.uint8))
    source = opened(text(folder, options="label_type: PIXEL batch_size: 1"))
    assert [source.next()[1].shape for _ in range(3)] == [(1, 1, 6, 8), (1, 1, 4, 5), (1, 1, 6, 8)]


def test_mixed_sizes_in_a_batch_are_an_error_with_a_remedy(folder, opened):
    cv2.imwrite(str(folder / "1.png"), np.zeros((4, 5, 3), np.uint8))
    cv2.imwrite(str(folder / "1_label.png"), np.ones((4, 5), np.uint8))
    source = opened(text(folder))
    with pytest.raises(NetcError, match=r"1\.png does not have the shape of the others") as error:
        source.next()
    assert "crop_size" in error.value.remedy


def test_labels_of_another_size_are_a_bad_record(folder, opened, caplog):
    cv2.imwrite(str(folder / "0_label.png"), np.ones((4, 5), np.uint8))
    data, _, _ = opened(text(folder)).next()
    assert data[:, 1, 0, 0].tolist() == [1, 1]
    assert "0.png: it is 6 x 8, its labels 0_label.png are 4 x 5" in caplog.text


def test_missing_labels_are_named(folder, opened, caplog):
    (folder / "1_label.png").unlink()
    opened(text(folder)).next()
    assert "1.png: its labels 1_label.png: No such file" in caplog.text


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ('mean_file: "m.binaryproto"', "knows no mean_file"),
        ("crop_size: 4 crop_h: 3 crop_w: 3", "must be given once"),
        ("crop_h: 3", "must be given once"),
        ("scale_factors: 0 crop_size: 3", "more than 0"),
        ("scale_factors: 2", "change the size"),
        ("mean_value: 1 mean_value: 2", "does not fit the channels"),
    ],
)
def test_transforms_that_make_no_sense_are_refused(transform, message, folder, opened):
    with pytest.raises(NetcError, match=message):
        opened(text(folder, transform))


def test_lines_that_do_not_fit_label_type_are_named(folder, opened):
    with pytest.raises(NetcErrors) as error:
        opened(text(folder, options="batch_size: 1"))
    assert [wrong.at.line for wrong in error.value.errors] == [1, 2, 3, 4]
    assert "label_type" in error.value.errors[0].remedy
    (folder / "list.txt").write_text("0.png\n")
    with pytest.raises(NetcError, match="label_type: PIXEL"):
        opened(text(folder))


def test_a_run_goes_on_where_it_stopped(folder, opened):
    options = "label_type: PIXEL batch_size: 3 shuffle: true"
    full = opened(text(folder, "crop_size: 3 mirror: true", options), seed=5)
    for _ in range(3):
        full.next()
    state = full.state()
    expected = [top.copy() for top in full.next()]
    again = opened(text(folder, "crop_size: 3 mirror: true", options), seed=5)
    again.restore(state)
    for found, wanted in zip(again.next(), expected, strict=True):
        assert np.array_equal(found, wanted)
