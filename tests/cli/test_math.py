"""`-math` on the CPU: what it may be, and what the program then says of its products."""

from __future__ import annotations

from pathlib import Path

import pytest

from netc.backends.cpu import CpuBackend
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


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    (tmp_path / "net.prototxt").write_text(NET)
    return ["compile", "-model", str(tmp_path / "net.prototxt"), "-shape", "data:4,3,12,12;label:4"]


@pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed")
@pytest.mark.parametrize("math", ["fp32", "bf16"])
def test_a_dump_shows_which_steps_multiply_bf16(
    arguments: list[str], math: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-phase", "TRAIN", "-math", math, "-dump"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for type_, multiplies in (("Convolution", True), ("InnerProduct", True), ("Pooling", False)):
        steps = [line for line in lines if f" {type_}" in line]
        assert steps
        assert all(("bf16" in line) == (multiplies and math == "bf16") for line in steps), steps


@pytest.mark.parametrize("math", ["tf32", "fp16"])
def test_other_maths_are_for_gpus(
    arguments: list[str], math: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-math", math]) == 1
    said = capsys.readouterr().err
    assert f"cpu does not compute in '{math}'" in said
    assert "fp32, bf16" in said
