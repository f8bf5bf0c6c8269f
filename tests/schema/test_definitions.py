"""Nets and solvers: old ones are upgraded as Caffe does it; what makes no sense is named with its line."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.schema.net import parse_net, read_net
from netc.schema.solver import parse_solver, read_solver
from netc.schema.text import read_text

GOOD = 'net: "n" base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "s"\n'


def errors_of(text: str) -> list[NetcError]:
    with pytest.raises(NetcError) as caught:
        parse_solver(text, "solver.prototxt")
    return caught.value.errors if isinstance(caught.value, NetcErrors) else [caught.value]


# Nets


@pytest.mark.parametrize("name", ["own_v2_input_dim_two", "own_v2_batchnorm_params", "own_v2_current"])
def test_nets_are_upgraded_as_caffe_does(golden: Path, name: str) -> None:
    found = read_net(golden / "upgrade" / f"{name}.in.prototxt")
    assert found.message == read_text(golden / "upgrade" / f"{name}.out.prototxt", pb.NetParameter).message


def test_input_shapes_become_an_input_layer(golden: Path) -> None:
    with np.load(golden / "layers/NetMech__legacy_input_shape.npz") as case:
        net = parse_net(str(case["prototxt"])).message
        assert [layer.name for layer in net.layer] == list(case["layer_names"])
    assert [list(shape.dim) for shape in net.layer[0].input_param.shape] == [[2, 3], [2, 3]]
    assert {field.name for field, _ in net.ListFields()} == {"force_backward", "layer", "name"}


def test_positions_follow_the_layers_that_an_upgrade_moves() -> None:
    text = "input: 'a'\ninput_shape { dim: 1 }\nlayer {\n name: 'x' }\nlayer {\n name: 'y' }"
    parsed = parse_net(text, "f")
    assert [layer.name for layer in parsed.message.layer] == ["input", "x", "y"]
    at = parsed.positions.at
    assert str(at("layer", 0)) == str(at("layer", 0, "top")) == "f:1:1"
    assert [str(at("layer", i, "name")) for i in (1, 2)] == ["f:4:2", "f:6:2"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("input: 'a'\ninput: 'b'\ninput_shape { dim: 1 }", "f:3:1", "each input needs an input_shape"),
        ("input: 'a'\ninput_dim: 1", "f:2:1", "four input_dim"),
        ("name: 'n'\ninput: 'a'", "f:2:1", "four input_dim"),
        ("layer { }\nlayers { }", "f:2:1", "mixes"),
    ],
)
def test_inputs_that_cannot_be_upgraded_are_named(text: str, place: str, words: str) -> None:
    with pytest.raises(NetcError, match=words) as caught:
        parse_net(text, "f")
    assert str(caught.value.at) == place


def test_old_transforms_that_caffe_ignores_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "netc"):
        net = parse_net(
            "layer { name: 'd'\n data_param { scale: 2\n mirror: true source: 's' } }", "f"
        ).message
    assert [record.getMessage().partition(":  ")[0][:6] for record in caplog.records] == ["f:2:15", "f:3:2:"]
    assert "transform_param { scale }" in caplog.text
    assert not net.layer[0].HasField("transform_param")


# Solvers


@pytest.mark.parametrize("name", ["adadelta", "nesterov", "rmsprop"])
def test_solver_types_are_upgraded_as_caffe_does(
    golden: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        found = read_solver(golden / "upgrade" / f"solver_{name}.in.prototxt").message
    assert found == read_text(golden / "upgrade" / f"solver_{name}.out.prototxt", pb.SolverParameter).message
    assert "solver_type to type" in caplog.text


def test_every_solver_that_caffe_ran_is_accepted(golden: Path) -> None:
    cases = sorted(golden.glob("solvers/*.npz"))
    assert len(cases) == 45
    for path in cases:
        with np.load(path) as case:
            solver = parse_solver(str(case["solver"])).message
        assert solver.type == path.name.partition("__")[0]


def test_snapshot_prefix_comes_from_the_solver_where_caffe_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "my.solver.prototxt"
    path.write_text('net: "n" base_lr: 0.1 lr_policy: "fixed"')
    assert read_solver(path).message.snapshot_prefix == str(tmp_path / "my.solver")
    path.write_text(f'net: "n" base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "{tmp_path}"')
    assert read_solver(path).message.snapshot_prefix == str(tmp_path / "my.solver")


def test_a_net_given_beside_the_solver_takes_the_place_of_its_own() -> None:
    solver = parse_solver(
        'train_net: "a" test_net: "b" test_iter: 1 test_interval: 1 base_lr: 1 lr_policy: "fixed"', net="c"
    )
    assert (solver.message.net, solver.message.train_net, list(solver.message.test_net)) == ("c", "", [])


def test_nets_within_a_solver_are_upgraded_too() -> None:
    inner = "net_param { input: 'a' input_dim: [1, 2, 3, 4]\n layer { name: 'x' } }"
    parsed = parse_solver(f"{inner} base_lr: 1 lr_policy: 'fixed'", "f")
    assert [layer.name for layer in parsed.message.net_param.layer] == ["input", "x"]
    assert str(parsed.positions.at("net_param", "layer", 1)) == "f:2:2"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('base_lr: 1 lr_policy: "fixed"', "1:1", "names no net"),
        (GOOD + 'train_net: "m"', "2:1", "more than one net"),
        ('net: "n" lr_policy: "fixed"', "1:1", "no base_lr"),
        ('net: "n" base_lr: 1', "1:1", "no lr_policy"),
        (GOOD.replace("fixed", "stp"), "1:23", "did you mean step?"),
        (GOOD.replace("fixed", "step") + "gamma: 0.1", "1:23", "needs stepsize"),
        (GOOD.replace("fixed", "step") + "stepsize: 3", "1:23", "needs gamma"),
        (GOOD.replace("fixed", "step") + "gamma: 1 stepsize: 0", "2:10", "stepsize: 0 makes no sense"),
        (GOOD.replace("fixed", "exp"), "1:23", "needs gamma"),
        (GOOD.replace("fixed", "inv") + "gamma: 1", "1:23", "needs power"),
        (GOOD.replace("fixed", "multistep") + "gamma: 1", "1:23", "needs stepvalue"),
        (GOOD.replace("fixed", "poly") + "power: 1", "1:23", "needs max_iter"),
        (GOOD.replace("fixed", "poly") + "power: 1 max_iter: 0", "2:10", "max_iter above 0"),
        (GOOD.replace("fixed", "sigmoid") + "gamma: 1", "1:23", "needs stepsize"),
        (GOOD + "test_iter: 1", "2:1", "no test_interval"),
        (GOOD + "test_iter: -1 test_interval: 1", "2:1", "test_iter: -1"),
        (GOOD + 'test_net: "t"', "2:1", "needs a test_iter"),
        (GOOD.replace("net", "train_net") + "test_iter: 1 test_interval: 1", "2:1", "needs a test_iter"),
        (GOOD + "test_iter: 1 test_interval: 1\ntest_state {} test_state {}", "3:1", "test_state"),
        (GOOD + 'type: "Adm"', "2:1", "did you mean Adam?"),
        (GOOD + "iter_size: 0", "2:1", "1 or more"),
        (GOOD + "average_loss: 0", "2:1", "1 or more"),
        (GOOD + "momentum: 1", "2:1", "below 1"),
        (GOOD + "weight_decay: -1", "2:1", "0 or more"),
        (GOOD + "clip_gradients: 0", "2:1", "-1 for none"),
        (GOOD + "max_iter: -5", "2:1", "0 or more"),
        (GOOD.replace("0.1", "nan"), "1:10", "base_lr: nan"),
        (GOOD + 'regularization_type: "l2"', "2:1", "did you mean L2?"),
        (GOOD + "type: 'SGD'\nsolver_type: ADAM", "3:1", "both"),
    ],
)
def test_a_solver_that_makes_no_sense_is_named_with_its_place(text: str, place: str, words: str) -> None:
    (error,) = errors_of(text)
    assert words in str(error)
    assert str(error.at) == ":".join(filter(None, ("solver.prototxt", place)))


def test_all_that_is_wrong_with_a_solver_is_reported_in_order() -> None:
    errors = errors_of('net: "n" base_lr: 1 lr_policy: "step"\nmomentum: 2\niter_size: 0')
    assert [error.at and error.at.line for error in errors] == [1, 1, 2, 3]


def test_a_score_that_is_not_known_is_an_error() -> None:
    parse_solver(GOOD + 'eval_type: "detection" ap_version: "11point"\n', "solver.prototxt")
    for field in ("eval_type", "ap_version"):
        (error,) = errors_of(f'{GOOD}{field}: "ranking"\n')
        assert (error.at.line, error.found) == (2, "ranking")
