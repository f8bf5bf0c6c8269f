"""Layers of one name: each has parameters, states and shapes of its own; from files and other nets the k-th
of a name takes the k-th's."""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.runtime.transfer import counterparts
from netc.schema.layer_keys import Namesake
from netc.schema.net import parse_net
from netc.schema.weights import read_weights
from netc.solver.side_file import NetState

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
SECOND = Namesake("ip", 2)


def inner_product(top: str, outputs: int = 4, name: str = "ip") -> str:
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "x" top: "{top}" inner_product_param {{'
        f' num_output: {outputs} bias_term: false weight_filler {{ type: "gaussian" std: 1 }} }} }}\n'
    )


def net_of(*layers: str, phase: int = pb.TEST, **options: object) -> Net:
    net = Net(parse_net("".join(layers)).message, phase, **{"seed": 1, **options})  # type: ignore[arg-type]
    for blob in (net.blobs[name] for name in net.inputs):
        blob.data[...] = np.arange(blob.data.size).reshape(blob.shape)
    return net


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_each_has_parameters_and_gradients_of_its_own() -> None:
    net = net_of("force_backward: true\n", INPUT, inner_product("a"), inner_product("b", outputs=5))
    assert {layer: blob.shape for layer, (blob,) in net.params.items()} == {"ip": (4, 3), ("ip", 2): (5, 3)}
    assert [segment.name for segment in net.parameters.segments] == ["ip/0", "ip/0#2"]
    x = net.blobs["x"].data
    net.forward()
    for top, layer in (("a", "ip"), ("b", SECOND)):
        np.testing.assert_allclose(net.blobs[top].data, x @ net.params[layer][0].data.T, rtol=1e-6)
    net.blobs["a"].diff[...], net.blobs["b"].diff[...] = 1, 10
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, np.tile(x.sum(axis=0), (4, 1)))
    np.testing.assert_allclose(net.params[SECOND][0].diff, np.tile(10 * x.sum(axis=0), (5, 1)))


def test_fillers_draw_apart_and_the_first_as_if_it_were_alone() -> None:
    alone = net_of(INPUT, inner_product("a"))
    three = net_of(INPUT, inner_product("a"), inner_product("b"), inner_product("c", name="ip#2"))
    drawn = [blob.data for (blob,) in three.params.values()]
    np.testing.assert_array_equal(drawn[0], alone.params["ip"][0].data)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not np.isclose(drawn[one], drawn[other]).any()


def test_unnamed_layers_are_namesakes_too() -> None:
    net = net_of(INPUT, inner_product("a", name=""), inner_product("b", name=""))
    assert list(net.params) == ["", ("", 2)]


def test_a_parameter_shared_by_name_is_one_in_both() -> None:
    shared = inner_product("a").replace("inner_product_param", 'param { name: "w" } inner_product_param', 1)
    net = net_of(INPUT, shared, shared.replace('top: "a"', 'top: "b"'))
    assert np.shares_memory(net.params["ip"][0].data, net.params[SECOND][0].data)
    assert len(net.parameters.segments) == 1


def test_nets_share_first_with_first_and_second_with_second() -> None:
    layers = INPUT, inner_product("a"), inner_product("b", outputs=5)
    train = net_of(*layers, phase=pb.TRAIN)
    test = net_of(*layers, share_with=train, seed=2)
    later = net_of(*layers, seed=3)
    later.share_params(train)
    for net in (test, later):
        for layer in ("ip", SECOND):
            assert np.shares_memory(net.params[layer][0].data, train.params[layer][0].data)
    assert not test.parameters.segments


def test_a_net_of_one_layer_of_the_name_shares_the_last() -> None:
    train = net_of(INPUT, inner_product("a"), inner_product("b"))
    test = net_of(INPUT, inner_product("b"), share_with=train)
    assert np.shares_memory(test.params["ip"][0].data, train.params[SECOND][0].data)


def test_a_net_of_more_layers_of_the_name_keeps_the_rest_of_its_own() -> None:
    train = net_of(INPUT, inner_product("a"))
    test = net_of(INPUT, inner_product("a"), inner_product("b"), share_with=train)
    assert np.shares_memory(test.params["ip"][0].data, train.params["ip"][0].data)
    assert [segment.layer for segment in test.parameters.segments] == [SECOND]


def test_another_shape_is_refused_for_the_layer_that_has_it() -> None:
    train = net_of(INPUT, inner_product("a"), inner_product("b", outputs=5))
    with pytest.raises(NetcError, match="cannot share parameter 0") as caught:
        net_of(INPUT, inner_product("a"), inner_product("b", outputs=6), share_with=train)
    assert (caught.value.expected, caught.value.found) == ([5, 3], [6, 3])


def test_counterparts() -> None:
    a, a2, a3 = "a", Namesake("a", 2), Namesake("a", 3)
    assert counterparts([a, a2, "b"], [a, a2, a3, "c"]) == {a: a, a2: a2}
    assert counterparts([a, a2], [a]) == {a: a}
    assert counterparts([a], [a, a2, a3]) == {a: a3}
    assert counterparts([a2.name + "#2"], [a, a2]) == {}


def test_a_caffemodel_holds_both_and_each_is_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "w.caffemodel"
    layers = INPUT, inner_product("a"), inner_product("b", outputs=5)
    net = net_of(*layers)
    net.save(path)
    written = pb.NetParameter()
    written.ParseFromString(path.read_bytes())
    stored = [list(layer.blobs[0].shape.dim) for layer in written.layer if layer.name == "ip"]
    assert stored == [[4, 3], [5, 3]]
    other = net_of(*layers, seed=2)
    with caplog.at_level(logging.INFO, "netc"):
        other.load_weights(path)
    assert any("holds 2 layers called 'ip', taken in their order" in m for m in messages(caplog))
    np.testing.assert_array_equal(other.parameters.data, net.parameters.data)


def test_a_lone_layer_takes_the_last_of_a_file_as_in_caffe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = net_of(INPUT, inner_product("a"), inner_product("b"))
    net.save(tmp_path / "w.caffemodel")
    lone = net_of(INPUT, inner_product("b"), seed=2)
    with caplog.at_level(logging.INFO, "netc"):
        lone.load_weights(tmp_path / "w.caffemodel")
    assert any("the last is taken, as in Caffe" in message for message in messages(caplog))
    np.testing.assert_array_equal(lone.params["ip"][0].data, net.params[SECOND][0].data)


def test_layers_that_find_no_counterpart_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = (net_of(INPUT, *map(inner_product, "abc"[:n]), seed=n) for n in (1, 2, 3))
    for net, name in ((one, "one"), (three, "three")):
        net.save(tmp_path / f"{name}.caffemodel")
    before = two.params[SECOND][0].data.copy()
    with caplog.at_level(logging.INFO, "netc"):
        two.load_weights(tmp_path / "one.caffemodel")
        np.testing.assert_array_equal(two.params["ip"][0].data, one.params["ip"][0].data)
        np.testing.assert_array_equal(two.params[SECOND][0].data, before)
        two.load_weights(tmp_path / "three.caffemodel")
    for layer in ("ip", SECOND):
        np.testing.assert_array_equal(two.params[layer][0].data, three.params[layer][0].data)
    kept = f"Layer ip#2 is not in {tmp_path / 'one.caffemodel'} and keeps its own parameters"
    assert kept in messages(caplog)
    assert "Ignoring source layer ip#3" in messages(caplog)


def test_a_layer_without_parameters_of_the_same_name_takes_nothing(tmp_path: Path) -> None:
    relu = 'layer { name: "ip" type: "ReLU" bottom: "a" top: "a" }\n'
    net = net_of(INPUT, inner_product("a"), relu)
    for name in ("w.caffemodel", "w.h5"):
        net.save(tmp_path / name)
        assert list(read_weights(tmp_path / name)) == ["ip"]
        other = net_of(INPUT, inner_product("a"), relu, seed=2)
        other.load_weights(tmp_path / name)
        np.testing.assert_array_equal(other.parameters.data, net.parameters.data)


@pytest.mark.parametrize("there", [False, True], ids=["new file", "over another"])
def test_hdf5_refuses_two_layers_of_one_name_before_it_writes(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "w.h5"
    if there:
        path.write_bytes(b"before")
    with pytest.raises(NetcError, match="cannot hold two layers of one name") as caught:
        net_of(INPUT, inner_product("a"), inner_product("b")).save(path)
    assert caught.value.layer == "ip"
    assert "caffemodel" in str(caught.value.remedy)
    assert [file.name for file in tmp_path.iterdir()] == (["w.h5"] if there else [])
    assert not there or path.read_bytes() == b"before"


def test_inputs_of_one_name_keep_shapes_of_their_own() -> None:
    text = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
    text += 'layer { name: "in" type: "Input" top: "y" input_param { shape { dim: 4 dim: 5 } } }\n'
    text += 'layer { name: "twice" type: "Power" bottom: "y" top: "z" power_param { scale: 2 } }\n'
    net = net_of(text, inner_product("a"))
    net.blobs["x"].reshape(7, 3)
    net.blobs["x"].data[...] = 1
    net.forward()
    assert {name: net.blobs[name].shape for name in "xyaz"} == {
        "x": (7, 3),
        "y": (4, 5),
        "a": (7, 4),
        "z": (4, 5),
    }
    np.testing.assert_array_equal(net.blobs["z"].data, 2 * np.arange(20).reshape(4, 5))
    net.blobs["y"].reshape(1, 6)
    net.forward()
    assert (net.blobs["a"].shape, net.blobs["z"].shape) == ((7, 4), (1, 6))
    np.testing.assert_allclose(net.blobs["a"].data[0], net.params["ip"][0].data.sum(axis=1), rtol=1e-5)


LSTM = """
layer {{ name: "lstm" type: "LSTM" bottom: "{bottom}" bottom: "cont" top: "{top}"
  recurrent_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 1 }} }} }}
"""
SEQUENCE = """
layer { name: "x" type: "Input" top: "x" top: "cont"
  input_param { shape { dim: 3 dim: 2 dim: 4 } shape { dim: 3 dim: 2 } } }
"""


def test_recurrent_layers_of_one_name_remember_apart() -> None:
    layers = [LSTM.format(bottom="x", top="h", outputs=5), LSTM.format(bottom="h", top="g", outputs=6)]
    named = [layer.replace('"lstm"', f'"lstm{n}"') for n, layer in enumerate(layers)]
    same, apart = net_of(SEQUENCE, *layers), net_of(SEQUENCE, *named)
    assert {name: array.shape for name, array in same.states.items()} == {
        "lstm/h": (1, 2, 5),
        "lstm/c": (1, 2, 5),
        "lstm/h#2": (1, 2, 6),
        "lstm/c#2": (1, 2, 6),
    }
    apart.parameters.data[...] = same.parameters.data
    for _ in range(2):  # the second pass begins with what the first one left
        for net in (same, apart):
            net.blobs["x"].data[...], net.blobs["cont"].data[...] = 0.1, 1
            net.forward()
        np.testing.assert_array_equal(same.blobs["g"].data, apart.blobs["g"].data)
    np.testing.assert_array_equal(same.states["lstm/c#2"], apart.states["lstm1/c"])


def test_dropout_layers_of_one_name_drop_apart_and_the_first_as_if_it_were_alone() -> None:
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1000 } } }\n'
    drops = [f'layer {{ name: "drop" type: "Dropout" bottom: "x" top: "{top}" }}\n' for top in "ab"]
    alone, both = net_of(text, drops[0], phase=pb.TRAIN), net_of(text, *drops, phase=pb.TRAIN)
    kept = []
    for _ in range(2):
        for net in (alone, both):
            net.blobs["x"].data[...] = 1
            net.forward()
        np.testing.assert_array_equal(both.blobs["a"].data, alone.blobs["a"].data)
        kept += [both.blobs["a"].data.ravel() > 0, both.blobs["b"].data.ravel() > 0]
    for i in range(4):
        for j in range(i):
            assert 400 < (kept[i] == kept[j]).sum() < 600
    assert {name: int(draw[0]) for name, draw in both.states.items()} == {"drop/draw": 2, "drop/draw#2": 2}


def test_data_layers_of_one_name_each_read_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = ""
    for top, width in (("a", 3), ("b", 2)):
        with h5py.File(f"{top}.h5", "w") as file:
            file[top] = width * 100 + np.arange(4 * width, dtype=np.float32).reshape(4, width)
        Path(f"{top}.txt").write_text(f"{top}.h5\n")
        options = f'hdf5_data_param {{ source: "{top}.txt" batch_size: 2 }}'
        text += f'layer {{ name: "data" type: "HDF5Data" top: "{top}" {options} }}\n'
    text += 'layer { name: "data" type: "ReLU" bottom: "a" top: "c" }\n'
    net = net_of(text)
    for first in (0, 2, 0):
        net.forward()
        for top, width in (("a", 3), ("b", 2), ("c", 3)):
            wanted = width * 100 + np.arange(4 * width).reshape(4, width)[first : first + 2]
            np.testing.assert_array_equal(net.blobs[top].data, wanted)
    assert list(net.sources) == ["data", ("data", 2)]
    there = NetState.of(net)
    net.forward()
    after = net.blobs["b"].data.copy()
    assert there.restore(net) == []
    net.forward()
    np.testing.assert_array_equal(net.blobs["b"].data, after)
    net.close()
