"""The net as pycaffe's users know it: what it is made of, running it, and views that stay live."""

from __future__ import annotations

import gc
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pytest

import netc
from netc import NetcError
from netc.data.memory_source import MemorySource
from tests.pycaffe.small_nets import LINE, write_net


@pytest.fixture
def net(tmp_path: Path) -> netc.Net:
    netc.set_random_seed(3)
    net = netc.Net(write_net(tmp_path), netc.TRAIN)
    net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    net.blobs["label"].data[...] = [1, 4]
    return net


@pytest.fixture
def line(tmp_path: Path) -> netc.Net:
    return netc.Net(write_net(tmp_path, LINE), netc.TEST)


# --- making ------------------------------------------------------------------------------------------------


def test_phase_level_and_stages_choose_the_layers(tmp_path: Path) -> None:
    path = write_net(tmp_path)
    assert netc.Net(path, netc.TRAIN).outputs == ["loss"]
    assert netc.Net(path, phase=netc.TEST).outputs == ["label", "prob"]
    judge = netc.Net(path, netc.TEST, stages=["judge"])
    assert judge.outputs == ["accuracy"]
    assert netc.Net(network_file=path, phase=netc.TEST, level=0, stages="judge").outputs == ["accuracy"]


def test_the_constructors_of_all_ages_take_weights(net: netc.Net, tmp_path: Path) -> None:
    weights = str(tmp_path / "weights.caffemodel")
    net.save(weights)
    path = str(tmp_path / "net.prototxt")
    for made in (
        netc.Net(path, netc.TEST, weights=weights),
        netc.Net(path, netc.TEST, 0, [], weights),
        netc.Net(path, weights, netc.TEST),
        netc.Net(path, Path(weights), netc.TEST),
    ):
        assert made.phase == netc.TEST
        np.testing.assert_array_equal(made.params["conv"][0].data, net.params["conv"][0].data)


def test_a_net_can_be_made_of_a_message() -> None:
    spec = netc.NetSpec()
    spec.data = netc.layers.Input(shape={"dim": [1, 2]})
    spec.out = netc.layers.Power(spec.data, scale=3)
    net = netc.Net(spec.to_proto(), netc.TEST)
    np.testing.assert_array_equal(net.forward(data=[[1, 2]])["out"], [[3, 6]])


@pytest.mark.parametrize("phase", [None, 7, "weights.caffemodel"])
def test_a_net_needs_a_phase(tmp_path: Path, phase: int | str | None) -> None:
    with pytest.raises(NetcError, match="a net needs a phase"):
        netc.Net(write_net(tmp_path), phase)


def test_a_broken_net_is_an_exception_with_its_line(tmp_path: Path) -> None:
    path = write_net(tmp_path, LINE.replace("Power", "Powr", 1))
    with pytest.raises(NetcError, match="Powr") as caught:
        netc.Net(path, netc.TEST)
    assert caught.value.at is not None
    assert caught.value.at.line == 4


def test_the_random_seed_repeats_a_run_of_nets(tmp_path: Path) -> None:
    path = write_net(tmp_path)

    def weights() -> list[np.ndarray]:
        netc.set_random_seed(1)
        return [netc.Net(path, netc.TRAIN).params["conv"][0].data.copy() for _ in range(2)]

    first, again = weights(), weights()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


# --- what it is made of ------------------------------------------------------------------------------------


def test_blobs_and_params_are_in_the_order_of_the_net(net: netc.Net) -> None:
    assert isinstance(net.blobs, OrderedDict)
    assert list(net.blobs) == ["data", "label", "conv", "ip", "loss"]
    assert [(name, [blob.shape for blob in blobs]) for name, blobs in net.params.items()] == [
        ("conv", [(4, 3, 3, 3), (4,)]),
        ("ip", [(5, 64), (5,)]),
    ]
    assert net.blobs is net.blobs  # a loop over them makes nothing anew


def test_layers_have_types_and_blobs(net: netc.Net) -> None:
    assert [layer.type for layer in net.layers] == [
        "Input", "Input", "Convolution", "ReLU", "InnerProduct", "SoftmaxWithLoss",
    ]  # fmt: skip
    assert net.layers[2].blobs[0].data is net.params["conv"][0].data
    assert len(net.layers[3].blobs) == 0
    assert net.layer_dict["ip"].blobs[1].data.shape == (5,)
    assert list(net.layer_dict) == list(net._layer_names)


def test_of_layers_of_one_name_params_shows_the_last_and_layers_shows_all(tmp_path: Path) -> None:
    text = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
    text += (
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 4 } }'
    )
    text += 'layer { name: "ip" type: "ReLU" bottom: "a" top: "b" }'
    text += (
        'layer { name: "ip" type: "InnerProduct" bottom: "b" top: "c" inner_product_param { num_output: 5 } }'
    )
    net = netc.Net(write_net(tmp_path, text), netc.TEST)
    assert list(net._layer_names) == ["x", "ip", "ip", "ip"]
    assert [[blob.shape for blob in layer.blobs] for layer in net.layers] == [
        *([], [(4, 3), (4,)]),
        *([], [(5, 4), (5,)]),
    ]
    assert [(name, [blob.shape for blob in blobs]) for name, blobs in net.params.items()] == [
        ("ip", [(5, 4), (5,)])
    ]
    assert net.params["ip"][0].data is net.layers[3].blobs[0].data
    assert net.layer_dict["ip"].blobs[0].shape == (5, 4)
    assert (net.bottom_names["ip"], net.top_names["ip"]) == (["b"], ["c"])
    for layer, value in ((1, 2), (3, 3)):
        net.layers[layer].blobs[0].data[...] = value
    net.save(tmp_path / "w.caffemodel")
    other = netc.Net(str(tmp_path / "net.prototxt"), netc.TEST, weights=str(tmp_path / "w.caffemodel"))
    assert [float(other.layers[layer].blobs[0].data.mean()) for layer in (1, 3)] == [2, 3]
    with pytest.raises(NetcError, match="two layers of one name"):
        net.save_hdf5(tmp_path / "w.h5", write_diff=True)
    assert not (tmp_path / "w.h5").exists()


def test_tops_and_bottoms_are_known_by_layer(net: netc.Net) -> None:
    assert net.top_names["conv"] == ["conv"]
    assert net.bottom_names["loss"] == ["ip", "label"]
    assert net.bottom_names["data"] == []
    assert [net._blob_names[i] for i in net._bottom_ids(5)] == ["ip", "label"]
    assert [net._blob_names[i] for i in net._top_ids(3)] == ["conv"]


def test_inputs_and_outputs_have_names_and_places(net: netc.Net) -> None:
    assert (net.inputs, net._inputs) == (["data", "label"], [0, 1])
    assert (net.outputs, net._outputs) == (["loss"], [4])
    assert net._blobs[4].data is not None
    assert net.blob_loss_weights == {"data": 0, "label": 0, "conv": 0, "ip": 0, "loss": 1}
    assert net._blob_loss_weights == [0, 0, 0, 0, 1]


def test_a_blob_has_the_shape_of_old_and_of_new(net: netc.Net) -> None:
    blob = net.blobs["data"]
    assert blob.shape == blob.data.shape == (2, 3, 6, 6)
    assert (blob.num, blob.channels, blob.height, blob.width, blob.count) == (2, 3, 6, 6, 216)
    bias = net.params["ip"][1]
    assert (bias.num, bias.channels, bias.height, bias.width) == (5, 1, 1, 1)


def test_blobs_speak_dlpack_without_a_copy(net: netc.Net) -> None:
    blob = net.blobs["data"]
    shared = np.from_dlpack(blob)
    blob.data[0, 0, 0, 0] = 42
    assert shared[0, 0, 0, 0] == 42
    assert np.shares_memory(shared, blob.data)
    assert blob.__dlpack_device__() == (1, 0)  # DLPack's number of the CPU
    assert not hasattr(blob, "__cuda_array_interface__")


def test_a_net_shows_itself(net: netc.Net) -> None:
    assert repr(net) == "<Net 'small' (TRAIN): 6 layers, 437 parameters>"
    assert [layer.name for layer in net.to_proto().layer] == list(net._layer_names)


# --- running -----------------------------------------------------------------------------------------------


def test_forward_gives_the_outputs_as_views(line: netc.Net) -> None:
    out = line.forward(x=np.arange(6).reshape(2, 3))
    assert list(out) == ["y"]
    np.testing.assert_array_equal(out["y"], [[1, 3, 5], [7, 9, 11]])
    assert np.shares_memory(out["y"], line.blobs["y"].data)
    line.blobs["x"].data[...] = 0
    line.forward()
    np.testing.assert_array_equal(out["y"], np.ones((2, 3)))


def test_backward_takes_the_outputs_gradients_and_gives_the_inputs(line: netc.Net) -> None:
    line.forward(x=np.zeros((2, 3)))
    slopes = line.backward(y=np.full((2, 3), 5))
    np.testing.assert_array_equal(slopes["x"], np.full((2, 3), 10))
    assert np.shares_memory(slopes["x"], line.blobs["x"].diff)
    line.blobs["y"].diff[...] = 1  # as does writing it by hand
    np.testing.assert_array_equal(line.backward()["x"], np.full((2, 3), 2))


def test_forward_gives_further_blobs_that_are_asked_for(net: netc.Net) -> None:
    out = net.forward(blobs=["ip", "conv"])
    assert set(out) == {"loss", "ip", "conv"}
    assert out["loss"] == pytest.approx(net.blobs["loss"].data)
    slopes = net.backward(diffs=["ip"])
    assert set(slopes) == {"data", "label", "ip"}
    assert np.abs(slopes["ip"]).sum() > 0


def test_forward_and_backward_run_a_range_of_layers(net: netc.Net) -> None:
    net.forward()
    whole = net.blobs["ip"].data.copy()
    net.blobs["ip"].data[...] = 0
    assert list(net.forward(start="conv", end="relu")) == ["conv"]
    assert not net.blobs["ip"].data.any()
    np.testing.assert_array_equal(net.forward(start="ip", end="ip")["ip"], whole)
    net.blobs["ip"].diff[...] = 1
    assert list(net.backward(start="ip", end="conv")) == ["data"]
    np.testing.assert_allclose(net.params["ip"][1].diff, 2)  # the gradient of each bias, over 2 items


def test_layers_run_by_their_numbers_as_well(net: netc.Net) -> None:
    loss = net._forward(0, 5)
    assert loss == pytest.approx(float(net.blobs["loss"].data))
    assert net._forward(2, 3) == 0
    net.clear_param_diffs()
    net._backward(5, 4)
    assert np.abs(net.params["ip"][0].diff).sum() > 0
    assert not net.params["conv"][0].diff.any()


def test_gradients_add_up_until_they_are_cleared(net: netc.Net) -> None:
    net.clear_param_diffs()
    net.forward()
    net.backward()
    once = net.params["ip"][0].diff.copy()
    net.backward()
    np.testing.assert_allclose(net.params["ip"][0].diff, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert not net.params["ip"][0].diff.any()


def test_any_number_of_items_goes_through_in_batches(line: netc.Net) -> None:
    items = np.arange(15, dtype=np.float32).reshape(5, 3)
    out = line.forward_all(x=items)
    np.testing.assert_array_equal(out["y"], 2 * items + 1)
    assert not np.shares_memory(out["y"], line.blobs["y"].data)
    outs, slopes = line.forward_backward_all(x=items, y=np.full((5, 3), 4))
    np.testing.assert_array_equal(outs["y"], 2 * items + 1)
    np.testing.assert_array_equal(slopes["x"], np.full((5, 3), 8))


def test_forward_backward_all_uses_the_diffs_that_are_there(net: netc.Net) -> None:
    data = np.random.default_rng(1).standard_normal((4, 3, 6, 6))
    outs, slopes = net.forward_backward_all(blobs=["ip"], data=data, label=np.arange(4))
    assert outs["ip"].shape == (4, 5)
    assert outs["loss"].shape == (2,)  # one for each batch
    assert slopes["data"].shape == (4, 3, 6, 6)
    np.testing.assert_allclose(outs["ip"], net.forward_all(blobs=["ip"], data=data, label=np.arange(4))["ip"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.forward(data=np.zeros((2, 3, 6, 6))), "not those of the net's inputs"),
        (lambda net: net.forward(data=0, lable=0), "not those of the net's inputs"),
        (lambda net: net.forward(data=np.zeros((3, 3, 6, 6)), label=[0, 0]), "another shape than the blob"),
        (lambda net: net.forward(start="nothing"), "no layer 'nothing'"),
        (lambda net: net.forward(end="nothing"), "no layer 'nothing'"),
        (lambda net: net.forward(blobs=["nothing"]), "no blob 'nothing'"),
        (lambda net: net.backward(diffs=["nothing"]), "no blob 'nothing'"),
        (lambda net: net.backward(ip=np.zeros((2, 5))), "not those of the net's outputs"),
        (lambda net: net.forward_all(data=np.zeros((0, 3, 6, 6)), label=[]), "at least one"),
        (lambda net: net.forward_all(data=np.zeros((4, 3, 6, 6)), label=[1, 2]), "as many items"),
        (
            lambda net: net.forward_backward_all(nothing=np.zeros(2)),
            "neither an input nor an output: nothing",
        ),
    ],
)
def test_what_does_not_fit_is_an_exception(net: netc.Net, call: object, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        call(net)  # type: ignore[operator]


def test_callbacks_are_told_the_numbers_of_layers(net: netc.Net) -> None:
    said: list[tuple[str, int]] = []
    net.before_forward(lambda layer: said.append(("before", layer)))
    net.after_forward(lambda layer: said.append(("after", layer)))
    net.before_backward(lambda layer: said.append(("before back", layer)))
    net.after_backward(lambda layer: said.append(("after back", layer)))
    net.forward(start="conv", end="relu")
    assert said == [("before", 2), ("after", 2), ("before", 3), ("after", 3)]
    said.clear()
    net.backward()
    assert [layer for what, layer in said if what == "after back"] == [5, 4, 3, 2]


def test_a_callback_may_change_what_the_next_layer_reads(line: netc.Net) -> None:
    line.after_forward(lambda layer: line.blobs["x"].data.fill(10) if layer == 0 else None)
    np.testing.assert_array_equal(line.forward(x=np.zeros((2, 3)))["y"], np.full((2, 3), 21))


# --- shapes ------------------------------------------------------------------------------------------------


def test_inputs_take_other_shapes(line: netc.Net) -> None:
    line.blobs["x"].reshape(1, 4)
    line.blobs["x"].data[...] = 3
    line.reshape()
    assert line.blobs["y"].shape == (1, 4)
    np.testing.assert_array_equal(line.forward()["y"], np.full((1, 4), 7))


def test_only_inputs_are_reshaped(line: netc.Net) -> None:
    with pytest.raises(NetcError, match="only the net's inputs"):
        line.blobs["y"].reshape(1, 4)


# --- parameters --------------------------------------------------------------------------------------------


def test_parameters_are_live(net: netc.Net) -> None:
    net.forward()
    before = net.blobs["ip"].data.copy()
    net.params["ip"][1].data[...] += 1
    np.testing.assert_allclose(net.forward(blobs=["ip"])["ip"], before + 1, rtol=1e-6)


@pytest.mark.parametrize("write", [netc.Net.save, netc.Net.save_hdf5])
@pytest.mark.parametrize("read", [netc.Net.copy_from, netc.Net.load_hdf5])
def test_weights_are_saved_and_read(net: netc.Net, tmp_path: Path, write: object, read: object) -> None:
    path = str(tmp_path / "weights.h5")
    write(net, path)  # type: ignore[operator]
    other = netc.Net(str(tmp_path / "net.prototxt"), netc.TRAIN)
    assert not np.array_equal(other.params["conv"][0].data, net.params["conv"][0].data)
    read(other, path)  # type: ignore[operator]
    for layer, blobs in net.params.items():
        for blob, copy in zip(blobs, other.params[layer], strict=True):
            np.testing.assert_array_equal(copy.data, blob.data)


def test_gradients_can_be_saved_too(net: netc.Net, tmp_path: Path) -> None:
    net.forward()
    net.backward()
    net.save_hdf5(tmp_path / "weights.hdf5", write_diff=True)
    with h5py.File(tmp_path / "weights.hdf5") as file:
        np.testing.assert_array_equal(file["diff/ip/0"][...], net.params["ip"][0].diff)


def test_nets_share_one_memory(net: netc.Net, tmp_path: Path) -> None:
    other = netc.Net(str(tmp_path / "net.prototxt"), netc.TRAIN)
    other.blobs["data"].data[...] = net.blobs["data"].data
    other.blobs["label"].data[...] = net.blobs["label"].data
    blobs = other.params["conv"]
    other.share_with(net)
    assert np.shares_memory(blobs[0].data, net.params["conv"][0].data)
    assert not np.shares_memory(blobs[0].diff, net.params["conv"][0].diff)
    assert other.forward()["loss"] == net.forward()["loss"]
    net.params["conv"][0].data[...] *= 2
    assert other.forward()["loss"] == net.forward()["loss"]
    other.backward()
    assert blobs[0].diff.any()
    assert not net.params["conv"][0].diff.any()


def test_nets_of_other_shapes_do_not_share(net: netc.Net, tmp_path: Path) -> None:
    text = (tmp_path / "net.prototxt").read_text().replace("num_output: 4", "num_output: 6")
    other = netc.Net(write_net(tmp_path, text, "wide.prototxt"), netc.TRAIN)
    before = other.params["conv"][0].data.copy()
    with pytest.raises(NetcError, match="cannot share parameter 0"):
        other.share_with(net)
    np.testing.assert_array_equal(other.params["conv"][0].data, before)


SHARED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" }
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 2 bias_term: false } }
"""


def test_a_parameter_that_layers_share_stays_one_among_nets(tmp_path: Path) -> None:
    one, other = (netc.Net(write_net(tmp_path, SHARED), netc.TEST) for _ in range(2))
    other.share_with(one)
    one.params["a"][0].data[...] = [[1, 2], [3, 4]]
    assert np.shares_memory(other.params["b"][0].data, one.params["a"][0].data)
    np.testing.assert_array_equal(other.forward(x=[[1, 0]])["b"], [[7, 15]])


# --- data --------------------------------------------------------------------------------------------------

MEMORY = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 2 width: 2 } }
layer { name: "y" type: "Power" bottom: "data" top: "y" power_param { scale: 2 } }
"""


def test_arrays_of_ones_own_feed_a_memory_data_layer(tmp_path: Path) -> None:
    net = netc.Net(write_net(tmp_path, MEMORY), netc.TEST)
    data = np.arange(16, dtype=np.float32).reshape(4, 1, 2, 2)
    net.set_input_arrays(data, np.arange(4, dtype=np.float32))
    for first in (0, 2, 0):  # round and round
        out = net.forward(blobs=["label"])
        np.testing.assert_array_equal(out["y"], 2 * data[first : first + 2])
        np.testing.assert_array_equal(out["label"].ravel(), [first, first + 1])
    data[2:] = 9  # the arrays are served from where they lie
    np.testing.assert_array_equal(net.forward()["y"], np.full((2, 1, 2, 2), 18))


def test_a_net_without_memory_data_says_so(line: netc.Net) -> None:
    with pytest.raises(NetcError, match="no MemoryData layer"):
        line.set_input_arrays(np.zeros((2, 1, 2, 2)), np.zeros(2))


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[MemorySource]:
    """The sources that were closed."""
    closed: list[MemorySource] = []
    monkeypatch.setattr(MemorySource, "close", lambda source: closed.append(source))
    return closed


def test_a_net_that_is_let_go_closes_what_it_reads(tmp_path: Path, closed: list[MemorySource]) -> None:
    net = netc.Net(write_net(tmp_path, MEMORY), netc.TEST)
    blob = net.blobs["y"]
    assert closed == []
    del net
    gc.collect()
    assert len(closed) == 1
    assert blob.data.shape == (2, 1, 2, 2)  # what was in hand stays


def test_a_net_whose_callbacks_use_it_is_let_go_too(tmp_path: Path, closed: list[MemorySource]) -> None:
    net = netc.Net(write_net(tmp_path, MEMORY), netc.TEST)
    net.after_forward(lambda layer, net=net: net.blobs)
    del net
    gc.collect()
    assert len(closed) == 1


def test_a_net_that_could_not_be_made_has_nothing_to_close(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="unknown layer type"):
        netc.Net(write_net(tmp_path, MEMORY.replace("Power", "Powr")), netc.TEST)
    gc.collect()  # a complaint of `__del__` would be a warning here
