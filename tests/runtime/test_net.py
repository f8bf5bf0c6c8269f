"""A net that runs: shapes that change, shared parameters, ranges of layers, weights by name."""

import gc
import threading

import cv2
import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.errors import Location, NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.runtime import Arena, Net
from netc.schema.text import parse_text

MLP = """
name: "mlp"
layer {{ name: "data" type: "Input" top: "data"
  input_param {{ shape {{ dim: {batch} dim: 3 dim: 6 dim: 6 }} }} }}
layer {{ name: "label" type: "Input" top: "label" input_param {{ shape {{ dim: {batch} }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param {{ pool: AVE global_pooling: true }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param {{ num_output: 5 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""


def message(text: str) -> pb.NetParameter:
    return parse_text(text, pb.NetParameter, "net.prototxt").message


def mlp(batch: int = 2, phase: int = pb.TRAIN, **options: object) -> Net:
    net = Net(message(MLP.format(batch=batch)), phase, seed=3, **options)  # type: ignore[arg-type]
    net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["data"].shape)
    net.blobs["label"].data[...] = np.arange(batch) % 5
    return net


def test_the_same_seed_gives_the_same_net() -> None:
    one, other = mlp(), mlp()
    assert one.forward() == other.forward() > 0
    assert Net(message(MLP.format(batch=2)), pb.TRAIN, seed=4).parameters.data[0] != one.parameters.data[0]


def test_blobs_are_live_views() -> None:
    net = mlp()
    net.forward()
    before = net.blobs["ip"].data.copy()
    net.params["ip"][1].data[...] += 1
    net.forward()
    np.testing.assert_allclose(net.blobs["ip"].data, before + 1, rtol=1e-6)
    segment = next(s for s in net.parameters.segments if s.layer == "ip" and s.index == 1)
    assert np.shares_memory(net.parameters.data[segment.offset :], net.params["ip"][1].data)


def test_gradients_add_up_until_cleared() -> None:
    net = mlp()
    net.forward()
    net.backward()
    once = net.parameters.grad.copy()
    net.forward()
    net.backward()
    np.testing.assert_allclose(net.parameters.grad, 2 * once, rtol=1e-6)
    net.clear_param_diffs()
    assert not net.parameters.grad.any()


def test_the_gradient_of_the_loss_is_its_slope() -> None:
    net = mlp(dtype=np.float64)
    net.forward()
    net.backward()
    weights, step = net.params["conv"][0], 1e-6
    index = (1, 2, 0, 1)
    slope = weights.diff[index]
    weights.data[index] += step
    up = net.forward()
    weights.data[index] -= 2 * step
    down = net.forward()
    assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_reshaping_an_input_reshapes_the_net_and_keeps_the_parameters() -> None:
    net = mlp()
    net.forward()
    first = net.blobs["ip"].data.copy()
    data = net.blobs["data"].data.copy()
    net.blobs["data"].reshape(7, 3, 9, 8)
    net.blobs["label"].reshape(7)
    assert net.blobs["data"].data.shape == (7, 3, 9, 8)
    net.reshape()
    assert net.blobs["conv"].shape == (7, 4, 7, 6)
    net.forward()
    assert net.blobs["ip"].shape == (7, 5)
    net.blobs["data"].reshape(2, 3, 6, 6)
    net.blobs["label"].reshape(2)
    net.blobs["data"].data[...] = data
    net.forward()
    np.testing.assert_array_equal(net.blobs["ip"].data, first)


def test_a_program_is_compiled_once_for_each_shape() -> None:
    net = mlp()
    first = net.program
    label = net.blobs["label"].data.copy()
    net.blobs["data"].reshape(2, 3, 9, 9)
    net.forward()
    assert net.program is not first
    np.testing.assert_array_equal(net.blobs["label"].data, label)
    net.blobs["data"].reshape(2, 3, 6, 6)
    net.forward()
    assert net.program is first


def test_an_input_that_would_change_parameters_is_refused_and_changes_nothing() -> None:
    net = mlp()
    net.blobs["data"].reshape(2, 4, 6, 6)
    with pytest.raises(NetcError, match="change parameter 0") as caught:
        net.reshape()
    assert caught.value.layer == "conv (Convolution)"
    assert net.blobs["data"].shape == (2, 3, 6, 6)


def test_a_test_net_uses_the_train_nets_parameters() -> None:
    train = mlp()
    test = mlp(phase=pb.TEST, share_with=train, keep="outputs", backward=False)
    assert test.forward() == train.forward()
    train.params["ip"][1].data[...] = np.arange(5)
    assert test.forward() == train.forward()
    assert test.parameters.segments == []


def test_sharing_wants_equal_shapes() -> None:
    train = mlp()
    other = MLP.format(batch=2).replace("num_output: 5", "num_output: 6")
    with pytest.raises(NetcError, match="cannot share parameter 0") as caught:
        Net(message(other), pb.TEST, share_with=train)
    assert (caught.value.expected, caught.value.found) == ([5, 4], [6, 4])


def test_nets_that_never_run_at_once_share_an_arena() -> None:
    arena = Arena(CpuBackend())
    train = mlp(batch=8, keep="outputs", arena=arena)
    test = mlp(batch=2, phase=pb.TEST, share_with=train, keep="outputs", backward=False, arena=arena)
    assert np.shares_memory(train.program.memory, test.program.memory)
    assert len(arena.memory) == train.program.plan.arena_bytes


def test_ranges_of_layers_run_alone() -> None:
    net = mlp()
    net.forward()
    net.blobs["pool"].data[...] = 0
    net.forward(start="ip", end="ip")
    np.testing.assert_array_equal(net.blobs["ip"].data, np.zeros((2, 5)))
    net.blobs["ip"].diff[...] = 1
    net.backward(start="ip", end="ip")
    np.testing.assert_array_equal(net.params["ip"][1].diff, np.full(5, 2))
    assert not net.params["conv"][0].diff.any()
    with pytest.raises(NetcError, match="no layer 'ipp'"):
        net.forward(start="ipp")


def test_weights_go_to_a_file_and_back(tmp_path) -> None:
    net, other = mlp(), Net(message(MLP.format(batch=2)), pb.TEST, seed=9)
    for name in ("w.caffemodel", "w.caffemodel.h5"):
        net.save(tmp_path / name)
        other.params["conv"][0].data[...] = 0
        other.load_weights(tmp_path / name)
        np.testing.assert_array_equal(other.parameters.data, net.parameters.data)


def test_weights_of_another_shape_name_both_shapes_and_the_remedy(tmp_path) -> None:
    net = mlp()
    net.save(tmp_path / "w.caffemodel")
    other = Net(message(MLP.format(batch=2).replace("num_output: 5", "num_output: 6")), pb.TRAIN)
    with pytest.raises(NetcErrors) as caught:
        other.load_weights(tmp_path / "w.caffemodel")
    weight, bias = caught.value.errors
    assert (weight.layer, weight.expected, weight.found) == ("ip", [6, 4], [5, 4])
    assert (bias.layer, bias.expected, bias.found) == ("ip", [6], [5])
    assert weight.remedy == bias.remedy == "rename the layer to learn it from scratch"


def test_a_renamed_layer_keeps_its_own_parameters(tmp_path) -> None:
    net = mlp()
    net.save(tmp_path / "w.caffemodel")
    renamed = Net(message(MLP.format(batch=2).replace('name: "ip"', 'name: "ip_new"')), pb.TRAIN, seed=8)
    own = renamed.params["ip_new"][0].data.copy()
    renamed.load_weights(tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(renamed.params["ip_new"][0].data, own)
    np.testing.assert_array_equal(renamed.params["conv"][0].data, net.params["conv"][0].data)


def test_a_net_without_gradients_refuses_backward() -> None:
    with pytest.raises(NetcError, match="without gradients"):
        mlp(backward=False).backward()


def test_a_loss_weight_scales_loss_and_gradient() -> None:
    plain, weighted = (
        mlp(),
        Net(message(MLP.format(batch=2).replace('top: "loss"', 'top: "loss" loss_weight: 3')), 0, seed=3),
    )
    for name in ("data", "label"):
        weighted.blobs[name].data[...] = plain.blobs[name].data
    assert weighted.forward() == pytest.approx(3 * plain.forward())
    plain.backward()
    weighted.backward()
    np.testing.assert_allclose(weighted.parameters.grad, 3 * plain.parameters.grad, rtol=1e-5)


def test_debug_info_logs_every_step(caplog) -> None:
    net = mlp()
    net.debug_info = True
    with caplog.at_level("INFO"):
        net.forward()
        net.backward()
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("    [Forward] Layer conv, top blob conv data: ") for line in lines)
    assert any(line.startswith("    [Backward] Layer ip, param blob 1 diff: ") for line in lines)
    assert any("All net params (data, diff): L1 norm" in line for line in lines)


def test_an_unknown_filler_is_named_with_its_layer() -> None:
    text = MLP.format(batch=2).replace(
        'num_output: 5 weight_filler { type: "xavier" }', 'num_output: 5 weight_filler { type: "xaver" }'
    )
    text = text.replace("weight_filler", "\n  weight_filler")
    parsed = parse_text(text, pb.NetParameter, "net.prototxt")
    with pytest.raises(NetcError, match="xaver") as caught:
        Net(parsed.message, pb.TRAIN, positions=parsed.positions)
    assert caught.value.layer == "ip (InnerProduct)"
    line = next(i for i, line in enumerate(text.splitlines(), 1) if "xaver" in line)
    assert caught.value.at == Location("net.prototxt", line, 3)


def test_images_of_mixed_sizes_meet_one_program_for_each_size(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = [(9, 7), (12, 8), (9, 7), (12, 8)]
    for index, size in enumerate(sizes):
        cv2.imwrite(f"{index}.png", np.full((*size, 3), 10 * index + 10, np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{index}.png {index}\n" for index in range(len(sizes))))
    text = """
    layer { name: "images" type: "ImageData" top: "data" top: "label"
      image_data_param { source: "list.txt" } }
    layer { name: "mean" type: "Pooling" bottom: "data" top: "mean"
      pooling_param { pool: AVE global_pooling: true } }
    """
    net = Net(message(text), pb.TEST, keep="outputs", backward=False)
    programs = []
    for index in range(2 * len(sizes)):
        net.forward()
        means = {value.name: value.data for value in net.output_values()}
        np.testing.assert_allclose(means["mean"].ravel(), [10 * (index % 4) + 10] * 3, rtol=1e-6)
        assert means["label"].item() == index % 4
        programs.append(net.program)
    assert len(set(map(id, programs))) == 2
    net.close()


def test_a_layer_that_cannot_work_on_an_empty_blob_is_named() -> None:
    net = Net(
        message(
            'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 0 } } }'
            'layer { name: "p" type: "Softmax" bottom: "x" top: "y" }'
        )
    )
    with pytest.raises(NetcError, match="without elements") as caught:
        net.forward()
    assert (caught.value.layer, caught.value.blob, caught.value.found) == ("p (Softmax)", "x", [2, 0])


def test_a_net_that_is_let_go_takes_its_threads_along(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("0.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "list.txt").write_text("0.png 0\n")
    layer = 'layer { name: "i" type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" } }'
    before = set(threading.enumerate())
    parsed = parse_text(layer, pb.NetParameter, "net.prototxt")
    net = Net(parsed.message, pb.TRAIN, positions=parsed.positions)
    net.forward()
    assert set(threading.enumerate()) > before
    del net
    gc.collect()
    assert set(threading.enumerate()) <= before
