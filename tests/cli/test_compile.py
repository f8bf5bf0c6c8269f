"""`netc compile` shows the program that a net becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.cuda.emulator.compiler import why_unavailable
from netc.cli.main import main

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "nowhere" batch_size: 4 } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SHAPES = "data:4,3,12,12;label:4"


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "net.prototxt").write_text(NET)
    return str(tmp_path / "net.prototxt")


def listing(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["compile", "-shape", SHAPES, "-json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed")
def test_the_program_on_the_cpu(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = listing(capsys, "-model", model)
    forward = [step for step in found["steps"] if step["direction"] == "forward"]
    assert forward[0]["layers"] == ["conv", "relu"]
    assert forward[0]["variant"].startswith("onednn ")
    assert forward[0]["multiply_adds"] == 4 * 8 * 10 * 10 * 27
    assert found["arena_bytes"] < found["unshared_bytes"]
    assert found["parameter_bytes"] >= 4 * (8 * 27 + 8 + 3 * 200 + 3)


@pytest.mark.skipif(why_unavailable() is not None, reason=f"no emulator: {why_unavailable()}")
def test_the_program_on_the_device_names_its_kernels(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = listing(capsys, "-model", model, "-gpu", "emulated")
    kernels = [kernel for step in found["steps"] for kernel in step["kernels"]]
    assert any(kernel.startswith("conv") for kernel in kernels)
    assert all(step["kernels"] for step in found["steps"] if step["variant"] not in ("reference", "fill"))


def test_each_choice_can_be_left(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    apart = listing(capsys, "-model", model, "-without", "fuse,memory,layout")
    assert ["conv"] in [step["layers"] for step in apart["steps"]]
    assert apart["arena_bytes"] == apart["unshared_bytes"]
    assert all(step["layouts"] in (["plain"], []) for step in apart["steps"])
    assert main(["compile", "-model", model, "-without", "hope"]) == 2
    assert "names no step" in capsys.readouterr().err


def test_the_table_shows_steps_only_when_asked(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "-model", model, "-shape", SHAPES]) == 0
    brief = capsys.readouterr().out
    assert main(["compile", "-model", model, "-shape", SHAPES, "-dump"]) == 0
    full = capsys.readouterr().out
    assert "without sharing" in brief
    assert "conv" not in brief
    assert "SoftmaxWithLoss" in full
