"""ImageData: lists, and files that are missing or damaged."""

from __future__ import annotations

import random

import cv2
import numpy as np
import pytest

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb

TEXT = """layer {{ name: "d" type: "ImageData" top: "data" top: "label" {transform}
  image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" {options} }} }}"""


@pytest.fixture
def folder(tmp_path):
    """Nine gray images of 4 x 5, `i m.png` with every pixel i, and their list."""
    for i in range(9):
        cv2.imwrite(str(tmp_path / f"{i} m.png"), np.full((4, 5), i, np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{i} m.png {i}\n" for i in range(9)))
    return tmp_path


def test_paths_with_spaces_are_split_at_the_last_one(folder, opened):
    data, label = opened(
        TEXT.format(folder=folder, transform="", options="batch_size: 4 is_color: false")
    ).next()
    assert data.shape == (4, 1, 4, 5)
    assert label.tolist() == [0, 1, 2, 3]
    assert data[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_missing_image_is_named_and_replaced(folder, opened, caplog):
    (folder / "1 m.png").unlink()
    source = opened(TEXT.format(folder=folder, transform="", options="batch_size: 3"), pb.TEST)
    assert source.next()[1].tolist() == [0, 2, 2]
    assert "skipped record 1 m.png: No such file" in caplog.text


def test_a_wrong_root_folder_is_explained(folder, opened):
    text = TEXT.format(folder=folder, transform="", options="batch_size: 3").replace(
        'root_folder: "', 'root_folder: "/x'
    )
    with pytest.raises(
        NetcError, match=r"no image of a whole batch can be read; the first is 0 m\.png"
    ) as error:
        opened(text)
    assert "root_folder" in (error.value.remedy or "")


@pytest.mark.parametrize("options", ["new_height: 4", "new_width: 4"])
def test_one_new_size_alone_is_refused_as_in_caffe(options, folder, opened):
    with pytest.raises(NetcError, match="must be set together"):
        opened(TEXT.format(folder=folder, transform="", options=options))


def test_a_label_may_be_written_as_a_float_that_is_whole(folder, opened):
    (folder / "list.txt").write_text("0 m.png 3.0\n1 m.png 4.\n")
    _, label = opened(TEXT.format(folder=folder, transform="", options="batch_size: 2")).next()
    assert label.tolist() == [3, 4]


def test_all_wrong_lines_are_reported_at_once(folder, opened):
    (folder / "list.txt").write_text("0 m.png 0\nalone\n2 m.png two\n3 m.png 3\n4 m.png 0.5\n")
    with pytest.raises(NetcErrors) as error:
        opened(TEXT.format(folder=folder, transform="", options="batch_size: 1"))
    assert [wrong.at.line for wrong in error.value.errors] == [2, 3, 5]


def test_a_missing_and_an_empty_list_are_errors(folder, opened):
    text = TEXT.format(folder=folder, transform="", options="batch_size: 1")
    (folder / "list.txt").write_text("\n")
    with pytest.raises(NetcError, match="is empty"):
        opened(text)
    (folder / "list.txt").unlink()
    with pytest.raises(NetcError, match="cannot be read: No such file"):
        opened(text)


def test_rand_skip_beyond_the_list_is_an_error(folder, opened):
    text = TEXT.format(folder=folder, transform="", options="batch_size: 1 rand_skip: 100000")
    with pytest.raises(NetcError, match="rand_skip skips the whole list"):
        opened(text, seed=1)


def test_mixed_sizes_need_a_batch_of_one_or_a_resize(folder, opened):
    cv2.imwrite(str(folder / "4 m.png"), np.zeros((7, 5), np.uint8))
    mixed = opened(TEXT.format(folder=folder, transform="", options="batch_size: 9"))
    with pytest.raises(NetcError, match=r"the image 4 m\.png does not have the shape of the others"):
        mixed.next()
    single = opened(TEXT.format(folder=folder, transform="", options="batch_size: 1"))
    assert single.varies
    assert [single.next()[0].shape[2] for _ in range(6)] == [4, 4, 4, 4, 7, 4]
    resized = opened(
        TEXT.format(folder=folder, transform="", options="batch_size: 9 new_height: 3 new_width: 2")
    )
    assert not resized.varies
    assert resized.next()[0].shape == (9, 3, 3, 2)


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_damaged_images_load_or_are_named(extension, folder, opened):
    picture = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    pristine = cv2.imencode(f".{extension}", picture)[1].tobytes()
    rng = random.Random(2)
    for i in range(9):
        damaged = bytearray(pristine)
        if i % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        for _ in range(3 if damaged else 0):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (folder / f"{i} m.png").write_bytes(damaged if i else pristine)
    source = opened(
        TEXT.format(folder=folder, transform="", options="batch_size: 9 new_height: 24 new_width: 24")
    )
    assert source.next()[0].shape == (9, 3, 24, 24)
