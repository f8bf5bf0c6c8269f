"""What Caffe's tutorials do, on small data: surgery, fine-tuning, features, layers of one's own, logistic
regression, LeNet by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import netc
from netc import NetcError
from netc import layers as L
from netc import params as P
from netc.proto import caffe_pb2

XAVIER = {"type": "xavier"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    netc.set_random_seed(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_proto(message: object, name: str) -> str:
    """Writes a message as text, as the tutorials do."""
    Path(name).write_text(str(message))
    return name


def small_solver(net: str, **options: object) -> caffe_pb2.SolverParameter:
    """A solver definition for short runs."""
    fields: dict[str, object] = {"base_lr": 0.1, "lr_policy": "fixed", "max_iter": 1000, "random_seed": 1}
    return caffe_pb2.SolverParameter(
        net=net, snapshot_prefix="snap", solver_mode="CPU", **{**fields, **options}
    )


def patterns(count: int, seed: int, kinds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images 1 x 8 x 8 of a few kinds, each a bright bar at rows of its own, in noise; and their kinds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % kinds
    images = rng.uniform(0, 0.4, (count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 1 + 2 * label : 3 + 2 * label] += 0.6
    return images, labels.astype(np.float32)


def write_hdf5(name: str, **arrays: np.ndarray) -> str:
    """An HDF5 file and its list; returns the list's path."""
    with h5py.File(f"{name}.h5", "w") as file:
        for dataset, array in arrays.items():
            file[dataset] = array
    Path(f"{name}.txt").write_text(f"{name}.h5\n")
    return f"{name}.txt"


# --- net surgery -------------------------------------------------------------------------------------------


def classifier_spec(fully_convolutional: bool, size: int) -> caffe_pb2.NetParameter:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [1, 3, size, size]})
    n.conv1 = L.Convolution(n.data, num_output=4, kernel_size=3, stride=2, weight_filler=XAVIER)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    if fully_convolutional:
        n["fc6-conv"] = L.Convolution(n.relu1, num_output=6, kernel_size=4, weight_filler=XAVIER)
        n.relu6 = L.ReLU(n["fc6-conv"], in_place=True)
        n["fc7-conv"] = L.Convolution(n.relu6, num_output=5, kernel_size=1, weight_filler=XAVIER)
        n.prob = L.Softmax(n["fc7-conv"])
    else:
        n.fc6 = L.InnerProduct(n.relu1, num_output=6, weight_filler=XAVIER)
        n.relu6 = L.ReLU(n.fc6, in_place=True)
        n.fc7 = L.InnerProduct(n.relu6, num_output=5, weight_filler=XAVIER)
        n.prob = L.Softmax(n.fc7)
    return n.to_proto()


def test_a_classifier_becomes_fully_convolutional_by_surgery() -> None:
    net = netc.Net(classifier_spec(False, 9), netc.TEST)
    net.save("classifier.caffemodel")
    conv_net = netc.Net(
        write_proto(classifier_spec(True, 13), "conv.prototxt"), netc.TEST, weights="classifier.caffemodel"
    )
    np.testing.assert_array_equal(conv_net.params["conv1"][0].data, net.params["conv1"][0].data)
    for name in ("fc6", "fc7"):
        assert net.params[name][0].data.size == conv_net.params[f"{name}-conv"][0].data.size
        conv_net.params[f"{name}-conv"][0].data.flat = net.params[name][0].data.flat  # unrolled alike
        conv_net.params[f"{name}-conv"][1].data[...] = net.params[name][1].data
    conv_net.save("conv.caffemodel")

    image = np.random.default_rng(0).standard_normal((1, 3, 13, 13)).astype(np.float32)
    scores = netc.Net("conv.prototxt", netc.TEST, weights="conv.caffemodel").forward(data=image)["prob"]
    assert scores.shape == (1, 5, 3, 3)
    for row in range(3):
        for column in range(3):  # each place of the map sees a window of its own, 2 pixels on
            window = image[:, :, 2 * row : 2 * row + 9, 2 * column : 2 * column + 9]
            np.testing.assert_allclose(
                scores[0, :, row, column], net.forward(data=window)["prob"][0], rtol=1e-5
            )


def test_filters_written_by_hand_show_in_the_next_forward() -> None:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [1, 1, 5, 5]})
    n.conv = L.Convolution(n.data, num_output=2, kernel_size=3, weight_filler={"type": "gaussian", "std": 1})
    net = netc.Net(n.to_proto(), netc.TEST)
    ramp = np.tile(np.arange(5, dtype=np.float32), (5, 1))
    net.blobs["data"].data[...] = ramp
    filters, biases = net.params["conv"][0].data, net.params["conv"][1].data
    filters[0, 0] = [[-1, 0, 1]] * 3  # horizontal differences, summed over 3 rows
    filters[1] = 0
    biases[1] = 7
    out = net.forward()["conv"]
    np.testing.assert_allclose(out[0, 0], np.full((3, 3), 6), rtol=1e-6)
    np.testing.assert_allclose(out[0, 1], np.full((3, 3), 7))


# --- fine-tuning -------------------------------------------------------------------------------------------


def tuned_spec(last: str, classes: int) -> caffe_pb2.NetParameter:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [4, 1, 8, 8]})
    n.label = L.Input(shape={"dim": [4]})
    frozen = [{"lr_mult": 0}, {"lr_mult": 0}]
    n.conv1 = L.Convolution(n.data, num_output=3, kernel_size=3, weight_filler=XAVIER, param=frozen)
    n[last] = L.InnerProduct(n.conv1, num_output=classes, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n[last], n.label)
    return n.to_proto()


def test_fine_tuning_learns_the_renamed_layer_from_scratch() -> None:
    trained = netc.Net(tuned_spec("fc8", 10), netc.TRAIN)
    trained.save("trained.caffemodel")
    solver = netc.get_solver(small_solver(write_proto(tuned_spec("fc8_flickr", 4), "tuned.prototxt")))
    fresh = solver.net.params["fc8_flickr"][0].data.copy()
    solver.net.copy_from("trained.caffemodel")
    conv1 = solver.net.params["conv1"][0]
    np.testing.assert_array_equal(conv1.data, trained.params["conv1"][0].data)
    np.testing.assert_array_equal(solver.net.params["fc8_flickr"][0].data, fresh)
    solver.net.blobs["data"].data[...], solver.net.blobs["label"].data[...] = patterns(4, 0)
    solver.step(3)
    np.testing.assert_array_equal(conv1.data, trained.params["conv1"][0].data)  # lr_mult 0
    assert not np.array_equal(solver.net.params["fc8_flickr"][0].data, fresh)


def test_a_layer_of_the_same_name_and_another_shape_asks_to_be_renamed() -> None:
    netc.Net(tuned_spec("fc8", 10), netc.TRAIN).save("trained.caffemodel")
    net = netc.Net(tuned_spec("fc8", 4), netc.TRAIN)
    before = net.params["conv1"][0].data.copy()
    with pytest.raises(NetcError, match="another shape") as caught:
        net.copy_from("trained.caffemodel")
    assert "layer: fc8" in str(caught.value)
    assert "rename the layer" in str(caught.value)
    np.testing.assert_array_equal(net.params["conv1"][0].data, before)


# --- feature extraction ------------------------------------------------------------------------------------


def test_features_are_taken_from_any_blob() -> None:
    net = netc.Net(tuned_spec("fc8", 10), netc.TEST)
    images, _ = patterns(4, 0)
    net.blobs["data"].data[...] = images
    features = net.forward(end="conv1")["conv1"].copy()
    assert features.shape == (4, 3, 6, 6)
    filters, biases = (blob.data for blob in net.params["conv1"])
    by_hand = (images[0, 0, :3, :3] * filters[2, 0]).sum() + biases[2]
    assert features[0, 2, 0, 0] == pytest.approx(by_hand, rel=1e-5)
    many = np.concatenate([images, images[:2] * 2, images])  # ten items in batches of four
    found = net.forward_all(blobs=["conv1"], data=many, label=np.zeros(10))["conv1"]
    np.testing.assert_array_equal(found[:4], features)
    np.testing.assert_array_equal(found[6:], features)


# --- layers of one's own -----------------------------------------------------------------------------------

LAYERS = """
import numpy as np
import netc

class EuclideanLoss(netc.Layer):
    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("two inputs are needed to compute a distance")
        self.calls = 0

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise ValueError("inputs must have the same dimension")
        self.diff = np.zeros_like(bottom[0].data, dtype=np.float32)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.calls += 1
        self.diff[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.diff ** 2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.diff / bottom[i].num * top[0].diff

class Shift(netc.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = float(self.param_str)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data + self.blobs[0].data[0] * (2 if self.phase == netc.TEST else 1)

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += top[0].diff.sum()
        bottom[0].diff[...] = top[0].diff
"""


@pytest.fixture
def own_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_layers_for_notebooks.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_layers_for_notebooks", raising=False)
    return "own_layers_for_notebooks"


def regression(loss: object) -> caffe_pb2.NetParameter:
    """A regression of 5 values on 3; `loss` makes the last layer."""
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [4, 3]})
    n.label = L.Input(shape={"dim": [4, 5]})
    n.ipx = L.InnerProduct(n.data, num_output=5, weight_filler=XAVIER)
    n.loss = loss(n.ipx, n.label)  # type: ignore[operator]
    net = n.to_proto()
    net.force_backward = True
    return net


def test_a_python_loss_gives_the_numbers_of_the_built_in_one(own_layers: str) -> None:
    rng = np.random.default_rng(0)
    data, label = rng.standard_normal((4, 3)), rng.standard_normal((4, 5))
    found = []
    for loss in (
        lambda *tops: L.Python(*tops, module=own_layers, layer="EuclideanLoss", loss_weight=1),
        lambda *tops: L.EuclideanLoss(*tops),
    ):
        netc.set_random_seed(5)
        net = netc.Net(regression(loss), netc.TRAIN)
        out = net.forward(data=data, label=label)["loss"]
        net.backward()
        found.append((float(out.sum()), net.params["ipx"][0].diff.copy(), net.blobs["data"].diff.copy()))
    (own, weights, inputs), (built_in, built_in_weights, built_in_inputs) = found
    assert own == pytest.approx(built_in, rel=1e-6)
    np.testing.assert_allclose(weights, built_in_weights, rtol=1e-5)
    np.testing.assert_allclose(inputs, built_in_inputs, rtol=1e-5)


def test_a_python_layer_is_at_hand_as_its_own_object(own_layers: str) -> None:
    net = netc.Net(
        regression(lambda *tops: L.Python(*tops, module=own_layers, layer="EuclideanLoss", loss_weight=1)),
        netc.TRAIN,
    )
    layer = net.layers[list(net._layer_names).index("loss")]
    assert isinstance(layer, netc.Layer)
    assert (layer.type, layer.phase, layer.calls) == ("Python", netc.TRAIN, 0)
    net.forward()
    assert net.layer_dict["loss"].calls == 1
    assert net.layer_dict["loss"] is layer


def test_a_python_layer_has_parameters_that_are_trained(own_layers: str) -> None:
    n = netc.NetSpec()
    n.x = L.DummyData(shape={"dim": [2, 2]}, data_filler={"value": 1})
    n.t = L.DummyData(shape={"dim": [2, 2]}, data_filler={"value": 4})
    n.y = L.Python(n.x, module=own_layers, layer="Shift", param_str="0.5")
    n.loss = L.EuclideanLoss(n.y, n.t)
    solver = netc.get_solver(small_solver(write_proto(n.to_proto(), "shift.prototxt"), base_lr=0.25))
    shift = solver.net.params["y"][0]
    assert shift.data[0] == 0.5
    assert solver.net.layer_dict["y"].blobs[0].data[0] == 0.5
    solver.step(1)
    # The gradient of the shift is the sum over 2 values of (1 + 0.5 - 4): -5.
    assert shift.data[0] == pytest.approx(0.5 + 0.25 * 5)
    solver.net.save("shift.caffemodel")
    test_net = netc.Net("shift.prototxt", netc.TEST, weights="shift.caffemodel")
    np.testing.assert_allclose(test_net.forward(blobs=["y"])["y"], np.full((2, 2), 1 + 2 * 1.75))


# --- logistic regression from HDF5 -------------------------------------------------------------------------


def logreg(source: str, batch_size: int) -> caffe_pb2.NetParameter:
    n = netc.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=source, ntop=2)
    n.ip1 = L.InnerProduct(n.data, num_output=2, weight_filler=XAVIER)
    n.accuracy = L.Accuracy(n.ip1, n.label)
    n.loss = L.SoftmaxWithLoss(n.ip1, n.label)
    return n.to_proto()


def test_logistic_regression_is_brewed_from_hdf5() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((600, 4)).astype(np.float32)
    classes = (points @ [1, -2, 0.5, 0] + 0.5 > 0).astype(np.float32)
    train = write_hdf5("train", data=points[:450], label=classes[:450])
    test = write_hdf5("test", data=points[450:], label=classes[450:])
    write_proto(logreg(train, 10), "train.prototxt")
    write_proto(logreg(test, 10), "test.prototxt")
    definition = caffe_pb2.SolverParameter(
        train_net="train.prototxt",
        test_net=["test.prototxt"],
        test_interval=1000,
        test_iter=[15],
        test_initialization=False,
        max_iter=300,
        base_lr=0.1,
        lr_policy="step",
        gamma=0.1,
        momentum=0.9,
        weight_decay=5e-4,
        stepsize=200,
        snapshot_prefix="logreg",
        solver_mode=caffe_pb2.SolverParameter.CPU,
    )
    solver = netc.get_solver(write_proto(definition, "solver.prototxt"))
    solver.solve()
    accuracy = 0.0
    batches = 15
    for _ in range(batches):
        solver.test_nets[0].forward()
        accuracy += float(solver.test_nets[0].blobs["accuracy"].data)
    assert accuracy / batches > 0.95
    weights = solver.net.params["ip1"][0].data
    direction = weights[1] - weights[0]
    np.testing.assert_allclose(direction / direction[0], [1, -2, 0.5, 0], atol=0.15)
    assert Path("logreg_iter_300.caffemodel").is_file()


# --- LeNet by hand -----------------------------------------------------------------------------------------


def lenet(source: str, batch_size: int) -> caffe_pb2.NetParameter:
    n = netc.NetSpec()
    n.data, n.label = L.HDF5Data(batch_size=batch_size, source=source, ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=4, weight_filler=XAVIER)
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=16, weight_filler=XAVIER)
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=3, weight_filler=XAVIER)
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()


def test_lenet_is_trained_step_by_step_with_a_test_of_ones_own() -> None:
    for name, count, seed in (("train", 60, 0), ("test", 30, 1)):
        images, labels = patterns(count, seed)
        write_proto(lenet(write_hdf5(name, data=images, label=labels), 15), f"{name}.prototxt")
    definition = caffe_pb2.SolverParameter(
        train_net="train.prototxt", test_net=["test.prototxt"], test_iter=[1], test_interval=10000,
        test_initialization=False, base_lr=0.05, momentum=0.9, lr_policy="inv", gamma=0.0001, power=0.75,
        random_seed=1, solver_mode="CPU", snapshot_prefix="lenet",
    )  # fmt: skip
    solver = netc.SGDSolver(write_proto(definition, "solver.prototxt"))

    assert [(name, blob.data.shape) for name, blob in solver.net.blobs.items()][:4] == [
        ("data", (15, 1, 8, 8)), ("label", (15,)), ("conv1", (15, 4, 6, 6)), ("pool1", (15, 4, 3, 3)),
    ]  # fmt: skip
    solver.net.forward()
    solver.test_nets[0].forward()
    first = solver.net.blobs["label"].data.copy()
    np.testing.assert_array_equal(first[:6], [0, 1, 2, 0, 1, 2])

    iterations, every = 40, 10
    train_loss = np.zeros(iterations)
    test_accuracy, scores = [], []
    for it in range(iterations):
        solver.step(1)
        train_loss[it] = solver.net.blobs["loss"].data
        solver.test_nets[0].forward(start="conv1")  # the same test batch again, as the weights are now
        scores.append(solver.test_nets[0].blobs["score"].data[:8].copy())
        if it % every == every - 1:
            correct = 0
            for _ in range(2):
                solver.test_nets[0].forward()
                guesses = solver.test_nets[0].blobs["score"].data.argmax(1)
                correct += int((guesses == solver.test_nets[0].blobs["label"].data).sum())
            test_accuracy.append(correct / 30)
    assert train_loss[-5:].mean() < 0.2 * train_loss[0]
    assert test_accuracy[-1] > 0.9
    assert not np.array_equal(scores[0], scores[-1])
    assert np.abs(solver.net.params["conv1"][0].diff).sum() > 0
