"""`netc deploy`: with the same weights, the net for use gives what the training net gives in phase TEST."""

from pathlib import Path

import numpy as np
import pytest

from netc.cli.main import main
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

GOLDEN = Path(__file__).parent.parent / "golden"
INPUT = """
layer { name: "d" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
"""


def deploy(net: str, folder: Path, *flags: str) -> pb.NetParameter:
    (folder / "net.prototxt").write_text(net)
    assert main(["deploy", *flags, str(folder / "net.prototxt"), str(folder / "deploy.prototxt")]) == 0
    return parse_net((folder / "deploy.prototxt").read_text()).message


def dense(bottom: str, top: str, more: str = "") -> str:
    filler = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 1 }'
    return (
        f'layer {{ name: "{top}" type: "InnerProduct" bottom: "{bottom}" top: "{top}" {more}\n'
        f"  inner_product_param {{ num_output: 5 {filler} }} }}\n"
    )


def test_a_golden_net_gives_its_test_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / "misc")
    weights = "snap_iter_25.caffemodel"
    target = tmp_path / "deploy.prototxt"
    assert main(["deploy", "-batch", "8", "train_net.prototxt", str(target)]) == 0
    tested = Net("train_net.prototxt", pb.TEST, weights=weights)
    used = Net(str(target), pb.TEST, weights=weights)
    tested.forward()
    used.blobs["data"].data[...] = tested.blobs["data"].data
    used.forward()
    scores = tested.blobs["ip1"].data
    assert np.array_equal(used.blobs["ip1"].data, scores)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert np.allclose(used.blobs["prob"].data, shifted / shifted.sum(axis=1, keepdims=True), atol=1e-6)
    tested.close()


def test_shares_dropout_batch_norm_and_sigmoid_go_along(tmp_path: Path) -> None:
    """A net with all that training and use do otherwise gives the same scores."""
    shared = 'param { name: "w" lr_mult: 2 } param { name: "b" decay_mult: 0 }'
    net = (
        (
            INPUT + 'layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn"'
            " param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 } }"
            'layer { name: "sc" type: "Scale" bottom: "bn" top: "sc" scale_param { bias_term: true'
            ' filler { type: "uniform" } } }'
            + dense("sc", "a")
            + 'layer { name: "drop" type: "Dropout" bottom: "a" top: "a" }'
            + dense("a", "b", shared)
            + dense("b", "c", shared)
            + 'layer { name: "l" type: "SigmoidCrossEntropyLoss" bottom: "c" bottom: "labels" top: "l" }'
        )
        .replace('top: "label"', 'top: "labels"')
        .replace("shape { dim: 4 }", "shape { dim: 4 dim: 5 }")
    )
    made = deploy(net, tmp_path, "-batch=4")
    tested = Net(str(tmp_path / "net.prototxt"), pb.TEST)
    tested.params["bn"][0].data[...] = 0.3
    tested.params["bn"][1].data[...] = 2.0
    tested.params["bn"][2].data[...] = 1.0
    tested.save(tmp_path / "w.caffemodel")
    used = Net(str(tmp_path / "deploy.prototxt"), pb.TEST, weights=str(tmp_path / "w.caffemodel"))
    tested.forward()
    used.blobs["data"].data[...] = tested.blobs["data"].data
    used.forward()
    assert np.array_equal(used.blobs["c"].data, tested.blobs["c"].data)
    assert np.allclose(used.blobs["prob"].data, 1 / (1 + np.exp(-tested.blobs["c"].data)), atol=1e-6)
    text = (tmp_path / "deploy.prototxt").read_text()
    for word in ("lr_mult", "decay_mult", "filler", "include", "loss"):
        assert word not in text
    assert [[param.name for param in layer.param] for layer in made.layer if layer.name in "bc"] == [
        ["w", "b"]
    ] * 2


def test_data_becomes_an_input_of_the_test_shape_and_batch_1(tmp_path: Path) -> None:
    net = (
        INPUT
        + dense("data", "ip")
        + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }'
    )
    made = deploy(net, tmp_path)
    assert (made.layer[0].name, made.layer[0].type, list(made.layer[0].top)) == ("data", "Input", ["data"])
    assert list(made.layer[0].input_param.shape[0].dim) == [1, 3, 8, 8]
    assert [layer.name for layer in made.layer] == ["data", "ip", "prob"]


def test_an_input_layer_keeps_the_tops_that_are_read(tmp_path: Path) -> None:
    net = (
        'layer { name: "in" type: "Input" top: "data" top: "label" top: "more"'
        " input_param { shape { dim: 4 dim: 3 }"
        " shape { dim: 4 } shape { dim: 4 dim: 7 } } }"
        'layer { name: "cat" type: "Concat" bottom: "data" bottom: "more" top: "cat" }'
        + dense("cat", "ip")
        + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }'
    )
    first = deploy(net, tmp_path).layer[0]
    assert (first.name, list(first.top)) == ("in", ["data", "more"])
    assert [list(shape.dim) for shape in first.input_param.shape] == [[1, 3], [1, 7]]


def test_rules_for_phases_are_followed_and_left_out(tmp_path: Path) -> None:
    net = (
        INPUT
        + dense("data", "ip")
        + 'layer { name: "train" type: "ReLU" bottom: "ip" top: "ip" include { phase: TRAIN } }'
        'layer { name: "test" type: "Sigmoid" bottom: "ip" top: "out" include { phase: TEST } }'
    )
    made = deploy(net, tmp_path)
    assert [layer.name for layer in made.layer] == ["data", "ip", "test"]
    assert all(not layer.include for layer in made.layer)


def test_lighter_losses_go_with_all_that_feeds_only_them(tmp_path: Path) -> None:
    """GoogLeNet's two helpers weigh 0.3 each."""
    loss = 'layer {{ name: "{0}_loss" type: "SoftmaxWithLoss" bottom: "{0}" bottom: "label" {1} }}\n'
    net = (
        INPUT
        + dense("data", "trunk")
        + dense("trunk", "side")
        + 'layer { name: "side_relu" type: "ReLU" bottom: "side" top: "side" }'
        + dense("side", "helper")
        + loss.format("helper", 'top: "h" loss_weight: 0.3')
        + dense("trunk", "main")
        + loss.format("main", 'top: "m"')
        + 'layer { name: "acc" type: "Accuracy" bottom: "main" bottom: "label" top: "acc" }'
    )
    assert [layer.name for layer in deploy(net, tmp_path).layer] == ["data", "trunk", "main", "prob"]


def test_losses_of_equal_weight_are_all_kept(tmp_path: Path) -> None:
    net = INPUT + dense("data", "a") + dense("data", "b")
    for name in "ab":
        net += f'layer {{ name: "{name}_loss" type: "SoftmaxWithLoss" bottom: "{name}" bottom: "label" }}'
    made = deploy(net, tmp_path)
    assert [layer.name for layer in made.layer] == ["data", "a", "b", "a_loss_prob", "b_loss_prob"]


def test_the_softmax_keeps_the_axis_of_its_loss(tmp_path: Path) -> None:
    net = (
        INPUT.replace("shape { dim: 4 }", "shape { dim: 4 dim: 3 dim: 8 }")
        + 'layer { name: "c" type: "Power" bottom: "data" top: "c" }'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" softmax_param { axis: 3 } }'
    )
    assert deploy(net, tmp_path).layer[-1].softmax_param.axis == 3


def test_what_was_done_to_pixels_is_written_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = (
        'layer { name: "d" type: "Data" top: "data" top: "label"'
        ' data_param { source: "nowhere" batch_size: 4 }'
        " transform_param { crop_size: 8 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 } }"
        + dense("data", "ip")
    )
    (tmp_path / "net.prototxt").write_text(net)
    assert main(["deploy", str(tmp_path / "net.prototxt")]) == 0
    out = capsys.readouterr()
    assert "# data: the central 8x8 pixels, less 104, 117, 123, times 0.5\n" in out.out
    assert "its shape is a guess" in out.err


def test_a_net_that_only_judges_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = INPUT + 'layer { name: "l" type: "EuclideanLoss" bottom: "label" bottom: "label" }'
    (tmp_path / "net.prototxt").write_text(net)
    assert main(["deploy", str(tmp_path / "net.prototxt"), str(tmp_path / "out")]) == 1
    assert "no layer of the net can do without labels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
