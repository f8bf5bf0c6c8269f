"""Python layers under the command line: a module in the working directory, and errors in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.cli.main import main

MODULE = """
class Loss:
    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1)

    def forward(self, bottom, top):
        top[0].data[...] = 10 / {divisor} * (bottom[0].data ** 2).sum()

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * bottom[0].data * top[0].diff
"""
NET = """
layer {{ name: "x" type: "DummyData" top: "x" dummy_data_param {{ shape {{ dim: 2 dim: 3 }}
  data_filler {{ value: 1 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: 2
  weight_filler {{ value: 0.5 }} }} }}
layer {{ name: "loss" type: "Python" bottom: "y" top: "loss" loss_weight: 1
  python_param {{ module: "{module}" layer: "Loss" }} }}
"""
SOLVER = (
    'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 3 display: 1 snapshot_after_train: false'
)


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trains on a loss in Python that divides by a number; the exit code."""

    def run(divisor: int) -> int:
        module = f"loss_of_{tmp_path.name}"
        (tmp_path / f"{module}.py").write_text(MODULE.format(divisor=divisor))
        (tmp_path / "net.prototxt").write_text(NET.format(module=module))
        (tmp_path / "solver.prototxt").write_text(SOLVER)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend("")
        return main(["train", "-solver", "solver.prototxt"])

    return run


def test_a_net_trains_on_a_loss_in_python(train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(10) == 0
    assert "Optimization Done." in capsys.readouterr().err


def test_an_error_in_a_python_layer_shows_its_line_and_the_layer(
    train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert train(0) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in said
    assert "in forward of the Python layer 'loss' (net.prototxt:6:1)" in said
    assert f'loss_of_{tmp_path.name}.py", line 10, in forward' in said
    assert "defect" not in said
