"""transform_param: what it computes, and what it says where it does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.data import open_source
from netc.errors import Location, NetcError
from netc.proto import netc_pb2 as pb

TEXT = """layer {{ name: "d" type: "Data" top: "data" top: "label"
  data_param {{ source: "{source}" batch_size: {batch} backend: LMDB }}
  transform_param {{ {transform} }} }}"""


@pytest.fixture
def mean_file(tmp_path):
    """A mean of 3 x 8 x 9 that differs at every place."""
    blob = pb.BlobProto(num=1, channels=3, height=8, width=9, data=np.arange(216) / 2)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    return tmp_path / "mean.binaryproto"


def test_random_crops_and_mirrors_take_the_mean_of_the_pixels_own_place(
    make_database, pictures, opened, mean_file
):
    source = opened(
        TEXT.format(
            source=make_database(pictures),
            batch=23,
            transform=f'crop_size: 5 mirror: true scale: 0.3 mean_file: "{mean_file}"',
        )
    )
    mean = (np.arange(216, dtype=np.float32) / 2).reshape(3, 8, 9)
    whole = (pictures.astype(np.float32) - mean) * np.float32(0.3)
    seen = set()
    for _ in range(10):
        for image, label in zip(*source.next(), strict=True):
            place = find_crop(whole[int(label)], image)
            assert place is not None
            seen.add(place)
    # Four rows, five columns, each mirrored and not: 40 ways, of which 230 draws miss few.
    assert {flip for _, _, flip in seen} == {False, True}
    assert {top for top, _, _ in seen} == set(range(4))
    assert {left for _, left, _ in seen} == set(range(5))


def find_crop(whole: np.ndarray, crop: np.ndarray) -> tuple[int, int, bool] | None:
    for flip in (False, True):
        wanted = crop[..., ::-1] if flip else crop
        for top in range(whole.shape[1] - 4):
            for left in range(whole.shape[2] - 4):
                if np.array_equal(whole[:, top : top + 5, left : left + 5], wanted):
                    return top, left, flip
    return None


@pytest.mark.parametrize(
    "transform", ["mirror: true", "mirror: true mean_value: 7", "crop_size: 8 mirror: true"]
)
def test_mirror_tosses_a_coin_for_each_image_in_test_too(transform, make_database, pictures, opened):
    source = opened(TEXT.format(source=make_database(pictures), batch=23, transform=transform), pb.TEST)
    data, labels = source.next()
    expected = pictures[..., :8] if "crop" in transform else pictures
    expected = expected[labels.astype(int)].astype(np.float32) - (7 if "mean" in transform else 0)
    mirrored = [not np.array_equal(got, plain) for got, plain in zip(data, expected, strict=True)]
    assert 3 < sum(mirrored) < 20
    for got, plain, flip in zip(data, expected, mirrored, strict=True):
        np.testing.assert_array_equal(got, plain[..., ::-1] if flip else plain)


def test_images_of_many_sizes_are_cropped_to_one(make_database, opened):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (3, 6 + i, 9 - i), dtype=np.uint8) for i in range(4)]
    source = opened(TEXT.format(source=make_database(images), batch=4, transform="crop_size: 4"), pb.TEST)
    data, _ = source.next()
    for got, image in zip(data, images, strict=True):
        top, left = (image.shape[1] - 4) // 2, (image.shape[2] - 4) // 2
        np.testing.assert_array_equal(got, image[:, top : top + 4, left : left + 4])


def test_sizes_may_change_from_batch_to_batch_where_a_batch_is_one_image(make_database, opened):
    images = [np.full((1, 2 + i, 3), i, np.uint8) for i in range(3)]
    source = opened(TEXT.format(source=make_database(images), batch=1, transform=""))
    assert source.varies
    for i in (0, 1, 2, 0):
        assert source.tops[0].shape == (1, 1, 2 + i, 3)
        data, label = source.next()
        assert data.shape == (1, 1, 2 + i, 3)
        assert (data == i).all()
        assert label == i


def test_a_list_of_float_datums(make_database, opened):
    datum = pb.Datum(channels=2, height=1, width=3, float_data=[0.5, -1, 2, 3, 4, 5], label=-3)
    folder = make_database([np.zeros((2, 1, 3), np.uint8)], extra={0: datum.SerializeToString()})
    data, label = opened(TEXT.format(source=folder, batch=1, transform="scale: 2 mean_value: 1")).next()
    np.testing.assert_array_equal(data.ravel(), [-1, -4, 2, 4, 6, 8])
    assert label == -3


MISTAKES = {
    "crop_size: 9": ("crop_size is larger than the image 00000000", "crop_size"),
    'mean_file: "{mean}" mean_value: 1': ("mean_file and mean_value cannot both be set", "mean_value"),
    "force_color: true force_gray: true": ("force_color and force_gray cannot both be set", "force_gray"),
    "mean_value: 1 mean_value: 2": (
        "mean_value does not fit the channels of the image 00000000",
        "mean_value",
    ),
    'mean_file: "{mean}.not"': ("mean.binaryproto.not cannot be read: No such file", "mean_file"),
    'mean_file: "{db}/data.mdb"': ("data.mdb is not a mean file", "mean_file"),
}


@pytest.mark.parametrize("transform", MISTAKES)
def test_a_mistake_is_named_with_its_line(transform, make_database, pictures, opened, mean_file):
    folder = make_database(pictures)
    what, field = MISTAKES[transform]
    text = TEXT.format(source=folder, batch=4, transform=transform.format(mean=mean_file, db=folder))
    with pytest.raises(NetcError, match=what) as error:
        opened(text, locate=lambda *path: Location("/".join(path), 7))
    assert str(error.value.at) == f"transform_param/{field}:7"
    assert error.value.layer == "d (Data)"


def test_a_mean_of_another_shape_is_refused(make_database, opened, mean_file):
    images = np.zeros((2, 3, 8, 8), np.uint8)
    with pytest.raises(NetcError, match="does not have the shape of the image") as error:
        opened(TEXT.format(source=make_database(images), batch=2, transform=f'mean_file: "{mean_file}"'))
    assert (error.value.expected, error.value.found) == ("3x8x8, as the image", "3x8x9")


def test_mixed_sizes_in_a_batch_name_the_record(make_database, opened):
    images = [np.zeros((3, 4, 4 + (i == 5)), np.uint8) for i in range(8)]
    source = opened(TEXT.format(source=make_database(images), batch=4, transform=""))
    source.next()
    for _ in range(2):  # and it stays so
        with pytest.raises(
            NetcError, match="the image 00000005 does not have the shape of the others"
        ) as error:
            source.next()
    assert error.value.expected.startswith("3x4x4")
    assert error.value.found == "3x4x5"


def test_raw_images_ignore_force_gray_and_say_so(make_database, pictures, opened, caplog):
    source = opened(TEXT.format(source=make_database(pictures), batch=2, transform="force_gray: true"))
    assert source.next()[0].shape == (2, 3, 8, 9)
    assert "force_color and force_gray do nothing" in caplog.text


@pytest.mark.parametrize("labels", [[0, 127, 128, 300, 70000, 2**31 - 1, -1], [5, 5], [-(2**31), 0]])
def test_labels_of_any_length_are_read(labels, make_database, opened):
    extra = {
        i: pb.Datum(channels=1, height=1, width=2, data=b"ab", label=label).SerializeToString()
        for i, label in enumerate(labels)
    }
    folder = make_database(np.zeros((len(labels), 1, 1, 2), np.uint8), extra=extra)
    data, found = opened(TEXT.format(source=folder, batch=len(labels), transform="")).next()
    np.testing.assert_array_equal(found, np.array(labels, np.float32))
    assert (data == np.array([97, 98])).all()


@pytest.mark.parametrize(
    "field",
    ["resize_param { height: 3 }", "distort_param { hue_prob: 1 }", "crop_h: 3", "scale_factors: 2"],
)
def test_a_forks_transform_is_refused_where_it_does_not_apply(field):
    layer = pb.LayerParameter(name="d", type="Data")
    text_format.Parse(field, layer.transform_param)
    with pytest.raises(NetcError, match="a Data layer does not apply") as error:
        open_source(layer, pb.TRAIN)
    assert "remove" in error.value.remedy
