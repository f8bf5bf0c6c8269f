"""AnnotatedData gives the images and boxes that SSD's fork of Caffe gave, and its random changes keep them
together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.data import Source
from netc.data.box_sampling import BoxSampler
from netc.data.boxes import overlaps
from netc.data.source import Origin
from netc.data.writer import writing_database
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

from .conftest import Open, parse_layer

GOLDEN = Path(__file__).parent.parent / "golden" / "annotated"
CASES = sorted(GOLDEN.glob("*.npz"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_images_and_boxes_arrive_as_in_ssd(
    path: Path, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = np.load(path)
    keys = sorted(int(name[4:]) for name in stored.files if name.startswith("key/"))
    with writing_database(str(tmp_path / "DB"), "lmdb") as writer:
        for i in keys:
            writer.put(stored[f"key/{i}"].tobytes(), stored[f"value/{i}"].tobytes())
    monkeypatch.chdir(tmp_path)
    text = str(stored["prototxt"])
    source = opened(text, pb.Phase.Value(str(stored["phase"])))
    grey = 1.0 * parse_layer(text).transform_param.scale  # what one grey level comes to
    for batch in range(int(stored["batches"])):
        data, label = stored[f"batch{batch}/data"], stored[f"batch{batch}/label"]
        assert [top.shape for top in source.tops] == [data.shape, label.shape]
        found_data, found_label = source.next()
        tolerance = grey if "resize" in path.stem else 0.0
        assert np.abs(found_data - data).max() <= tolerance
        np.testing.assert_allclose(found_label, label, rtol=1e-5, atol=1e-6)


# Images of our own: a bright rectangle on a dark ground, and its box.
HEIGHT, WIDTH = 40, 60
BOX = (0.25, 0.2, 0.6, 0.7)


def record(
    box: tuple[float, float, float, float] | None = BOX,
    *,
    label: int = 1,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    gray: bool = False,
    typed: bool = True,
) -> bytes:
    """An image with a rectangle, of 200 on 20, and its annotation."""
    height, width = size
    pixels = np.full((1 if gray else 3, height, width), 20, np.uint8)
    annotated = pb.AnnotatedDatum()
    if typed:
        annotated.type = pb.AnnotatedDatum.BBOX
    if box is not None:
        left, top, right, bottom = (round(n * side) for n, side in zip(box, [width, height] * 2, strict=True))
        pixels[:, top:bottom, left:right] = 200
        corners = dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        item = annotated.annotation_group.add(group_label=label).annotation.add(instance_id=3)
        item.bbox.CopyFrom(pb.NormalizedBBox(**corners, difficult=True))
    annotated.datum.CopyFrom(
        pb.Datum(channels=len(pixels), height=height, width=width, data=pixels.tobytes(), label=7)
    )
    return annotated.SerializeToString()


@pytest.fixture
def open_records(tmp_path: Path, opened: Open) -> Callable[..., Source]:
    """Opens the source of a database of these records."""

    def open_them(
        records: list[bytes],
        transform: str = "",
        more: str = "batch_size: 2",
        extra: str = "",
        **options: Any,
    ) -> Source:
        folder = tmp_path / f"db{len(list(tmp_path.iterdir()))}"
        with writing_database(str(folder), "lmdb") as writer:
            for i, value in enumerate(records):
                writer.put(f"{i:08d}".encode(), value)
        text = (
            'layer { name: "data" type: "AnnotatedData" top: "data" top: "label" '
            f'transform_param {{ {transform} }} data_param {{ source: "{folder}" {more} }} '
            f"annotated_data_param {{ {extra} }} }}"
        )
        return opened(text, **options)

    return open_them


def bounds(image: np.ndarray) -> tuple[float, float, float, float]:
    """The box of the bright pixels of an image (C x H x W), as shares of it."""
    rows, columns = np.nonzero(image.mean(axis=0) > 110)
    height, width = image.shape[1:]
    edges = columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height
    return tuple(float(edge) for edge in edges)


RESIZES = ["WARP", "FIT_SMALL_SIZE", "FIT_LARGE_SIZE_AND_PAD"]
CHANGES = [
    "mirror: true",
    "crop_size: 31",
    "crop_h: 33 crop_w: 45 mirror: true",
    "expand_param { prob: 1 max_expand_ratio: 3 } mean_value: 10",
    *(f"resize_param {{ resize_mode: {mode} height: 80 width: 50 }}" for mode in RESIZES),
    *(
        f"crop_size: 48 mirror: true resize_param {{ resize_mode: {mode} height: 50 width: 90 }}"
        for mode in RESIZES
    ),
    "resize_param { height: 64 width: 64 interp_mode: LINEAR interp_mode: AREA interp_mode: CUBIC }",
    "distort_param { brightness_prob: 1 brightness_delta: 15 contrast_prob: 1 contrast_lower: 0.9 "
    "contrast_upper: 1.1 hue_prob: 1 hue_delta: 9 saturation_prob: 1 saturation_lower: 0.5 "
    "saturation_upper: 1.5 random_order_prob: 1 }",
]
SAMPLER = """batch_sampler { sampler { min_scale: 0.5 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
    sample_constraint { min_object_coverage: 0.3 } max_sample: 1 max_trials: 50 }"""


@pytest.mark.parametrize("extra", ["", SAMPLER], ids=["whole", "sampled"])
@pytest.mark.parametrize("transform", CHANGES)
def test_the_box_stays_on_its_pixels(transform: str, extra: str, open_records: Callable[..., Source]) -> None:
    if extra and "crop" in transform:
        transform += " resize_param { height: 50 width: 70 }" if "resize" not in transform else ""
    source = open_records([record()], transform, "batch_size: 1", extra, seed=3)
    seen = set()
    for _ in range(12):
        data, label = source.next()
        if label[0, 0, 0, 0] == -1:  # the crop has lost it
            continue
        image = data[0] + (10 if "mean_value" in transform else 0)
        near = 1.5 / min(image.shape[1:])
        np.testing.assert_allclose(label[0, 0, 0, 3:7], bounds(image), atol=near)
        np.testing.assert_array_equal(label[0, 0, 0, [0, 1, 2, 7]], [0, 1, 3, 1])
        seen.add(tuple(np.round(label[0, 0, 0, 3:7], 2)))
    assert seen
    if extra or "mirror" in transform or "expand" in transform:
        assert len(seen) > 1


def test_a_batch_gathers_the_boxes_of_its_images(open_records: Callable[..., Source]) -> None:
    source = open_records([record(label=4), record(None), record(label=5)], more="batch_size: 3")
    label = source.next()[1]
    np.testing.assert_array_equal(label[0, 0, :, :3], [[0, 4, 3], [2, 5, 3]])


def test_a_position_restores_the_same_draws(open_records: Callable[..., Source]) -> None:
    records = [record(label=i) for i in range(1, 6)]
    transform = f"{CHANGES[-1]} mirror: true resize_param {{ height: 30 width: 30 }}"
    source = open_records(records, transform, extra=SAMPLER, seed=9)
    source.next()
    state = source.state()
    expected = [[array.copy() for array in source.next()] for _ in range(4)]
    again = open_records(records, transform, extra=SAMPLER, seed=9)
    again.restore(state)
    for batch in expected:
        for wanted, got in zip(batch, again.next(), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_crops_lie_in_the_middle_when_testing_and_anywhere_when_training(
    open_records: Callable[..., Source],
) -> None:
    test = open_records([record()], "crop_size: 20", "batch_size: 1", phase=pb.TEST)
    assert len({test.next()[0].tobytes() for _ in range(5)}) == 1
    train = open_records([record()], "crop_size: 20", "batch_size: 1", phase=pb.TRAIN)
    assert len({train.next()[0].tobytes() for _ in range(5)}) > 1


def test_gray_images_take_every_change_that_gray_can(open_records: Callable[..., Source]) -> None:
    transform = (
        f"{CHANGES[-1]} expand_param {{ max_expand_ratio: 2 }} resize_param {{ height: 30 width: 30 }} "
        "noise_param { decolorize: true hist_eq: true clahe: true jpeg: 80 erode: true saltpepper: true "
        "saltpepper_param { fraction: 0.1 value: 255 } convert_to_lab: true }"
    )
    data = open_records([record(gray=True)], transform, "batch_size: 1", SAMPLER).next()[0]
    assert data.shape == (1, 1, 30, 30)
    assert np.isfinite(data).all()


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ("inverse: true", {55, 235}),
        ("posterize: true", {32, 224}),
        ("saltpepper: true saltpepper_param { fraction: 0.2 value: 99 }", {20, 99, 200}),
        ("prob: 0 inverse: true", {20, 200}),
        ("prob: 1 inverse: true", {55, 235}),
    ],
)
def test_noise_changes_pixels(noise: str, expected: set[int], open_records: Callable[..., Source]) -> None:
    data = open_records([record()], f"noise_param {{ {noise} }}").next()[0]
    assert set(np.unique(data).tolist()) == expected


def test_an_expanded_image_lies_on_the_mean(open_records: Callable[..., Source]) -> None:
    transform = "expand_param { max_expand_ratio: 2 } mean_value: 10 mean_value: 60 mean_value: 90"
    data = open_records([record()], transform, "batch_size: 1").next()[0][0]
    assert data.shape[1] > HEIGHT
    corners = data[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all(axis=0).sum() >= 3  # canvas less mean; the image covers one corner at most


def test_boxes_whose_centre_is_cut_off_are_left_out_where_it_must_stay(
    open_records: Callable[..., Source],
) -> None:
    records = [record((0.0, 0.4, 0.5, 0.6)), record((0.4, 0.4, 0.6, 0.6))]
    for emit, rows in (("", 2), ("emit_constraint { emit_type: CENTER }", 1)):
        label = open_records(records, f"crop_size: 20 {emit}", phase=pb.TEST).next()[1]
        assert label.shape == (1, 1, rows, 8)


def test_records_without_annotations_give_the_datums_labels(open_records: Callable[..., Source]) -> None:
    label = open_records([record(None, typed=False)] * 2).next()[1]
    np.testing.assert_array_equal(label, np.full((2, 1, 1, 1), 7))


def test_labels_are_held_against_the_label_map(open_records: Callable[..., Source], tmp_path: Path) -> None:
    path = tmp_path / "labels.prototxt"
    path.write_text('item { name: "cat" label: 1 }')
    extra = f'label_map_file: "{path}"'
    open_records([record()] * 2, extra=extra).next()
    with pytest.raises(NetcError, match="label 2 of a box of 00000001 is not in the label map"):
        open_records([record(), record(label=2)], extra=extra).next()
    path.write_text('item { name: "cat" label: 1 } item { name: "dog" label: 1 }')
    with pytest.raises(NetcError, match="twice"):
        open_records([record()], extra=extra)


def test_a_missing_label_map_is_a_warning(
    open_records: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    open_records([record()] * 2, extra='label_map_file: "nowhere.prototxt"').next()
    assert "there is no label map nowhere.prototxt" in caplog.text


def test_a_record_that_does_not_decode_is_named_and_a_neighbour_takes_its_place(
    open_records: Callable[..., Source], caplog: pytest.LogCaptureFixture
) -> None:
    source = open_records([record(label=1), b"\xff\xff", record(label=3)], more="batch_size: 3")
    np.testing.assert_array_equal(source.next()[1][0, 0, :, 1], [1, 3, 3])
    assert "00000001: not an AnnotatedDatum message" in caplog.text


@pytest.mark.parametrize(
    ("transform", "more", "message"),
    [
        ("", "", "batch_size is not set"),
        ("resize_param { height: 9 }", "batch_size: 1", "resize_param has no width"),
        (
            "resize_param { resize_mode: FIT_SMALL_SIZE height: 9 width: 9 }",
            "batch_size: 2",
            "different sizes",
        ),
        ("crop_h: 4", "batch_size: 1", "crop_h and crop_w go together"),
        ("crop_size: 4 crop_h: 4 crop_w: 4", "batch_size: 1", "cannot both be set"),
        ("expand_param { max_expand_ratio: 0.5 }", "batch_size: 1", "max_expand_ratio must be"),
        (
            "distort_param { contrast_prob: 1 contrast_lower: 2 contrast_upper: 1 }",
            "batch_size: 1",
            "contrast_lower",
        ),
        ("mean_value: 1 mean_value: 2", "batch_size: 1", "mean_value does not fit"),
        ("resize_param { height: 4000000000 width: 2 }", "batch_size: 1", "00000000 cannot be transformed"),
        ("crop_size: 41", "batch_size: 1", "crop is larger than the image 00000000"),
    ],
)
def test_fields_that_make_no_sense_are_named(
    transform: str, more: str, message: str, open_records: Callable[..., Source]
) -> None:
    with pytest.raises(NetcError, match=message):
        open_records([record()], transform, more).next()


def test_images_of_different_sizes_in_a_batch_are_an_error(open_records: Callable[..., Source]) -> None:
    with pytest.raises(NetcError, match="image 00000001 does not have the shape of the others"):
        open_records([record(), record(size=(30, 30))]).next()


@pytest.mark.parametrize("sampler", ["min_scale: 0", "max_scale: 1.5", "min_aspect_ratio: 2"])
def test_a_sampler_without_room_is_named(sampler: str, open_records: Callable[..., Source]) -> None:
    with pytest.raises(NetcError, match="must lie between its bounds"):
        open_records([record()], extra=f"batch_sampler {{ sampler {{ {sampler} }} }}")


def test_sampled_parts_meet_their_constraint() -> None:
    sampler = text_format.Parse(
        "sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 } "
        "sample_constraint { min_jaccard_overlap: 0.5 max_jaccard_overlap: 0.7 } max_trials: 50",
        pb.BatchSampler(),
    )
    objects = np.array([[0.2, 0.2, 0.6, 0.9], [0.7, 0.1, 0.8, 0.2]])
    drawn = [BoxSampler([sampler], Origin("data")).draw(objects, np.random.default_rng(i)) for i in range(40)]
    parts = np.array([part for part in drawn if part is not None])
    assert len(parts) > 20
    assert parts.min() >= 0
    assert parts.max() <= 1
    shared = overlaps(np, parts, objects)
    assert ((shared >= 0.5) & (shared <= 0.7)).any(axis=1).all()


def test_a_net_follows_the_number_of_boxes(open_records: Callable[..., Source], tmp_path: Path) -> None:
    folder = str(tmp_path / "boxes")
    with writing_database(folder, "lmdb") as writer:
        for i, box in enumerate([BOX, None, BOX, BOX]):
            writer.put(f"{i:08d}".encode(), record(box))
    text = (
        'layer { name: "data" type: "AnnotatedData" top: "data" top: "label" '
        f'data_param {{ source: "{folder}" batch_size: 2 }} }} '
        'layer { name: "twice" type: "Power" bottom: "label" top: "twice" power_param { scale: 2 } }'
    )
    net = Net(parse_text(text, pb.NetParameter).message, pb.TRAIN)
    for rows in (1, 2, 1, 2):
        net.forward()
        assert net.blobs["twice"].data.shape == (1, 1, rows, 8)
        np.testing.assert_array_equal(net.blobs["twice"].data, 2 * net.blobs["label"].data)
    net.close()
