"""`netc compile` shows the program that a net becomes."""

from __future__ import annotations

import json
from itertools import pairwise
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


@pytest.mark.skipif(why_unavailable() is not None, reason=f"no emulator: {why_unavailable()}")
def test_a_layout_can_be_asked_for(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    device = ["-model", model, "-gpu", "emulated", "-math", "tf32"]
    for layout in ("plain", "nhwc"):
        steps = listing(capsys, *device, "-layout", layout)["steps"]
        assert next(step["layouts"][-1] for step in steps if "conv" in step["layers"]) == layout
    assert main(["compile", *device[:4], "-shape", SHAPES, "-layout", "nhwc"]) == 1
    assert "expected: plain" in capsys.readouterr().err


def test_the_table_shows_steps_only_when_asked(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "-model", model, "-shape", SHAPES]) == 0
    brief = capsys.readouterr().out
    assert main(["compile", "-model", model, "-shape", SHAPES, "-dump"]) == 0
    full = capsys.readouterr().out
    assert "without sharing" in brief
    assert "conv" not in brief
    assert "SoftmaxWithLoss" in full


TANHS = 8


def deep_net() -> str:
    """The net with a row of TanH layers between its convolution and its pooling."""
    before, after = NET.split('layer { name: "pool"')
    names = ["conv", *(f"tanh{i}" for i in range(TANHS))]
    row = "".join(
        f'layer {{ name: "{top}" type: "TanH" bottom: "{bottom}" top: "{top}" }}\n'
        for bottom, top in pairwise(names)
    )
    pool = after.replace('bottom: "conv"', f'bottom: "{names[-1]}"')
    return f'{before}{row}layer {{ name: "pool"{pool}'


def test_a_memory_limit_shows_what_is_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tmp_path / "deep.prototxt")
    Path(model).write_text(deep_net())
    whole = listing(capsys, "-model", model)["arena_bytes"]
    limit = f"{0.9 * whole / 1000:.3f}KB"
    found = listing(capsys, "-model", model, "-memory_limit", limit)
    again = [step for step in found["steps"] if step["direction"] == "again"]
    assert found["arena_bytes"] <= 0.9 * whole
    assert found["bytes_without_recompute"] == whole
    assert again
    assert all(step["layers"] for step in again)
    arguments = ["compile", "-model", model, "-shape", SHAPES, "-memory_limit", limit]
    assert main([*arguments, "-dump"]) == 0
    table = capsys.readouterr().out
    assert "computed again: " in table
    assert f"without that {whole:,} bytes" in table
    assert main([*arguments, "-without", "recompute"]) == 1
    assert "do not fit into the memory limit" in capsys.readouterr().err


def test_a_memory_limit_must_be_a_size(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "-model", model, "-memory_limit", "plenty"]) == 2
    assert "1.5GiB" in capsys.readouterr().err
