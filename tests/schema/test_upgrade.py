"""Nets and solvers of every age are brought up to date as Caffe does it, and the log says how."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema import upgrade_v0, upgrade_v1
from netc.schema.net import current_net, parse_net, read_net
from netc.schema.solver import parse_solver, read_solver
from netc.schema.text import parse_text, read_text
from netc.schema.upgrade import upgrade_net_binary, upgrade_net_text, upgrade_solver_text
from netc.schema.weights import read_weights
from netc.solver import Solver
from tests.layer.golden_case import agree
from tests.schema.upgrade_case import caffes_words, words_of

FOLDER = Path(__file__).parent.parent / "golden" / "upgrade"
NETS = sorted(path.name.partition(".")[0] for path in FOLDER.glob("own_*.in.prototxt"))
SOLVERS = sorted(path.name.partition(".")[0] for path in FOLDER.glob("solver_*.in.prototxt"))


def errors_of(text: str) -> list[NetcError]:
    with pytest.raises(NetcError) as caught:
        parse_net(text, "f")
    return caught.value.errors if isinstance(caught.value, NetcErrors) else [caught.value]


def upgraded(text: str) -> pb.NetParameter:
    return parse_net(text, "f").message


def net_of(text: str) -> pb.NetParameter:
    """The net as it is written, whatever its age."""
    return parse_text(text, pb.NetParameter, "f").message


def test_the_golden_files_are_there() -> None:
    assert (len(NETS), len(SOLVERS)) == (6, 3)


@pytest.mark.parametrize("name", NETS)
def test_nets_are_upgraded_as_caffe_does(name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = FOLDER / f"{name}.in.prototxt"
    with caplog.at_level(logging.INFO, "netc"):
        found = upgrade_net_text(path)
    assert found == read_text(FOLDER / f"{name}.out.prototxt", pb.NetParameter).message
    assert words_of(caplog) == caffes_words(FOLDER / f"{name}.log", path)
    assert read_net(path).message == found


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_upgraded_as_caffe_does(name: str) -> None:
    path = FOLDER / f"{name}.in.prototxt"
    expected = read_text(FOLDER / f"{name}.out.prototxt", pb.SolverParameter).message
    assert upgrade_solver_text(path) == read_solver(path).message == expected


@pytest.mark.parametrize("name", NETS)
def test_an_upgraded_net_is_current(name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = FOLDER / f"{name}.out.prototxt"
    with caplog.at_level(logging.INFO, "netc"):
        assert upgrade_net_text(path) == read_text(path, pb.NetParameter).message
    # Batch norms with three param count as old for ever: Caffe goes by their number.
    again = name == "own_v2_batchnorm_params"
    assert words_of(caplog)[0][1].startswith("Attempting" if again else "File already")


def test_the_log_names_caffes_source_and_what_was_changed(caplog: pytest.LogCaptureFixture) -> None:
    path = FOLDER / "own_v0_small.in.prototxt"
    with caplog.at_level(logging.INFO, "netc"):
        read_net(path)
    sources = [record.source for record in caplog.records if getattr(record, "source", "")]
    assert sources == [f"upgrade_proto.cpp:{line}" for line in (28, 36, 55, 63, 69, 72)]
    lines = [record.getMessage() for record in caplog.records]
    assert f"{path}:3:1: padding layer pad1 is now pad: 2 of layer conv" in lines
    assert "blobs_lr -> param { lr_mult }, 1 times" in lines
    assert "is of an old form" in lines[-1]


# Binary files


def test_binary_nets_are_upgraded_as_caffe_does(tmp_path: Path) -> None:
    upgrade_net_binary(FOLDER / "legacy_model_v1.caffemodel", tmp_path / "new")
    found, expected = (
        pb.NetParameter.FromString(path.read_bytes())
        for path in (tmp_path / "new", FOLDER / "legacy_model_v1.upgraded.caffemodel")
    )
    assert found == expected


@pytest.mark.parametrize("name", ["legacy_model_v1", "legacy_model_v1.upgraded"])
def test_old_weights_load_and_give_caffes_outputs(name: str) -> None:
    net = Net(FOLDER / "legacy_model.net.prototxt", weights=str(FOLDER / f"{name}.caffemodel"), seed=1)
    with np.load(FOLDER / "legacy_model_v1.loaded.npz") as case:
        for key in case.files:
            if key.startswith("param/") and "extra/1" not in key:
                layer, index = key[len("param/") :].rsplit("/", 1)
                np.testing.assert_array_equal(net.params[layer][int(index)].data, case[key])
        net.blobs["data"].data[...] = case["in/data"]
        net.forward()
        for name in ("c", "y", "z"):
            agree(name, net.blobs[name].data, case[f"out/{name}"])


def test_weights_in_the_first_syntax_load(tmp_path: Path) -> None:
    net = pb.NetParameter()
    inner = net.layers.add(bottom=["x"], top=["y"]).layer
    inner.name, inner.type, inner.num_output = "ip", "innerproduct", 2
    inner.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    net.input.append("x")
    (tmp_path / "v0.caffemodel").write_bytes(net.SerializeToString())
    upgrade_net_binary(tmp_path / "v0.caffemodel", tmp_path / "v2.caffemodel")
    for name in ("v0", "v2"):
        weights = read_weights(tmp_path / f"{name}.caffemodel")
        assert weights["ip"][0].ravel().tolist() == [0, 1, 2, 3, 4, 5]
    current = pb.NetParameter.FromString((tmp_path / "v2.caffemodel").read_bytes())
    assert [layer.type for layer in current.layer] == ["InnerProduct"]
    assert not current.input


def test_a_text_is_no_binary_net(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="no NetParameter") as caught:
        upgrade_net_binary(FOLDER / "own_v1_lenet.in.prototxt", tmp_path / "out")
    assert "upgrade_net_proto_text" in str(caught.value)
    assert not list(tmp_path.iterdir())


# The first syntax


def v0(fields: str, rest: str = 'bottom: "d"') -> str:
    return f'input: "d" input_dim: [1, 1, 4, 4]\nlayers {{ layer {{ name: "x" {fields} }} {rest} top: "t" }}'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            'type: "data" source: "s" batchsize: 2 rand_skip: 3 scale: 2 meanfile: "m" '
            "cropsize: 4 mirror: true",
            'type: "Data" data_param { source: "s" batch_size: 2 rand_skip: 3 } '
            'transform_param { scale: 2 mean_file: "m" crop_size: 4 mirror: true }',
        ),
        (
            'type: "images" source: "s" batchsize: 2 shuffle_images: true new_height: 5 new_width: 6',
            'type: "ImageData" '
            'image_data_param { source: "s" batch_size: 2 shuffle: true new_height: 5 new_width: 6 }',
        ),
        (
            'type: "window_data" source: "s" batchsize: 2 det_fg_threshold: 0.25 det_bg_threshold: 0.125 '
            'det_fg_fraction: 0.5 det_context_pad: 1 det_crop_mode: "square"',
            'type: "WindowData" window_data_param { source: "s" batch_size: 2 fg_threshold: 0.25 '
            'bg_threshold: 0.125 fg_fraction: 0.5 context_pad: 1 crop_mode: "square" }',
        ),
        (
            'type: "hdf5_data" source: "s" batchsize: 2',
            'type: "HDF5Data" hdf5_data_param { source: "s" batch_size: 2 }',
        ),
        (
            'type: "hdf5_output" hdf5_output_param { file_name: "f" }',
            'type: "HDF5Output" hdf5_output_param { file_name: "f" }',
        ),
        ('type: "infogain_loss" source: "s"', 'type: "InfogainLoss" infogain_loss_param { source: "s" }'),
        ('type: "concat" concat_dim: 2', 'type: "Concat" concat_param { concat_dim: 2 }'),
        (
            'type: "pool" pool: STOCHASTIC kernelsize: 3 stride: 2 pad: 1',
            'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 pad: 1 }',
        ),
        (
            'type: "lrn" local_size: 3 alpha: 2 beta: 3 k: 4',
            'type: "LRN" lrn_param { local_size: 3 alpha: 2 beta: 3 k: 4 }',
        ),
        ('type: "dropout" dropout_ratio: 0.25', 'type: "Dropout" dropout_param { dropout_ratio: 0.25 }'),
        (
            'type: "innerproduct" num_output: 3 biasterm: false bias_filler { value: 1 } blobs_lr: [1, 2] '
            "weight_decay: 3",
            'type: "InnerProduct" inner_product_param { '
            "num_output: 3 bias_term: false bias_filler { value: 1 } } "
            "param { lr_mult: 1 decay_mult: 3 } param { lr_mult: 2 }",
        ),
    ],
)
def test_each_field_of_the_first_syntax_finds_its_message(fields: str, expected: str) -> None:
    (layer,) = upgraded(v0(fields)).layer[1:]
    assert layer == net_of(f'layer {{ name: "x" bottom: "d" top: "t" {expected} }}').layer[0]


def test_every_type_of_the_older_syntaxes_has_its_name() -> None:
    numbers = set(pb.V1LayerParameter.LayerType.values())
    assert set(upgrade_v1.TYPES) == numbers
    for old in upgrade_v0.TYPES:
        (layer,) = upgraded(v0(f'type: "{old}"')).layer[1:]
        assert layer.type == upgrade_v1.TYPES[upgrade_v0.TYPES[old]] != ""


def test_what_the_first_syntax_does_not_know_is_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "netc"):
        net = upgraded(v0('type: "relu" num_output: 3\nnew_num: 1', 'bottom: "d"\ninclude { phase: TRAIN }'))
    assert net.layer[1] == pb.LayerParameter(name="x", type="ReLU", bottom=["d"], top=["t"])
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(" ")[0] for line in lines[:-1]] == ["f:2:41:", "f:3:1:", "f:4:1:"]
    assert "had problems" in lines[-1].lower()


def padded(
    reader: str = 'type: "conv"', bottoms: str = 'bottom: "p"', pad_bottoms: str = 'bottom: "d"'
) -> str:
    return (
        'input: "d" input_dim: [1, 1, 4, 4]\n'
        f'layers {{ layer {{ name: "pad" type: "padding" pad: 2 }} {pad_bottoms} top: "p" }}\n'
        f'layers {{ layer {{ name: "c" {reader} }} {bottoms} top: "c" }}\n'
        'layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }'
    )


@pytest.mark.parametrize("reader", ["conv", "pool"])
def test_padding_is_folded_into_each_layer_that_reads_it(reader: str) -> None:
    second = f'\nlayers {{ layer {{ name: "b" type: "{reader}" pad: 7 }} bottom: "p" top: "b" }}'
    net = upgraded(padded(f'type: "{reader}"') + second)
    assert [layer.name for layer in net.layer] == ["input", "c", "r", "b"]
    for layer in (net.layer[1], net.layer[3]):
        pads = list(layer.convolution_param.pad) if reader == "conv" else [layer.pooling_param.pad]
        assert (list(layer.bottom), pads) == (["d"], [2])


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (padded('type: "relu"'), "f:3:1", "must be read by a convolution or a pooling layer"),
        (padded(bottoms='bottom: "p" bottom: "d"'), "f:3:1", "a padded layer has one bottom"),
        (padded(pad_bottoms='bottom: "d" bottom: "d"'), "f:3:1", "one bottom and one top"),
        (padded(bottoms='bottom: "q"'), "f:3:43", "unknown bottom blob 'q'"),
        (v0('type: "cnv"'), "f:2:28", "did you mean conv?"),
        (v0(""), "f:2:10", "no type"),
        ('layer { }\nlayers { layer { type: "conv" } }', "f:2:1", "mixes"),
        ("layer { }\nlayers { type: RELU }", "f:2:1", "mixes"),
    ],
)
def test_what_cannot_be_upgraded_is_named_with_its_place(text: str, place: str, words: str) -> None:
    (error,) = errors_of(text)
    assert words in str(error)
    assert str(error.at) == place


def test_all_errors_of_the_first_syntax_are_reported() -> None:
    text = "".join(f'layers {{ layer {{ type: "{kind}" }} }}\n' for kind in ("a", "relu", "b"))
    assert [str(error.at) for error in errors_of(text)] == ["f:1:18", "f:3:18"]


# The second syntax


def test_lists_of_each_parameter_become_messages() -> None:
    text = "param: ['', 'w'] blob_share_mode: PERMISSIVE blobs_lr: [1, 2, 3] weight_decay: [0.5]"
    (layer,) = upgraded(f"layers {{ {text} }}").layer
    expected = (
        "layer { param { name: '' share_mode: PERMISSIVE lr_mult: 1 decay_mult: 0.5 } "
        "param { name: 'w' lr_mult: 2 } param { lr_mult: 3 } }"
    )
    assert layer == net_of(expected).layer[0]


def test_every_message_of_the_second_syntax_is_kept() -> None:
    """Each field of V1LayerParameter that is not rewritten has one of the same name and kind now."""
    new = pb.LayerParameter.DESCRIPTOR.fields_by_name
    for field in pb.V1LayerParameter.DESCRIPTOR.fields:
        if field.name not in (*upgrade_v1.PARAM_LISTS, "type", "layer"):
            assert new[field.name].type == field.type
            assert new[field.name].message_type == field.message_type


def test_transforms_move_as_in_caffe_in_every_data_layer_once_one_needs_it() -> None:
    net = upgraded(
        "layers { type: IMAGE_DATA image_data_param { scale: 2 crop_size: 3 } }"
        "layers { type: DATA data_param { source: 's' } }"
        "layers { type: RELU data_param { mirror: true } }"
    )
    assert net.layer[0].transform_param == pb.TransformationParameter(scale=2, crop_size=3)
    assert not net.layer[0].image_data_param.ListFields()
    assert net.layer[1].HasField("transform_param")
    assert net.layer[2].data_param.mirror
    assert not net.layer[2].HasField("transform_param")


# Places


def test_places_follow_layers_and_fields_through_every_upgrade() -> None:
    text = """name: "n"
input: "d" input_dim: 1 input_dim: 1 input_dim: 4 input_dim: 4
layers { layer { name: "p" type: "padding"
  pad: 2 } bottom: "d" top: "p" }
layers {
  bottom: "p" top: "c"
  layer { name: "c"
    type: "conv"
    kernelsize: 3
    blobs_lr: 1
    blobs_lr: 2 } }
layers { layer { name: "r" type: "relu" } bottom: "c" top: "c" }
"""
    parsed = parse_net(text, "f")
    assert [layer.name for layer in parsed.message.layer] == ["input", "c", "r"]
    lines = {
        ("layer", 0): 2,
        ("layer", 1): 5,
        ("layer", 1, "bottom", 0): 6,
        ("layer", 1, "type"): 8,
        ("layer", 1, "convolution_param", "kernel_size", 0): 9,
        ("layer", 1, "convolution_param", "pad"): 4,
        ("layer", 1, "param", 1, "lr_mult"): 11,
        ("layer", 1, "convolution_param", "stride"): 5,
        ("layer", 2): 12,
    }
    assert {path: parsed.positions.at(*path).line for path in lines} == lines


def test_a_wrong_option_in_an_old_net_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_text(
        'input: "d" input_dim: [1, 1, 4, 4]\n'
        'layers { name: "c" type: CONVOLUTION bottom: "d" top: "c" convolution_param {\n'
        "  num_output: 2\n"
        "  kernel_size: 9 } }\n"
    )
    with pytest.raises(NetcError) as caught:
        Net(path)
    assert caught.value.at is not None
    assert str(caught.value.at).startswith(f"{path}:")
    assert caught.value.at.line in (2, 4)


def test_old_nets_within_a_solver_keep_their_places() -> None:
    text = "base_lr: 1 lr_policy: 'fixed'\nnet_param {\n layers {\n blobs_lr: 3 } }"
    parsed = parse_solver(text, "f")
    assert str(parsed.positions.at("net_param", "layer", 0, "param", 0, "lr_mult")) == "f:4:2"
    assert str(parsed.positions.at("base_lr")) == "f:1:1"


# Old files in use


def test_a_solver_and_net_of_an_old_form_train_as_their_current_ones(tmp_path: Path) -> None:
    """V1 text and solver_type: the same weights, to the bit, after three iterations."""
    dummy = (
        'dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" } '
        "data_filler { value: 1 } }"
    )
    options = 'inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } }'
    nets = {
        "old": f'layers {{ name: "d" type: DUMMY_DATA top: "x" top: "t" {dummy} }}\n'
        f'layers {{ name: "ip" type: INNER_PRODUCT bottom: "x" top: "y" blobs_lr: [1, 2] {options} }}\n'
        'layers { name: "loss" type: SOFTMAX_LOSS bottom: "y" bottom: "t" }',
        "new": f'layer {{ name: "d" type: "DummyData" top: "x" top: "t" {dummy} }}\n'
        f'layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" param {{ lr_mult: 1 }} '
        f"param {{ lr_mult: 2 }} {options} }}\n"
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" }',
    }
    types = {"old": "solver_type: NESTEROV", "new": 'type: "Nesterov"'}
    weights = {}
    for age, text in nets.items():
        (tmp_path / f"{age}.prototxt").write_text(text)
        (tmp_path / f"{age}_solver.prototxt").write_text(
            f'net: "{tmp_path}/{age}.prototxt" {types[age]} base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" '
            f'max_iter: 3 random_seed: 1 snapshot_prefix: "{tmp_path}/{age}"'
        )
        solver = Solver(tmp_path / f"{age}_solver.prototxt")
        solver.step(3)
        weights[age] = solver.net.parameters.data.copy()
    assert np.abs(weights["old"]).max() > 0
    np.testing.assert_array_equal(weights["old"], weights["new"])


# Nets given as messages


def test_a_message_of_an_old_form_is_upgraded_into_a_copy() -> None:
    old = net_of('input: "d" input_dim: [1, 1, 2, 2] layers { name: "r" type: RELU bottom: "d" top: "r" }')
    before = old.SerializeToString()
    net = Net(old)
    assert net.layer_types == ["Input", "ReLU"]
    assert old.SerializeToString() == before
    current = current_net(old)
    assert current_net(current) is current
