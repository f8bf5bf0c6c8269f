"""Published nets give Caffe's numbers: every blob forward, the input's and every parameter's gradient.

Their weights come from a formula; of each array some elements and its mean, deviation and largest are known.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net
from tests.reference.folder import every_file

RELATIVE, ABSOLUTE = 1e-5, 1e-7  # of the largest element, as for the golden cases
FORMS = {"plain": False, "onednn": True}
# oneDNN sums in another order than Caffe's matrix products. Of the 130,000 cells of AlexNet's conv4 one is
# within rounding of zero, and its ReLU falls on the other side. Backward therefore starts from the values of
# the plain forms: each form's gradient is held to Caffe's, at the same bound.
BIAS_SCALE = 0.05


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", every_file("nets/*.npz"))
def test_a_published_net_gives_caffes_numbers(path: Path, form: str) -> None:
    backend = CpuBackend(fast=FORMS[form])
    if form == "onednn" and not backend.forms:
        pytest.skip("oneDNN is not installed")
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    runs_backward = any(name.startswith("topdiff/") for name in case)
    phase = pb.Phase.Value(str(case["phase"]))
    definition = parse_net(str(case["prototxt"])).message
    net = Net(definition, phase, seed=1, backward=runs_backward, backend=backend)
    assert net.layer_names == [str(name) for name in case["layer_names"]]
    assert net.outputs == [str(name) for name in case["outputs"]]
    set_parameters(net, case)
    for name in net.inputs:
        net.blobs[name].data[...] = generator(f"in/{name}").uniform(-1, 1, net.blobs[name].shape)
    net.forward()
    check_blobs(net, case)
    if runs_backward:
        if form == "onednn":
            take_plain_values(net, Net(definition, phase, seed=1, backend=CpuBackend(fast=False)), case)
        for name, values in under(case, "topdiff"):
            net.blobs[name].diff[...] = values
        net.clear_param_diffs()
        net.backward()
        for name, _ in under(case, "gidx"):
            agree(case, "g", name, net.blobs[name].diff)
        for name, _ in under(case, "pgidx"):
            agree(case, "pg", name, parameter(net, name).diff)


def take_plain_values(net: Net, plain: Net, case: dict[str, Any]) -> None:
    """Gives every blob of a net what the plain forms compute, which differs from its own by rounding."""
    set_parameters(plain, case)
    for name in plain.inputs:
        plain.blobs[name].data[...] = net.blobs[name].data
    plain.forward()
    for index, kind in enumerate(net.layer_types):
        if kind == "Pooling":  # it keeps the place of each window's largest value
            copy_blobs(net, plain)
            net.forward_layers(index, index)
    copy_blobs(net, plain)  # of a ReLU in place behind a pooling too


def copy_blobs(net: Net, source: Net) -> None:
    for name, blob in source.blobs.items():
        net.blobs[name].data[...] = blob.data


def set_parameters(net: Net, case: dict[str, Any]) -> None:
    shapes = dict(under(case, "pshape"))
    assert set(shapes) == {f"{name}/{i}" for name, blobs in net.params.items() for i in range(len(blobs))}
    for name, shape in shapes.items():
        blob = parameter(net, name)
        assert list(blob.shape) == list(shape), name
        is_weight = name.endswith("/0") and len(shape) > 1
        scale = np.sqrt(2 / np.prod(shape[1:])) if is_weight else BIAS_SCALE
        blob.data[...] = generator(name).standard_normal(blob.shape) * scale


def check_blobs(net: Net, case: dict[str, Any]) -> None:
    """Each blob's shape and known elements; the net's outputs in full."""
    for name, shape in under(case, "shape"):
        assert list(net.blobs[name].shape) == list(shape), name
        agree(case, "", name, net.blobs[name].data)
    for name, values in under(case, "out"):
        difference = np.abs(net.blobs[name].data - values).max()
        assert difference <= RELATIVE * np.abs(values).max() + ABSOLUTE, f"{name}: differs by {difference:g}"


def agree(case: dict[str, Any], kind: str, name: str, found: Any) -> None:
    """Asserts that the known elements of an array, and its mean, deviation and largest, are found."""
    found = np.asarray(found)
    stats = case[f"{kind}stat/{name}"]
    allowed = RELATIVE * stats[2] + ABSOLUTE
    difference = np.abs(found.ravel()[case[f"{kind}idx/{name}"]] - case[f"{kind}sample/{name}"]).max()
    assert difference <= allowed, f"{kind} {name}: differs by {difference:g}, largest {stats[2]:g}"
    wide = found.astype(np.float64)
    measured = np.array([wide.mean(), wide.std(), np.abs(wide).max()])
    assert np.abs(measured - stats).max() <= allowed, f"{kind} {name}: {measured}, expected {stats}"


def under(case: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """The arrays whose names begin with `prefix/`, by the rest of their names."""
    return [(name[len(prefix) + 1 :], a) for name, a in case.items() if name.startswith(prefix + "/")]


def parameter(net: Net, name: str) -> Any:
    layer, index = name.rsplit("/", 1)
    return net.params[layer][int(index)]


def generator(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))
