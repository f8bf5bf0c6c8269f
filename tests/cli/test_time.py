"""`netc time`: Caffe's lines in Caffe's order, and a table beside them."""

import json
import re
from pathlib import Path

import pytest

from netc.cli.main import main

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
NUMBER = re.compile(r"(?<![\w.])-?\d+(\.\d+)?(e[-+]\d+)?(?![\w.])")


def lines_from_the_net_on(log: str) -> list[str]:
    """Source and message of each line behind the net's building, numbers blotted out."""
    found = [
        re.sub(r"^.\d+ \S+ +\d+ ", "", line) for line in log.splitlines() if re.match(r"[IWE]\d{4}", line)
    ]
    start = next(i for i, line in enumerate(found) if "Performing Forward" in line)
    return [NUMBER.sub("N", line) for line in found[start:]]


def test_the_log_is_caffes_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDEN)
    assert main(["time", "--model=train_net.prototxt", "--iterations=3"]) == 0
    caffe = (GOLDEN / "caffe_time.log").read_text()
    assert lines_from_the_net_on(capsys.readouterr().err) == lines_from_the_net_on(caffe)


def test_the_figures_hang_together(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(GOLDEN)
    assert (
        main(
            [
                "time",
                "-model",
                "train_net.prototxt",
                "-iterations=4",
                "-json",
                "-weights",
                "conv_init.caffemodel",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert [layer["name"] for layer in found["layers"]] == ["data", "conv1", "pool1", "relu1", "ip1", "loss"]
    for layer in found["layers"]:
        for way in ("forward", "backward"):
            times = layer[way]
            assert 0 < times["min_ms"] <= times["median_ms"] <= times["max_ms"]
    total = sum(layer["forward"]["mean_ms"] for layer in found["layers"])
    assert total == pytest.approx(found["forward"]["mean_ms"])
    conv = found["layers"][1]
    assert conv["forward"]["multiply_adds"] == 8 * 4 * 8 * 7 * 9
    assert conv["backward"]["multiply_adds"] == 8 * 4 * 8 * 7 * 9  # the weights' gradient; data takes none
    assert found["layers"][4]["backward"]["multiply_adds"] == 2 * 8 * 4 * 64
    flops = 2 * conv["forward"]["multiply_adds"]
    assert conv["forward"]["gflops"] == pytest.approx(flops / conv["forward"]["median_ms"] / 1e6)


def test_the_phase_is_taken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    assert main(["time", "-model", "train_net.prototxt", "-iterations=1", "-phase=TEST"]) == 0
    assert any(line.startswith("acc ") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "-model is missing"), (["-model", "x", "-iterations", "0"], "must be positive")],
)
def test_usage_errors(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", *arguments]) == 2
    assert said in capsys.readouterr().err
