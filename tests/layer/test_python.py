"""Python layers: the user's class on live views, its shapes, its parameters, its errors."""

from __future__ import annotations

import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import NetcError
from netc.layer.blob import LayerBlobs
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.layer.gradient_check import check_gradients

RNG = np.random.default_rng(13)

LAYERS = '''
import numpy as np


class Base:
    """Every method does nothing; calls are counted."""

    def __init__(self, param):
        self.layer_param = param
        self.calls = []

    def setup(self, bottom, top):
        self.calls.append("setup")

    def reshape(self, bottom, top):
        self.calls.append("reshape")

    def forward(self, bottom, top):
        self.calls.append("forward")

    def backward(self, top, propagate_down, bottom):
        self.calls.append("backward")


class TimesParam(Base):
    """y = x times param_str."""

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.factor = float(self.param_str)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        super().backward(top, propagate_down, bottom)
        self.propagate_down = propagate_down
        bottom[0].diff[...] = self.factor * top[0].diff


class Distance(Base):
    """Half the squared distance of two bottoms, by item; keeps the difference, as layers do."""

    def setup(self, bottom, top):
        if len(bottom) != 2:
            raise ValueError("two bottoms are needed")

    def reshape(self, bottom, top):
        if bottom[0].count != bottom[1].count:
            raise ValueError("the bottoms differ")
        self.difference = np.zeros_like(bottom[0].data)
        top[0].reshape(1)

    def forward(self, bottom, top):
        self.difference[...] = bottom[0].data - bottom[1].data
        top[0].data[...] = np.sum(self.difference**2) / bottom[0].num / 2.0

    def backward(self, top, propagate_down, bottom):
        for i, sign in enumerate((1, -1)):
            if propagate_down[i]:
                bottom[i].diff[...] = sign * self.difference * top[0].diff / bottom[i].num


class Positive(Base):
    """The rows whose sum is positive: the shape is known in forward."""

    def setup(self, bottom, top):
        top[0].reshape(1, bottom[0].channels)

    def forward(self, bottom, top):
        super().forward(bottom, top)
        self.rows = bottom[0].data.sum(axis=1) > 0
        top[0].reshape(int(self.rows.sum()), bottom[0].channels)
        top[0].data[...] = bottom[0].data[self.rows]

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[self.rows] = top[0].diff


class TwoTops(Base):
    """A top of one shape, and one whose length is the first value."""

    def setup(self, bottom, top):
        top[0].reshape(2)
        top[1].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = [3, 4]
        top[1].reshape(int(bottom[0].data[0]))
        top[1].data[...] = 5

    def backward(self, top, propagate_down, bottom):
        pass


class Weighted(Base):
    """y = w x, with w a parameter that starts at 1, 2, 3."""

    def setup(self, bottom, top):
        weights = self.blobs.add_blob(bottom[0].shape[1])
        weights.data[...] = np.arange(bottom[0].shape[1]) + 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum(axis=0)
        if propagate_down[0]:
            bottom[0].diff[...] = top[0].diff * self.blobs[0].data


class Counter(Base):
    """A data layer: two items that count on."""

    def setup(self, bottom, top):
        self.at = 0

    def reshape(self, bottom, top):
        top[0].reshape(2)

    def forward(self, bottom, top):
        top[0].data[...] = [self.at, self.at + 1]
        self.at += 2


class Phase(Base):
    def reshape(self, bottom, top):
        top[0].reshape()

    def forward(self, bottom, top):
        top[0].data[...] = self.phase


class Broken(Base):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        raise RuntimeError("broken on purpose")


class BrokenSetup(Base):
    def setup(self, bottom, top):
        raise KeyError("nothing to set up")


class Unfinished:
    def setup(self, bottom, top):
        pass


CONSTANT = 3
'''
X = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }'


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The layers above as a module of a name of its own, on the path."""
    name = f"layers_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def python(module: str, layer: str, wiring: str, more: str = "") -> str:
    return f"""layer {{ name: "{layer}" type: "Python" {wiring}
      python_param {{ module: "{module}" layer: "{layer}" {more} }} }}"""


def net_of(*layers: str, phase: int = pb.TRAIN, **options: Any) -> Net:
    parsed = parse_text("\n".join(layers), pb.NetParameter, "net.prototxt")
    return Net(parsed.message, phase, seed=1, positions=parsed.positions, **options)


def user_layer(net: Net, name: str) -> Any:
    return next(node.layer.user_layer for node in net.graph.nodes if node.name == name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("keep", ["all", "outputs"])
def test_a_layer_reads_and_writes_the_nets_memory(module: str, keep: str) -> None:
    times = python(module, "TimesParam", 'bottom: "x" top: "y"', 'param_str: "-2.5"')
    net = net_of("force_backward: true", X, times, keep=keep)
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    net.blobs["x"].data[...] = x
    net.forward()
    np.testing.assert_array_equal(net.blobs["y"].data, -2.5 * x)
    if keep == "all":
        net.blobs["y"].diff[...] = x
        net.backward()
        np.testing.assert_array_equal(net.blobs["x"].diff, -2.5 * x)
        assert user_layer(net, "TimesParam").propagate_down == [True]


def test_the_object_is_made_once_and_reshape_runs_in_every_pass(module: str) -> None:
    net = net_of(X, python(module, "TimesParam", 'bottom: "x" top: "y"', 'param_str: "1"'))
    made = user_layer(net, "TimesParam")
    assert made.calls == ["setup", "reshape"]
    net.forward()
    net.forward()
    assert made.calls[2:] == ["reshape", "forward"] * 2
    net.blobs["x"].reshape(2, 5)
    net.forward()
    assert user_layer(net, "TimesParam") is made
    assert made.calls.count("setup") == 1
    assert net.blobs["y"].shape == (2, 5)


def test_a_loss_in_python_has_its_slopes(module: str) -> None:
    text = "\n".join(
        [
            "force_backward: true",
            X,
            X.replace('"x"', '"t"'),
            python(module, "Distance", 'bottom: "x" bottom: "t" top: "loss" loss_weight: 0.7'),
        ]
    )
    check_gradients(text)


@pytest.mark.parametrize("memory", [{"keep": "all"}, {"keep": "outputs"}], ids=str)
def test_tops_may_get_their_shapes_in_forward(module: str, memory: dict[str, Any]) -> None:
    net = net_of(
        "force_backward: true",
        X,
        python(module, "TimesParam", 'bottom: "x" top: "t"', 'param_str: "2"'),
        python(module, "Positive", 'bottom: "t" top: "rows"'),
        'layer { name: "loss" type: "Reduction" bottom: "rows" top: "loss" loss_weight: 1',
        "  reduction_param { operation: SUMSQ } }",
        **memory,
    )
    for positive in (2, 0, 4, 1, 2):
        x = np.abs(RNG.standard_normal((4, 3)))
        x[positive:] *= -1
        net.blobs["x"].data[...] = x
        loss = net.forward()
        assert loss == pytest.approx(4 * (x[:positive] ** 2).sum(), rel=1e-5)
        net.backward()
        np.testing.assert_allclose(net.blobs["x"].diff, np.where(x > 0, 8 * x, 0), rtol=1e-5)
    calls = user_layer(net, "Positive").calls
    assert calls.count("forward") == 5


def test_what_a_layer_keeps_outlives_the_change_of_a_later_layers_shape(module: str) -> None:
    net = net_of(
        "force_backward: true",
        X,
        X.replace('"x"', '"t"'),
        'layer { name: "keep" type: "Input" top: "keep" input_param { shape { dim: 4 } } }',
        python(module, "Distance", 'bottom: "x" bottom: "t" top: "loss" loss_weight: 1'),
        'layer { name: "filter" type: "Filter" bottom: "x" bottom: "keep" top: "y" }',
    )
    net.blobs["x"].data[...] = 3
    net.forward()
    net.backward()
    np.testing.assert_allclose(net.blobs["x"].diff, 3 / 4)


def test_a_top_of_the_same_shape_survives_the_change_of_another(module: str) -> None:
    one = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    net = net_of(one, python(module, "TwoTops", 'bottom: "x" top: "a" top: "b"'), keep="outputs")
    for length in (1, 600, 3):
        net.blobs["x"].data[...] = length
        net.forward()
        assert net.blobs["a"].data.tolist() == [3, 4]
        assert net.blobs["b"].data.tolist() == [5] * length


def test_parameters_are_the_nets(module: str, tmp_path: Path) -> None:
    text = [X, python(module, "Weighted", 'bottom: "x" top: "y" param { lr_mult: 2 }')]
    net = net_of("force_backward: true", *text)
    blobs = user_layer(net, "Weighted").blobs
    assert isinstance(blobs, LayerBlobs)
    assert net.params["Weighted"][0].data.tolist() == [1, 2, 3]
    assert net.parameters.segments[0].lr_mult == 2
    net.params["Weighted"][0].data[...] = [4, 5, 6]
    assert blobs[0].data.tolist() == [4, 5, 6]
    net.blobs["x"].data[...] = 1
    net.forward()
    net.blobs["y"].diff[...] = 1
    net.backward()
    net.backward()
    assert net.params["Weighted"][0].diff.tolist() == [8, 8, 8]
    assert np.shares_memory(blobs[0].diff, net.parameters.grad)
    net.save(tmp_path / "net.caffemodel")
    again = net_of(*text, weights=str(tmp_path / "net.caffemodel"))
    assert user_layer(again, "Weighted").blobs[0].data.tolist() == [4, 5, 6]


def test_a_test_net_shares_the_parameters(module: str) -> None:
    text = [X, python(module, "Weighted", 'bottom: "x" top: "y"')]
    train = net_of(*text)
    test = net_of(*text, phase=pb.TEST, share_with=train)
    train.params["Weighted"][0].data[...] = 9
    assert user_layer(test, "Weighted").blobs[0].data.tolist() == [9, 9, 9]
    assert user_layer(test, "Weighted") is not user_layer(train, "Weighted")


def test_a_parameter_in_python_has_its_slopes(module: str) -> None:
    check_gradients(
        "\n".join(["force_backward: true", X, python(module, "Weighted", 'bottom: "x" top: "y"')])
    )


def test_a_layer_without_bottoms_is_a_source(module: str) -> None:
    net = net_of(python(module, "Counter", 'top: "x"'), keep="outputs")
    found = []
    for _ in range(3):
        net.forward()
        found += net.blobs["x"].data.tolist()
    assert found == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("phase", [pb.TRAIN, pb.TEST])
def test_a_layer_knows_its_phase(module: str, phase: int) -> None:
    net = net_of(python(module, "Phase", 'top: "phase"'), phase=phase)
    net.forward()
    assert net.blobs["phase"].data == phase


def test_a_layer_may_run_in_place(module: str) -> None:
    copy = 'layer { name: "copy" type: "Power" bottom: "x" top: "y" }'
    times = python(module, "TimesParam", 'bottom: "y" top: "y"', 'param_str: "3"')
    net = net_of("force_backward: true", X, copy, times)
    net.blobs["x"].data[...] = 2
    net.forward()
    assert (net.blobs["y"].data == 6).all()
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert (net.blobs["x"].diff == 3).all()


def test_in_place_a_top_keeps_its_shape(module: str) -> None:
    copy = 'layer { name: "copy" type: "Power" bottom: "x" top: "y" }'
    net = net_of(X, copy, python(module, "Positive", 'bottom: "y" top: "y"'))
    with pytest.raises(NetcError, match="in place cannot give its top another shape"):
        net.forward()


def test_a_gradient_that_is_not_written_is_zero(module: str) -> None:
    one = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 } } }'
    net = net_of("force_backward: true", one, python(module, "TwoTops", 'bottom: "x" top: "a" top: "b"'))
    net.forward()
    net.blobs["x"].diff[...] = 7
    net.backward()
    assert net.blobs["x"].diff.tolist() == [0]


@pytest.mark.parametrize("from_cwd", [True, False], ids=["working_directory", "pythonpath"])
def test_modules_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_cwd: bool) -> None:
    folder, name = tmp_path / "elsewhere", f"found_{tmp_path.name}"
    folder.mkdir()
    (folder / f"{name}.py").write_text(f"import neighbour_{name}\n{LAYERS}")
    (folder / f"neighbour_{name}.py").write_text("")
    monkeypatch.setattr(sys, "path", list(sys.path) if from_cwd else [str(folder), *sys.path])
    if from_cwd:
        monkeypatch.chdir(folder)
    net = net_of(python(name, "Phase", 'top: "phase"'))
    net.forward()
    assert net.blobs["phase"].data == pb.TRAIN


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ('module: "no_such_module" layer: "A"', "there is no Python module 'no_such_module'"),
        ('module: "MODULE" layer: "Postive"', "has no class 'Postive'.*did you mean Positive"),
        ('module: "MODULE" layer: "CONSTANT"', "is no layer"),
        ('module: "./layers.py" layer: "A"', "is no name of a Python module"),
        ('module: "..layers" layer: "A"', "is no name of a Python module"),
        ('module: "MODULE" layer: "Unfinished"', "is no layer.*no reshape, forward, backward"),
        ('layer: "A"', "python_param has no module"),
        ('module: "MODULE"', "python_param has no layer"),
    ],
)
def test_a_layer_that_cannot_be_made_is_named_with_its_line(module: str, param: str, message: str) -> None:
    layer = f'layer {{ name: "p" type: "Python" top: "y"\npython_param {{ {param} }} }}'
    with pytest.raises(NetcError, match=f"(?s){message}") as caught:
        net_of(layer.replace("MODULE", module))
    assert "net.prototxt:2" in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "error", "method"), [("Broken", RuntimeError, "forward"), ("BrokenSetup", KeyError, "setup")]
)
def test_the_users_exception_arrives_as_it_is(module: str, layer: str, error: Any, method: str) -> None:
    with pytest.raises(error) as caught:
        net_of(X, python(module, layer, 'bottom: "x" top: "y"')).forward()
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].filename.endswith(f"{module}.py")
    assert frames[-1].name == method
    note = f"in {method} of the Python layer '{layer}' (net.prototxt:2)"
    assert caught.value.in_python_layer.startswith(note[:-1])  # type: ignore[attr-defined]
    if sys.version_info >= (3, 11):
        assert any(line.startswith(note[:-1]) for line in caught.value.__notes__)


def test_an_exception_leaves_the_net_usable(module: str) -> None:
    net = net_of(X, X.replace('"x"', '"t"'), python(module, "Distance", 'bottom: "x" bottom: "t" top: "d"'))
    net.blobs["t"].reshape(2, 3)
    with pytest.raises(ValueError, match="the bottoms differ"):
        net.forward()
    net.blobs["t"].reshape(4, 3)
    net.blobs["t"].data[...] = 2
    net.forward()
    assert net.blobs["d"].data == 6


def test_a_module_that_cannot_import_says_which_is_missing(tmp_path: Path) -> None:
    name = f"importing_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent("import a_module_that_is_not_there\n"))
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        net_of(python(name, "A", 'top: "y"'))


def test_an_unknown_layer_type_says_what_a_python_layer_needs() -> None:
    with pytest.raises(NetcError, match="unknown layer type") as caught:
        net_of('layer { name: "y" type: "Convolutoin" top: "y" }')
    for part in ("did you mean Convolution", "netc.Layer", "setup(bottom, top)", "propagate_down"):
        assert part in str(caught.value)
