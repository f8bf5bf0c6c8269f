"""`netc lint`: every rule finds what it is for, at its line, and leaves a sound net alone."""

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.cli.main import main
from netc.tools.lint import ALL_RULES, lint_file
from netc.tools.sketch import Request

DATA = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 8 dim: 8 } shape { dim: 4 } } }
"""
CONV = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
"""
SCORES = """
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }\n'
SOUND = DATA + CONV + SCORES + LOSS
IMAGES = """
layer { name: "data" type: "ImageData" top: "data" top: "label"
  transform_param { scale: 0.01 } image_data_param { source: "list.txt" batch_size: 2 shuffle: true } }
"""
MARK = "# here"

# A net for each rule, named after it; what it finds stands in the line that is marked.
CASES = sorted((Path(__file__).parent / "lint_cases").glob("*.prototxt"))


def case(rule: str) -> str:
    """The text of a rule's net."""
    return next(path.read_text() for path in CASES if path.stem == rule)


DUPLICATE = case("duplicate-name")
SOLVER = """
net: "net.prototxt"
base_lr: 0.01
momentum: 0.9
lr_policy: "step"
gamma: 0.1
stepsize: 100
max_iter: 300
snapshot: 100
snapshot_prefix: "snap"
test_iter: 3
test_interval: 100
"""
SOLVERS = [
    ("step-beyond-end", SOLVER.replace("stepsize: 100", "stepsize: 300 # here")),
    ("step-beyond-end", SOLVER.replace('"step"', '"multistep"').replace(
        "stepsize: 100", "stepvalue: 50\nstepvalue: 900 # here")),
    ("unused-policy-field", SOLVER + "power: 0.5 # here"),
    ("no-iterations", SOLVER.replace("max_iter: 300", "")),
    ("high-rate", SOLVER.replace("base_lr: 0.01", "base_lr: 5 # here")),
    ("no-momentum", SOLVER.replace("momentum: 0.9", "momentum: 0 # here")),
    ("rare-snapshots", SOLVER.replace("snapshot: 100", "snapshot: 1000 # here")),
    ("rare-snapshots", SOLVER.replace("snapshot: 100", "").replace("max_iter: 300", "max_iter: 9000")),
    ("no-snapshot-folder", SOLVER.replace('"snap"', '"nowhere/snap" # here')),
    ("never-tested", SOLVER.replace("test_iter: 3", "").replace("test_interval: 100", "")),
    ("never-tested", SOLVER.replace("test_interval: 100", "test_interval: 400 # here")),
    ("uneven-test", SOLVER.replace("test_iter: 3", "test_iter: 2 # here")),
    ("uneven-test", SOLVER.replace("test_iter: 3", "test_iter: 4 # here")),
    ("less-than-an-epoch", SOLVER.replace("max_iter: 300", "max_iter: 2 # here").replace("100", "1")),
    ("unreadable", SOLVER.replace('net: "net.prototxt"', 'net: "missing.prototxt"')),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a list of six images, labels 0 to 4, and a sound net over them."""
    monkeypatch.chdir(tmp_path)
    for i in range(6):
        cv2.imwrite(f"{i}.png", np.full((8, 8, 3), 40 * i, np.uint8))
    Path("list.txt").write_text("".join(f"{i}.png {min(i, 4)}\n" for i in range(6)))
    Path("net.prototxt").write_text(IMAGES + CONV + SCORES + LOSS)
    return tmp_path


def findings(path: str) -> list[Any]:
    return lint_file(path, Request())


def marked_line(text: str) -> int | None:
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if MARK in line:
            return number + 1 if line.strip() == MARK else number
    return None


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_a_rule_finds_its_fault_at_its_line(case: Path) -> None:
    Path("case.prototxt").write_text(case.read_text())
    found = [finding for finding in findings("case.prototxt") if finding.rule == case.stem]
    assert found, [finding.rule for finding in findings("case.prototxt")]
    if case.stem != "no-loss":  # a fault of the whole file
        assert found[0].at.line == marked_line(case.read_text())
    assert found[0].at.file == "case.prototxt"
    assert all(finding.remedy for finding in found)


@pytest.mark.parametrize(("rule", "solver"), SOLVERS)
def test_a_solver_rule_finds_its_fault_at_its_line(rule: str, solver: str) -> None:
    Path("solver.prototxt").write_text(solver)
    found = [finding for finding in findings("solver.prototxt") if finding.rule == rule]
    assert found, [finding.rule for finding in findings("solver.prototxt")]
    if MARK in solver:
        assert found[0].at.line == marked_line(solver)
    assert found[0].remedy


def test_every_rule_has_a_case_here() -> None:
    named = {case.stem for case in CASES} | {rule for rule, _ in SOLVERS}
    assert {rule.name for rule in ALL_RULES} <= named


@pytest.mark.parametrize("net", [SOUND, IMAGES + CONV + SCORES + LOSS], ids=["dummy", "images"])
def test_a_sound_net_is_left_alone(net: str) -> None:
    Path("case.prototxt").write_text(net)
    assert findings("case.prototxt") == []


def test_a_sound_solver_is_left_alone() -> None:
    Path("solver.prototxt").write_text(SOLVER)
    assert findings("solver.prototxt") == []


def test_a_net_for_use_is_left_alone() -> None:
    Path("case.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"'
        "  inner_product_param { num_output: 4 } }"
    )
    assert findings("case.prototxt") == []


@pytest.mark.parametrize("name", ["lenet", "digits", "mnist_adam", "vgg16"])
@pytest.mark.parametrize("kind", ["deploy", "train_val"])
def test_the_zoo_has_no_faults(name: str, kind: str) -> None:
    path = Path(__file__).parents[2] / "models" / name / f"{kind}.prototxt"
    if path.exists():
        assert [finding for finding in findings(str(path)) if finding.severity != "note"] == []
    else:
        assert (name, kind) == ("vgg16", "train_val")


def test_errors_in_the_text_are_findings_with_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.prototxt").write_text('layer {\n nam: "x"\n type: "ReLU"\n botom: "y"\n}')
    assert main(["lint", "case.prototxt"]) == 0
    out = capsys.readouterr().out
    assert "case.prototxt:2:2: error: " in out
    assert "case.prototxt:4:2: error: " in out
    assert "did you mean bottom?" in out
    assert out.splitlines()[-1] == "2 errors"


@pytest.mark.parametrize(
    ("net", "strict", "code"),
    [(SOUND, [], 0), (SOUND, ["-strict"], 0), (DUPLICATE, [], 0), (DUPLICATE, ["-strict"], 1),
     (case("frozen-layer"), ["-strict"], 0)],
    ids=["sound", "sound strict", "warning", "warning strict", "note strict"],
)  # fmt: skip
def test_strict_turns_warnings_into_an_exit_code(net: str, strict: list[str], code: int) -> None:
    Path("case.prototxt").write_text(net)
    assert main(["lint", "case.prototxt", *strict]) == code


def test_json_has_file_line_rule_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.prototxt").write_text(DUPLICATE)
    assert main(["lint", "-json", "case.prototxt"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)
    assert finding["rule"] == "duplicate-name"
    assert (finding["file"], finding["line"]) == ("case.prototxt", marked_line(DUPLICATE))
    assert finding["severity"] == "warning"
    assert "rename" in finding["remedy"]


def test_plain_output_begins_with_file_and_line_as_compilers_do(capsys: pytest.CaptureFixture[str]) -> None:
    Path("case.prototxt").write_text(DUPLICATE)
    assert main(["lint", "case.prototxt"]) == 0
    first, remedy, total = capsys.readouterr().out.splitlines()
    assert re.match(r"case\.prototxt:\d+:\d+: warning: layer conv \(ReLU\): .* \[duplicate-name\]$", first)
    assert remedy.startswith("  remedy: ")
    assert total == "1 warning"


def test_the_table_of_rules_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "-rules"]) == 0
    out = capsys.readouterr().out
    assert all(rule.name in out and rule.about in out for rule in ALL_RULES)


def test_a_missing_file_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "missing.prototxt"]) == 1
    assert "no such file" in capsys.readouterr().err
