"""`-memory_limit` in `netc train` and `netc time`: the same numbers in less memory, or a message."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from netc.cli.main import main
from netc.schema.weights import read_weights

NET = """
name: "deep"
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
  dummy_data_param { shape { dim: 4 dim: 3 dim: 20 dim: 20 } shape { dim: 4 }
    data_filler { type: "gaussian" } data_filler { type: "uniform" max: 3.9 } } }
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TEST }
  dummy_data_param { shape { dim: 2 dim: 3 dim: 20 dim: 20 } shape { dim: 2 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "a" type: "TanH" bottom: "conv" top: "a" }
layer { name: "drop" type: "Dropout" bottom: "a" top: "b" }
layer { name: "norm" type: "BatchNorm" bottom: "b" top: "c" }
layer { name: "d" type: "Sigmoid" bottom: "c" top: "d" }
layer { name: "e" type: "LRN" bottom: "d" top: "e" }
layer { name: "f" type: "TanH" bottom: "e" top: "f" }
layer { name: "g" type: "Sigmoid" bottom: "f" top: "g" }
layer { name: "pool" type: "Pooling" bottom: "g" top: "pool" pooling_param { kernel_size: 3 stride: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" max_iter: 6 snapshot_prefix: "PREFIX"
test_interval: 2 test_iter: 1 display: 1 random_seed: 7
"""
SIZES = re.compile(r"Program of net 'deep': ([\d,]+) bytes")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(folder: Path, name: str, *flags: str) -> int:
    (folder / f"{name}.prototxt").write_text(SOLVER.replace("PREFIX", name))
    return main(["train", "-solver", f"{name}.prototxt", *flags])


def arena_bytes(log: str) -> int:
    """The train net's."""
    found = SIZES.search(log)
    assert found is not None
    return int(found[1].replace(",", ""))


def test_training_in_less_memory_gives_the_same_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, "whole") == 0
    whole = arena_bytes(capsys.readouterr().err)
    assert train(folder, "less", "-memory_limit", f"{0.85 * whole / 1024:.3f}KiB") == 0
    log = capsys.readouterr().err
    assert arena_bytes(log) <= 0.85 * whole
    assert f"{whole:,} bytes without that" in log
    expected, found = (read_weights(f"{name}_iter_6.caffemodel") for name in ("whole", "less"))
    assert expected.keys() == found.keys()
    for layer, arrays in expected.items():
        for one, other in zip(arrays, found[layer], strict=True):
            np.testing.assert_array_equal(other, one)


def test_a_limit_that_is_too_small_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "tiny", "-memory_limit", "10KB") == 1
    error = capsys.readouterr().err
    assert "do not fit into the memory limit" in error
    assert "at most 10,000 bytes" in error
    assert "net.prototxt:" in error


def test_times_are_those_of_all_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", "-model", "net.prototxt", "-iterations", "2"]) == 0
    whole = arena_bytes(capsys.readouterr().err)
    flags = ["-iterations", "2", "-memory_limit", str(int(0.85 * whole))]
    assert main(["time", "-model", "net.prototxt", *flags]) == 0
    shown = capsys.readouterr()
    assert arena_bytes(shown.err) <= 0.85 * whole
    assert "norm" in shown.out
