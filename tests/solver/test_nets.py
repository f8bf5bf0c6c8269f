"""Which nets a solver builds, in which states, by Caffe's rules."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from google.protobuf import text_format

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.solver import Solver
from netc.solver.nets import replace_model, test_net_specs, train_net_spec

# pytest would take these two for tests.
specs_of_tests, spec_of_training = test_net_specs, train_net_spec
del test_net_specs

NET = """
name: "{name}"
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: 4 dim: 3 }} shape {{ dim: 4 }} data_filler {{ type: "gaussian" }}
  data_filler {{ }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "deep" type: "InnerProduct" bottom: "ip" top: "ip2" include {{ min_level: 2 stage: "deep" }}
  inner_product_param {{ num_output: 5 }} }}
layer {{ name: "silent" type: "Silence" bottom: "ip2" include {{ min_level: 2 stage: "deep" }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
REST = (
    'base_lr: 0.1 lr_policy: "fixed" max_iter: 2 snapshot_after_train: false solver_mode: CPU random_seed: 1 '
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.prototxt").write_text(NET.format(name=name))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(text: str) -> pb.SolverParameter:
    return text_format.Parse(REST + text, pb.SolverParameter())


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ('net: "a.prototxt"', []),
        ('net: "a.prototxt" test_iter: 1 test_interval: 1', ["net file: a.prototxt"]),
        ('train_net: "a.prototxt"', []),
        (
            'train_net: "a.prototxt" test_net: "b.prototxt" test_iter: 1 test_interval: 1',
            ["test_net file: b.prototxt"],
        ),
        (
            'net: "a.prototxt" test_net: "b.prototxt" test_net_param { name: "c" } test_interval: 1 '
            "test_iter: 1 test_iter: 1 test_iter: 1 test_iter: 1",
            ["test_net_param", "test_net file: b.prototxt", "net file: a.prototxt", "net file: a.prototxt"],
        ),
        ('net_param { name: "c" } test_iter: 1 test_interval: 1', ["net_param"]),
    ],
)
def test_test_nets_come_in_caffes_order(folder: Path, text: str, origins: list[str]) -> None:
    specs = specs_of_tests(parse(text))
    assert [spec.origin for spec in specs] == origins
    assert all(spec.state.phase == pb.TEST for spec in specs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no net to train"),
        ('net: "a.prototxt" train_net: "b.prototxt"', "more than one net to train"),
        ('train_net: "a.prototxt" test_iter: 1 test_interval: 1', "needs a test_iter"),
        (
            'train_net: "a.prototxt" test_net: "b.prototxt" test_interval: 1',
            "needs a test_iter",
        ),
        ('net: "a.prototxt" test_iter: 1', "no test_interval"),
        ('net: "a.prototxt" test_iter: 1 test_interval: 1 test_state { } test_state { }', "test_state"),
    ],
)
def test_a_definition_that_contradicts_itself_is_refused(folder: Path, text: str, words: str) -> None:
    with pytest.raises(NetcError, match=words):
        Solver(parse(text))


def test_states_merge_the_nets_own_and_the_solvers(folder: Path) -> None:
    text = (
        'net_param { name: "c" state { level: 1 stage: "x" } } train_state { level: 2 stage: "y" } '
        'test_state { stage: "z" } test_iter: 1 test_interval: 1'
    )
    train = spec_of_training(parse(text)).state
    assert (train.phase, train.level, list(train.stage)) == (pb.TRAIN, 2, ["x", "y"])
    test = specs_of_tests(parse(text))[0].state
    assert (test.phase, test.level, list(test.stage)) == (pb.TEST, 1, ["x", "z"])


def test_a_state_chooses_layers(folder: Path) -> None:
    plain = Solver(parse('net: "a.prototxt"'))
    assert "deep" not in plain.net.layer_names
    staged = Solver(
        parse(
            'net: "a.prototxt" train_state { level: 2 stage: "deep" } '
            "test_iter: 1 test_interval: 1 test_state { level: 1 }"
        )
    )
    assert "deep" in staged.net.layer_names
    assert "deep" not in staged.test_nets[0].layer_names


def test_several_test_nets_run_and_are_told_apart(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = 'train_net: "a.prototxt" test_net: "a.prototxt" test_net: "b.prototxt" test_iter: 1 test_iter: 2'
    with caplog.at_level(logging.INFO, "netc"):
        Solver(parse(text + " test_interval: 2 test_compute_loss: true")).solve()
    tested = [message for message in caplog.messages if "Testing net" in message]
    assert tested == [f"Iteration {i}, Testing net (#{net})" for i in (0, 2) for net in (0, 1)]
    assert sum(message.startswith("Test loss: ") for message in caplog.messages) == 4


def test_a_layer_that_only_the_test_net_has_takes_the_weights_file(folder: Path) -> None:
    text = 'net: "a.prototxt" test_iter: 1 test_interval: 5 test_state { level: 2 stage: "deep" }'
    first = Solver(parse(text))
    first.test_nets[0].params["deep"][0].data[...] = 7
    first.test_nets[0].save("deep.caffemodel")
    second = Solver(parse(text), weights="deep.caffemodel")
    assert (second.test_nets[0].params["deep"][0].data == 7).all()


def test_weights_are_loaded_in_order_and_the_later_wins(folder: Path) -> None:
    solver = Solver(parse('net: "a.prototxt"'))
    for value in (1, 2):
        solver.net.params["ip"][0].data[...] = value
        solver.net.save(f"w{value}.caffemodel")
    for weights in ("w2.caffemodel,w1.caffemodel", ["w2.caffemodel", "w1.caffemodel"]):
        assert (Solver(parse('net: "a.prototxt"'), weights=weights).net.params["ip"][0].data == 1).all()
    own = Solver(parse('net: "a.prototxt" weights: "w2.caffemodel"'))
    assert (own.net.params["ip"][0].data == 2).all()


def test_a_model_replaces_every_net_field() -> None:
    definition = parse('train_net: "a.prototxt" test_net: "b.prototxt" test_iter: 1 test_interval: 1')
    replace_model(definition, "c.prototxt")
    assert definition.net == "c.prototxt"
    assert not definition.HasField("train_net")
    assert not definition.test_net
