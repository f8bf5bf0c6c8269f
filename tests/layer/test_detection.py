"""DetectionOutput and DetectionEvaluate: what is kept, what is right, and the files that are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

# Four priors: two on the left that overlap by 0.8, one on the right, one small below.
PRIORS = np.array([[0.0, 0.0, 0.4, 0.5], [0.0, 0.0, 0.4, 0.4], [0.6, 0.0, 1.0, 0.5], [0.4, 0.8, 0.5, 1.0]])


def make_net(layer: str, **inputs: Any) -> Net:
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        f"{' '.join(f'dim: {n}' for n in np.shape(values))} }} }} }}\n"
        for name, values in inputs.items()
    )
    net = Net(parse_text(text + layer, pb.NetParameter).message, pb.TEST)
    for name, values in inputs.items():
        net.blobs[name].data[...] = values
    return net


def detection_net(options: str, scores: Any, classes: int = 2) -> Net:
    """A net over PRIORS with offsets of 0. scores: (N, 4, classes)."""
    scores = np.array(scores, np.float32)
    priors = np.stack([PRIORS.reshape(-1), np.full(16, 0.1)])[None]
    return make_net(
        'layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "priors" '
        f'top: "found" detection_output_param {{ num_classes: {classes} {options} }} }}',
        loc=np.zeros((len(scores), 16)),
        conf=scores.reshape(len(scores), -1),
        priors=priors,
    )


def detections(options: str, scores: Any, classes: int = 2) -> Any:
    net = detection_net(options, scores, classes)
    net.forward()
    found = net.blobs["found"].data
    assert found.shape[:2] == (1, 1)
    return found[0, 0]


def of_object(*scores: float) -> list[list[float]]:
    """Scores of two classes, of which 0 is the background."""
    return [[1 - score, score] for score in scores]


def test_of_boxes_that_overlap_the_best_is_kept() -> None:
    rows = detections("nms_param { nms_threshold: 0.45 }", [of_object(0.6, 0.7, 0.5, 0.2)])
    np.testing.assert_allclose(rows[:, :3], [[0, 1, 0.7], [0, 1, 0.5], [0, 1, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(rows[:, 3:], PRIORS[[1, 2, 3]], rtol=1e-6)


def test_a_box_must_score_more_than_the_threshold() -> None:
    rows = detections("confidence_threshold: 0.5", [of_object(0.1, 0.5, 0.75, 0.2)])
    np.testing.assert_allclose(rows[:, 2], [0.75])


def test_the_best_of_a_class_are_chosen_before_and_of_an_image_after_suppression() -> None:
    scores = [of_object(0.9, 0.8, 0.7, 0.6)]
    np.testing.assert_allclose(detections("nms_param { top_k: 2 }", scores)[:, 2], [0.9])
    np.testing.assert_allclose(detections("keep_top_k: 2", scores)[:, 2], [0.9, 0.7])


def test_what_is_kept_of_an_image_is_ordered_by_class_then_score() -> None:
    scores = [[[0.0, 0.2, 0.9], [0.0, 0.1, 0.1], [0.0, 0.8, 0.7], [0.0, 0.3, 0.0]]]
    rows = detections("keep_top_k: 4", scores, classes=3)
    np.testing.assert_allclose(rows[:, 1:3], [[1, 0.8], [1, 0.3], [2, 0.9], [2, 0.7]])


def test_the_number_of_rows_follows_the_values() -> None:
    net = detection_net("confidence_threshold: 0.5", [of_object(0.9, 0.1, 0.9, 0.9), of_object(0, 0, 0, 0)])
    for scores, rows in (
        ([0.9, 0.1, 0.9, 0.9], 3),
        ([0.1] * 4, 2),
        ([0.1, 0.1, 0.1, 0.8], 1),
        ([0.9] * 4, 3),
    ):
        net.blobs["conf"].data[0] = np.ravel(of_object(*scores))
        net.forward()
        assert net.blobs["found"].data.shape == (1, 1, rows, 7)


def test_where_nothing_is_found_every_image_has_a_row_of_minus_one() -> None:
    rows = detections("confidence_threshold: 0.5", [of_object(0, 0, 0, 0)] * 3)
    np.testing.assert_array_equal(rows, [[i, -1, -1, -1, -1, -1, -1] for i in range(3)])


def test_every_class_may_have_boxes_of_its_own() -> None:
    loc = np.zeros((1, 4, 2, 4))
    loc[0, 2, 1] = [0.1, 0.2, 0, 0]  # CORNER offsets, in variances
    net = make_net(
        'layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "priors" '
        'top: "found" detection_output_param { num_classes: 2 share_location: false '
        "confidence_threshold: 0.5 variance_encoded_in_target: true } }",
        loc=loc.reshape(1, -1),
        conf=np.ravel(of_object(0, 0, 0.9, 0))[None],
        priors=np.stack([PRIORS.reshape(-1), np.full(16, 0.1)])[None],
    )
    net.forward()
    np.testing.assert_allclose(net.blobs["found"].data[0, 0, 0, 3:], [0.7, 0.2, 1.0, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("share_location: false", "bottom 0 does not have the shape"),
        ("nms_param { eta: 0 }", "eta must be"),
        ("nms_param { nms_threshold: -1 }", "nms_threshold must not"),
    ],
)
def test_options_that_make_no_sense_are_named(options: str, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        detection_net(options, [of_object(0, 0, 0, 0)])


def test_scores_must_fit_the_priors_and_the_classes() -> None:
    with pytest.raises(NetcError, match="bottom 1 does not have the shape"):
        detection_net("", [of_object(0, 0, 0, 0)], classes=3)


def save_options(folder: Path, output_format: str, more: str = "") -> str:
    (folder / "labels.prototxt").write_text(
        'item { name: "none" label: 0 } item { name: "cat" label: 1 } item { name: "17" label: 2 }'
    )
    (folder / "sizes.txt").write_text("first 200 100\n25 50 80\n")
    return (
        f'confidence_threshold: 0.5 save_output_param {{ output_directory: "{folder / "out"}" '
        f'output_name_prefix: "det_" output_format: "{output_format}" '
        f'label_map_file: "{folder / "labels.prototxt"}" name_size_file: "{folder / "sizes.txt"}" {more} }}'
    )


CAT_THEN_17 = [
    [[0, 0.75, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]],
    [[0, 0, 0], [0, 0, 0], [0, 0, 0.625], [0, 0, 0]],
]


def written(folder: Path, output_format: str, more: str = "") -> dict[str, str]:
    """What the files hold after both images of the test set."""
    net = detection_net(save_options(folder, output_format, more), CAT_THEN_17, classes=3)
    net.forward()
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


def test_voc_files_hold_a_line_for_each_box_of_their_class(tmp_path: Path) -> None:
    assert written(tmp_path, "VOC") == {
        "det_cat.txt": "first 0.75 0 0 40 100\n",
        "det_17.txt": "25 0.625 48 0 80 25\n",
    }


def test_the_ilsvrc_file_holds_labels(tmp_path: Path) -> None:
    expected = "first 1 0.75 0 0 40 100\n25 2 0.625 48 0 80 25\n"
    assert written(tmp_path, "ILSVRC") == {"det_.txt": expected}


def test_the_coco_file_is_a_list_in_which_numbers_are_numbers(tmp_path: Path) -> None:
    files = written(tmp_path, "COCO")
    assert json.loads(files["det_.json"]) == [
        {"image_id": "first", "category_id": "cat", "bbox": [0, 0, 40, 100], "score": 0.75},
        {"image_id": 25, "category_id": 17, "bbox": [48, 0, 32, 25], "score": 0.625},
    ]


def test_boxes_of_padded_images_are_written_in_pixels_of_the_images(tmp_path: Path) -> None:
    padded = "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 100 width: 100 }"
    files = written(tmp_path, "VOC", padded)
    # 200 x 100 fills the middle half of the square; of 0 .. 0.4 that is from 0 to 0.15 / 0.5 of its width.
    assert files["det_cat.txt"] == "first 0.75 0 0 30 100\n"


def test_files_are_written_when_all_images_have_been_seen_and_again_after(tmp_path: Path) -> None:
    options = save_options(tmp_path, "ILSVRC")
    net = detection_net(options, [CAT_THEN_17[0]], classes=3)
    net.forward()
    assert not list((tmp_path / "out").iterdir())
    for _ in range(3):
        net.forward()
    (path,) = (tmp_path / "out").iterdir()
    assert path.read_text().splitlines() == ["first 1 0.75 0 0 40 100", "25 1 0.75 0 0 32 25"]


def test_a_size_file_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    options = save_options(tmp_path, "VOC")
    (tmp_path / "sizes.txt").write_text("first 200 100\nsecond 50\n")
    with pytest.raises(NetcError, match="name and the size") as caught:
        detection_net(options, CAT_THEN_17, classes=3)
    assert str(caught.value.at) == f"{tmp_path / 'sizes.txt'}:2"


def test_results_are_saved_only_where_all_is_stated(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published = 'output_directory: "" output_format: "VOC" label_map_file: "not/here.prototxt"'
    detection_net(f"save_output_param {{ {published} }}", CAT_THEN_17, classes=3).forward()
    assert not caplog.text
    incomplete = f'save_output_param {{ output_directory: "{tmp_path / "out"}" output_format: "VOC" }}'
    detection_net(incomplete, CAT_THEN_17, classes=3).forward()
    assert "no results are saved, for want of label_map_file, name_size_file" in caplog.text
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="unknown output_format"):
        detection_net(save_options(tmp_path, "PASCAL"), CAT_THEN_17, classes=3)


def judged(options: str, found: Any, truths: Any) -> Any:
    net = make_net(
        'layer { name: "e" type: "DetectionEvaluate" bottom: "found" bottom: "truth" top: "judged" '
        f"detection_evaluate_param {{ num_classes: 3 {options} }} }}",
        found=np.array(found, float)[None, None],
        truth=np.array(truths, float)[None, None],
    )
    net.forward()
    return net.blobs["judged"].data[0, 0]


LEFT, RIGHT = [0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]


def test_the_best_box_of_a_true_one_is_right_and_a_second_one_wrong() -> None:
    found = [[0, 1, 0.5, *LEFT], [0, 1, 0.9, 0, 0, 0.5, 0.9], [0, 2, 0.7, *RIGHT]]
    rows = judged("", found, [[0, 1, 0, *LEFT, 0], [0, 1, 1, *RIGHT, 0]])
    np.testing.assert_allclose(
        rows,
        [[-1, 1, 2, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.5, 0, 1], [0, 2, 0.7, 0, 1]],
        rtol=1e-6,
    )


def test_a_difficult_box_counts_neither_way_where_it_is_not_to_be_evaluated() -> None:
    found, truth = [[0, 1, 0.5, *LEFT]], [[0, 1, 0, *LEFT, 1]]
    np.testing.assert_array_equal(judged("", found, truth)[[0, 2]], [[-1, 1, 1, -1, -1], [0, 1, 0.5, 1, 0]])
    rows = judged("evaluate_difficult_gt: false", found, truth)
    np.testing.assert_array_equal(rows[[0, 2]], [[-1, 1, 0, -1, -1], [0, 1, 0.5, 0, 0]])


def test_an_overlap_of_just_the_threshold_is_enough() -> None:
    found, truth = [[0, 1, 0.5, 0, 0, 0.5, 0.5]], [[0, 1, 0, *LEFT, 0]]
    assert judged("overlap_threshold: 0.5", found, truth)[2, 3] == 1
    assert judged("overlap_threshold: 0.51", found, truth)[2, 3] == 0


def test_rows_end_at_the_first_of_no_image() -> None:
    found = [[0, 1, 0.5, *LEFT], [-1, 1, 0.4, *LEFT], [0, 1, 0.3, *LEFT]]
    rows = judged("", found, [[-1] * 8, [0, 1, 0, *LEFT, 0]])
    np.testing.assert_array_equal(rows[2:, :], [[0, 1, 0.5, 0, 1], [0] * 5, [0] * 5])
    assert rows[0, 2] == 0


def test_overlaps_can_be_taken_in_pixels_of_the_images(tmp_path: Path) -> None:
    (tmp_path / "sizes.txt").write_text("one 4 4\n")
    found, truth = [[0, 1, 0.5, 0, 0, 0.25, 1]], [[0, 1, 0, *LEFT, 0]]
    # 1 of 2 columns as shares; as pixels that belong to their boxes, columns 0 to 1 of 0 to 2.
    assert judged("overlap_threshold: 0.6", found, truth)[2, 3] == 0
    in_pixels = f'overlap_threshold: 0.6 name_size_file: "{tmp_path / "sizes.txt"}"'
    assert judged(in_pixels, found, truth)[2, 3] == 1


def test_a_box_of_the_background_is_an_error() -> None:
    with pytest.raises(NetcError, match="which is the background"):
        judged("", [[0, 0, 0.5, *LEFT]], [[0, 1, 0, *LEFT, 0]])
