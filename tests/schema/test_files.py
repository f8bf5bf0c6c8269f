"""Weights, means and solver states: Caffe's files are read, and files are written as Caffe writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.blobs import array_to_blob, blob_to_array, read_blob, read_mean, write_mean
from netc.schema.layer_keys import Namesake
from netc.schema.net import parse_net
from netc.schema.state import SolverState, check_state_size, read_state, write_state
from netc.schema.weights import check_binary_size, read_weights, same_shape, write_weights

SNAPSHOTS = ["SGD__conv_iter_12", "Nesterov__conv_iter_12", "Adam__conv_iter_12"]
MODELS = [*SNAPSHOTS, "bn_init", "conv_init", "mlp_init", "shared_init"]
DEFINITION = """
layer { name: "a" type: "InnerProduct" bottom: "x" inner_product_param { num_output: 2 } phase: TEST }
layer { name: "b/1" type: "InnerProduct" bottom: "y" top: "z" include { phase: TEST } }
layer { name: "r" type: "ReLU" }
"""


def parse_plain(path: Path, message: object) -> object:
    message.ParseFromString(path.read_bytes())  # type: ignore[attr-defined]
    return message


def weights_of(net: pb.NetParameter) -> dict[str, list[np.ndarray]]:
    layers = [*net.layer, *net.layers]
    return {layer.name: [blob_to_array(blob) for blob in layer.blobs] for layer in layers if layer.blobs}


def assert_same(found: dict[str, list[np.ndarray]], wanted: dict[str, list[np.ndarray]]) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        for one, other in zip(found[name], wanted[name], strict=True):
            assert one.dtype == np.float32
            assert one.flags.writeable
            np.testing.assert_array_equal(one, other, strict=True)


@pytest.fixture
def net() -> pb.NetParameter:
    return parse_net(DEFINITION).message


@pytest.fixture
def weights() -> dict[str, list[np.ndarray]]:
    draw = np.random.default_rng(0)
    shapes = {"a": [(2, 3), (2,)], "b/1": [(), (0, 4)]}
    return {name: [draw.random(shape).astype(np.float32) for shape in own] for name, own in shapes.items()}


# Weights


@pytest.mark.parametrize("name", MODELS)
def test_caffes_models_are_read(golden: Path, name: str) -> None:
    path = golden / "solvers" / f"{name}.caffemodel"
    wanted = weights_of(parse_plain(path, pb.NetParameter()))
    assert wanted
    assert_same(read_weights(path), wanted)


@pytest.mark.parametrize("name", MODELS)
def test_binary_weights_are_written_as_caffe_writes_them(golden: Path, tmp_path: Path, name: str) -> None:
    path = golden / "solvers" / f"{name}.caffemodel"
    written = tmp_path / "out.caffemodel"
    write_weights(written, parse_plain(path, pb.NetParameter()), read_weights(path))
    assert written.read_bytes() == path.read_bytes()


def tree_of(path: Path) -> dict[str, tuple[object, ...]]:
    tree: dict[str, tuple[object, ...]] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            tree[name] = (
                item.shape,
                item.id.get_type().get_class(),
                item.id.get_type().get_size(),
                item[()].tobytes(),
            )
        else:
            tree[name] = ()

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return tree


@pytest.mark.parametrize("name", ["shared_init", "bn_init", "SGD__conv_iter_12"])
def test_hdf5_weights_are_written_as_caffe_writes_them(golden: Path, tmp_path: Path, name: str) -> None:
    # shared_init: layer b has the parameters of a, and no data sets of its own.
    binary = golden / "solvers" / f"{name}.caffemodel"
    written = tmp_path / "out.caffemodel.h5"
    write_weights(written, parse_plain(binary, pb.NetParameter()), read_weights(binary))
    assert tree_of(written) == tree_of(golden / "solvers" / f"{name}.caffemodel.h5")


def test_hdf5_weights_are_read_without_the_shared_ones(golden: Path) -> None:
    wanted = read_weights(golden / "solvers/shared_init.caffemodel")
    del wanted["b"]
    assert_same(read_weights(golden / "solvers/shared_init.caffemodel.h5"), wanted)


def test_v1_weights_keep_their_four_axes(golden: Path) -> None:
    path = golden / "upgrade/legacy_model_v1.caffemodel"
    found = read_weights(path)
    assert_same(found, weights_of(parse_plain(path, pb.NetParameter())))
    assert {array.ndim for arrays in found.values() for array in arrays} == {4}


def test_v0_weights_are_read(tmp_path: Path) -> None:
    net = pb.NetParameter()
    inner = net.layers.add().layer
    inner.name = "conv"
    inner.blobs.append(array_to_blob([[1, 2]]))
    path = tmp_path / "v0.caffemodel"
    path.write_bytes(net.SerializeToString())
    assert_same(read_weights(path), {"conv": [np.array([[1, 2]], np.float32)]})


@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_written_weights_read_back(
    tmp_path: Path, net: pb.NetParameter, weights: dict[str, list[np.ndarray]], name: str
) -> None:
    write_weights(tmp_path / name, net, weights)
    assert_same(read_weights(tmp_path / name), weights)


def test_the_content_decides_and_not_the_name(
    tmp_path: Path, net: pb.NetParameter, weights: dict[str, list[np.ndarray]]
) -> None:
    write_weights(tmp_path / "w.caffemodel", net, weights, hdf5=True)
    write_weights(tmp_path / "w.h5", net, weights, hdf5=False)
    assert_same(read_weights(tmp_path / "w.caffemodel"), weights)
    assert_same(read_weights(tmp_path / "w.h5"), weights)


def test_old_blobs_in_the_definition_are_not_written(
    tmp_path: Path, net: pb.NetParameter, weights: dict[str, list[np.ndarray]]
) -> None:
    net.layer[0].blobs.append(array_to_blob([7]))
    write_weights(tmp_path / "w.caffemodel", net, weights)
    assert_same(read_weights(tmp_path / "w.caffemodel"), weights)
    assert len(net.layer[0].blobs) == 1


def test_gradients_stand_beside_the_weights(
    tmp_path: Path, net: pb.NetParameter, weights: dict[str, list[np.ndarray]]
) -> None:
    diffs = {name: [array + 1 for array in arrays] for name, arrays in weights.items()}
    write_weights(tmp_path / "w.caffemodel", net, weights, diffs=diffs)
    assert_same(read_weights(tmp_path / "w.caffemodel"), weights)
    stored = parse_plain(tmp_path / "w.caffemodel", pb.NetParameter())
    np.testing.assert_array_equal(blob_to_array(stored.layer[0].blobs[0], diff=True), diffs["a"][0])
    write_weights(tmp_path / "w.h5", net, weights, diffs=diffs)
    with h5py.File(tmp_path / "w.h5") as file:
        np.testing.assert_array_equal(file["diff/a/0"][()], diffs["a"][0])


def test_layers_of_one_name_are_written_and_read_in_their_order(tmp_path: Path) -> None:
    net = parse_net('layer { name: "a" } layer { name: "b" } layer { name: "a" } layer { name: "a" }').message
    weights = {
        "a": [np.full(1, 1)],
        "b": [],
        Namesake("a", 2): [np.full(2, 2)],
        Namesake("a", 3): [np.full(3, 3)],
    }
    write_weights(tmp_path / "w.caffemodel", net, weights)
    stored = parse_plain(tmp_path / "w.caffemodel", pb.NetParameter())
    assert [[list(blob.data) for blob in layer.blobs] for layer in stored.layer] == [
        *([[1]], []),
        *([[2, 2]], [[3, 3, 3]]),
    ]
    read = read_weights(tmp_path / "w.caffemodel")
    assert {layer: array.tolist() for layer, (array,) in read.items()} == {
        "a": [1],
        ("a", 2): [2, 2],
        ("a", 3): [3, 3, 3],
    }
    with pytest.raises(ValueError, match="a#4"):
        write_weights(tmp_path / "w.caffemodel", net, {Namesake("a", 4): [np.zeros(1)]})


def test_hdf5_with_two_layers_of_one_name_is_refused_whole(tmp_path: Path) -> None:
    net = parse_net('layer { name: "a" } layer { name: "a" }').message
    with pytest.raises(NetcError, match="two layers of one name") as caught:
        write_weights(tmp_path / "w.h5", net, {"a": [np.zeros(1)], Namesake("a", 2): [np.zeros(1)]})
    assert (caught.value.layer, list(tmp_path.iterdir())) == ("a", [])


def test_weights_of_a_layer_that_the_net_lacks_are_refused(tmp_path: Path, net: pb.NetParameter) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        write_weights(tmp_path / "w.caffemodel", net, {"nowhere": []})


def test_a_name_that_hdf5_cannot_hold_is_refused_whole(tmp_path: Path) -> None:
    net = parse_net('layer { name: "a" } layer { name: "a/0" }').message
    with pytest.raises(NetcError, match="HDF5 cannot hold") as caught:
        write_weights(tmp_path / "w.h5", net, {"a": [np.zeros(1)], "a/0": [np.zeros(1)]})
    assert caught.value.layer == "a/0"
    assert list(tmp_path.iterdir()) == []


def packed(*fields: bytes) -> bytes:
    return b"".join(fields)


def message(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    assert number < 16
    return bytes([number << 3 | 2, len(content)]) + content


def layer(*fields: bytes) -> bytes:
    content = message(1, b"a") + packed(*fields)
    return b"\xa2\x06" + bytes([len(content)]) + content


ONES = np.array([1, 2], "<f4")


@pytest.mark.parametrize(
    "blob",
    [
        message(5, ONES.tobytes()) + message(7, message(1, b"\x02")),
        message(7, b"\x08\x02") + message(5, ONES.tobytes()),
        message(7, message(1, b"\x02")) + b"".join(b"\x2d" + one.tobytes() for one in ONES),
        message(7, message(1, b"\x02")) + message(5, ONES[:1].tobytes()) + b"\x2d" + ONES[1].tobytes(),
        message(7, message(1, b"\x02")) + message(5, ONES[:1].tobytes()) + message(5, ONES[1:].tobytes()),
        message(7, message(1, b"\x02")) + message(8, ONES.astype("<f8").tobytes()),
        message(7, message(1, b"\x02")) + b"".join(b"\x41" + one.tobytes() for one in ONES.astype("<f8")),
        message(7, message(1, b"\x02"))
        + message(5, b"")
        + message(14, b"other")
        + message(5, ONES.tobytes()),
        b"\x20\x02\x08\x01\x10\x01\x18\x01" + message(5, ONES.tobytes()) + message(7, message(1, b"\x09")),
    ],
    ids=[
        "packed",
        "unpacked dim",
        "unpacked",
        "mixed",
        "pieces",
        "double",
        "unpacked double",
        "unknown",
        "legacy",
    ],
)
def test_every_way_to_write_a_blob_is_read(tmp_path: Path, blob: bytes) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(layer(message(7, blob)))
    (array,) = read_weights(path)["a"]
    np.testing.assert_array_equal(array.reshape(-1), ONES)
    assert array.shape in ((2,), (1, 1, 1, 2))


def test_long_unpacked_arrays_are_read(tmp_path: Path) -> None:
    values = np.arange(5000, dtype="<f4")
    blob = pb.BlobProto()
    blob.shape.dim.append(5000)
    content = blob.SerializeToString() + b"".join(b"\x2d" + value.tobytes() for value in values) + b"\x30\x00"
    (tmp_path / "blob").write_bytes(content[:-2])
    np.testing.assert_array_equal(read_blob(tmp_path / "blob"), values)


def test_fields_that_forks_use_otherwise_are_passed_over(tmp_path: Path) -> None:
    blob = message(5, ONES.tobytes()) + message(7, message(1, b"\x02"))
    path = tmp_path / "w.caffemodel"
    # Numbers and strings where BVLC has messages, and a name for the net that is not UTF-8.
    path.write_bytes(message(1, b"\xff") + layer(b"\x50\x09", message(6, b"\xff\xff"), message(7, blob)))
    np.testing.assert_array_equal(read_weights(path)["a"][0], ONES)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (layer()[:-1], "past its end"),
        (
            layer(message(7, message(7, message(1, b"\x03")) + message(5, ONES.tobytes()))),
            "2 numbers, its shape is 3",
        ),
        (layer(message(7, message(5, b"\0\0\0"))), "within an element"),
        (layer(message(7, message(5, ONES.tobytes())[:-4])), "past its end"),
        (layer(message(7, message(7, message(1, b"\xff" * 9 + b"\x01")))), "its shape is -1"),
        (layer(message(7, message(7, message(1, b"\x01" * 40)))), "axes"),
        (layer(message(7, message(7, message(1, b"\xff" * 8 + b"\x7f\0")))), "0 numbers, its shape is 9"),
        (b"\xa2\x06\xff\xff\xff\xff\xff\x7f", "past its end"),
        (b"\x0b", "wire type"),
        (b"\xff" * 20, "too long"),
        (b"\0\0", "field number 0"),
        (b'name: "a"', "no whole .caffemodel"),
        (message(1, b"net"), "no layers"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "HDF5 file cannot be read"),
    ],
)
def test_damaged_weights_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.caffemodel"
    path.write_bytes(content)
    with pytest.raises(NetcError, match=words) as caught:
        read_weights(path)
    assert str(caught.value.at) == str(path)


def test_one_kind_of_file_is_not_taken_for_another(golden: Path) -> None:
    model, state = (
        golden / "solvers" / f"SGD__conv_iter_12.{kind}" for kind in ("caffemodel", "solverstate")
    )
    mean = golden / "imageset/resize_color.mean.binaryproto"
    cases: list[tuple[Callable[[Path], object], Path, str]] = [
        (read_weights, state, "solver state"),
        (read_weights, mean, "mean"),
        (read_weights, state.with_suffix(".solverstate.h5"), "a group named data"),
        (read_state, model, "of a net"),
        (read_state, model.with_suffix(".caffemodel.h5"), "no solver state"),
        (read_mean, model, "BlobProto"),
    ]
    for read, path, words in cases:
        with pytest.raises(NetcError, match=words):
            read(path)


def test_a_caffemodel_past_two_gib_is_refused_before_it_is_made(net: pb.NetParameter) -> None:
    check_binary_size(net, {"a": [(2**29 - 100,)]})
    with pytest.raises(NetcError, match=r"at most 2,147,483,647 bytes(.|\n)*snapshot_format: HDF5"):
        check_binary_size(net, {"a": [(2**29,)]})
    with pytest.raises(NetcError, match="too large"):
        check_binary_size(net, {"a": [(2**28,)]}, diff=True)
    check_state_size([(2**28,)])
    with pytest.raises(NetcError, match="snapshot_format: HDF5"):
        check_state_size([(2**28,), (2**28,)])


def test_axes_that_old_files_add_do_not_count() -> None:
    assert same_shape((1, 1, 3, 4), (3, 4))
    assert same_shape((3, 4), (3, 4))
    assert not same_shape((1, 3, 4, 1), (3, 4))
    assert not same_shape((4, 3), (3, 4))
    assert not same_shape((1, 3, 4), (3, 4))


# Solver states


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_caffes_solver_states_are_read_and_written_alike(golden: Path, tmp_path: Path, name: str) -> None:
    path = golden / "solvers" / f"{name}.solverstate"
    plain = parse_plain(path, pb.SolverState())
    binary, hdf5 = read_state(path), read_state(f"{path}.h5")
    assert (binary.iteration, binary.current_step) == (plain.iter, plain.current_step) == (12, 0)
    assert (hdf5.iteration, hdf5.current_step) == (12, 0)
    assert binary.learned_net == plain.learned_net == f"{name}.caffemodel"
    assert hdf5.learned_net == f"{name}.caffemodel.h5"
    assert_same({"h": binary.history}, {"h": [blob_to_array(blob) for blob in plain.history]})
    assert_same({"h": hdf5.history}, {"h": binary.history})
    write_state(tmp_path / "s.solverstate", binary)
    assert (tmp_path / "s.solverstate").read_bytes() == path.read_bytes()
    write_state(tmp_path / "s.solverstate.h5", hdf5)
    assert tree_of(tmp_path / "s.solverstate.h5") == tree_of(Path(f"{path}.h5"))


@pytest.mark.parametrize("name", ["s.solverstate", "s.solverstate.h5"])
def test_solver_states_read_back(tmp_path: Path, name: str) -> None:
    state = SolverState(7, "snaps/é.caffemodel", [np.ones((2, 3), np.float32), np.zeros((), np.float32)], 3)
    write_state(tmp_path / name, state)
    found = read_state(tmp_path / name)
    assert (found.iteration, found.learned_net, found.current_step) == (7, "snaps/é.caffemodel", 3)
    assert_same({"h": found.history}, {"h": state.history})


def test_a_history_lies_in_one_piece_of_memory(tmp_path: Path) -> None:
    """The memory of many arrays would stay with the process when they are gone."""
    state = SolverState(history=[np.full((3, size), size, np.float32) for size in (4, 0, 70_000, 1)])
    write_state(tmp_path / "s.solverstate", state)
    found = read_state(tmp_path / "s.solverstate").history
    assert_same({"h": found}, {"h": state.history})
    assert len({id(array.base) for array in found}) == 1


def test_a_state_with_a_negative_iteration_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(pb.SolverState(iter=-3).SerializeToString())
    with pytest.raises(NetcError, match="damaged"):
        read_state(tmp_path / "s")


def test_a_history_with_a_gap_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_state(path, SolverState(history=[np.zeros(1, np.float32)] * 3))
    with h5py.File(path, "a") as file:
        del file["history/1"]
    with pytest.raises(NetcError, match="history are missing"):
        read_state(path)


def test_a_data_set_that_claims_more_than_the_file_holds_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    write_state(path, SolverState())
    with h5py.File(path, "a") as file:
        file["history"].create_dataset("0", shape=(2**40,), dtype="f4", chunks=(1024,))
    with pytest.raises(NetcError, match="claims"):
        read_state(path)


# Means


@pytest.mark.parametrize("name", ["resize_color", "resize_gray", "only_height_given"])
def test_means_are_read_and_written_as_caffe_does(golden: Path, tmp_path: Path, name: str) -> None:
    path = golden / "imageset" / f"{name}.mean.binaryproto"
    plain = parse_plain(path, pb.BlobProto())
    mean = read_mean(path)
    assert mean.shape == (plain.channels, plain.height, plain.width)
    np.testing.assert_array_equal(mean, blob_to_array(plain)[0])
    write_mean(tmp_path / "mean", mean)
    assert (tmp_path / "mean").read_bytes() == path.read_bytes()


def test_a_blob_that_is_no_image_is_no_mean(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(array_to_blob(np.zeros((2, 3, 4, 5))).SerializeToString())
    with pytest.raises(NetcError, match="2 x 3 x 4 x 5"):
        read_mean(tmp_path / "m")
