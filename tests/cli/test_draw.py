"""`netc draw`: pictures that are whole, with every layer in them and nothing on top of anything else."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import pytest

from netc.cli.main import main
from netc.tools import dot
from netc.tools.layered_layout import lay_out

LENET = Path(__file__).parents[2] / "models" / "lenet" / "train_val.prototxt"
SVG = "{http://www.w3.org/2000/svg}"
BRANCHES = """
name: "branches <&>"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 2 kernel_size: 3 pad: 1 stride: 1 } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "data" top: "b"
  convolution_param { num_output: 2 kernel_h: 1 kernel_w: 3 pad_w: 1 dilation: 1 group: 1 } }
layer { name: "c" type: "Convolution" bottom: "b" top: "c"
  convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "c" bottom: "b" top: "sum" }
"""


@pytest.fixture(autouse=True)
def without_graphviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where it is not installed."""
    monkeypatch.setattr(dot.shutil, "which", lambda name: None)


def draw(folder: Path, net: str, *flags: str, picture: str = "net.svg") -> str:
    (folder / "net.prototxt").write_text(net)
    assert main(["draw", *flags, str(folder / "net.prototxt"), str(folder / picture)]) == 0
    return (folder / picture).read_text()


def boxes(svg: str) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box, by the name of its layer."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        rect, texts = group.find(f"{SVG}rect"), group.findall(f"{SVG}text")
        if rect is not None and texts:
            x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
            found[texts[0].text or ""] = (x, y, x + width, y + height)
    return found


@pytest.mark.parametrize("rankdir", ["TB", "BT", "LR", "RL"])
def test_every_layer_has_a_box_of_its_own(rankdir: str, tmp_path: Path) -> None:
    found = boxes(draw(tmp_path, BRANCHES, "-rankdir", rankdir))
    assert set(found) == {"data", "a", "b", "c", "sum"}
    for first, second in combinations(found.values(), 2):
        apart = first[2] < second[0] or second[2] < first[0] or first[3] < second[1] or second[3] < first[1]
        assert apart
    start, end = {"TB": (3, 1), "BT": (1, 3), "LR": (2, 0), "RL": (0, 2)}[rankdir]
    sign = 1 if rankdir in ("TB", "LR") else -1
    for above, below in (("data", "a"), ("data", "b"), ("b", "c"), ("c", "sum"), ("a", "sum")):
        assert sign * found[above][start] < sign * found[below][end], (above, below)


def test_boxes_and_arrows_say_what_they_are(tmp_path: Path) -> None:
    svg = draw(tmp_path, BRANCHES)
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    for text in ("branches <&>", "Convolution, 2, 3x3, pad 1", "relu: ReLU", "Convolution, 2, 1x3, pad 0x1",
                 "Eltwise, SUM", "1x3x8x8"):  # fmt: skip
        assert text in texts
    assert svg.count('class="arrow"') == 6


def test_everything_lies_within_the_picture(tmp_path: Path) -> None:
    svg = draw(tmp_path, BRANCHES, "-rankdir=LR")
    width, height = (float(n) for n in re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())  # type: ignore[union-attr]
    for left, top, right, bottom in boxes(svg).values():
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height


@pytest.mark.parametrize(("phase", "layers"), [("ALL", 10), ("TRAIN", 8), ("TEST", 9)])
def test_a_phase_is_drawn_with_its_layers(phase: str, layers: int, tmp_path: Path) -> None:
    svg = draw(tmp_path, LENET.read_text(), "-phase", phase, "-shape", "data:64,1,28,28")
    assert svg.count('class="box"') == layers
    assert "64x20x24x24" in svg


def test_a_net_whose_data_is_elsewhere_is_drawn_without_shapes(tmp_path: Path) -> None:
    assert "x24x24" not in draw(tmp_path, LENET.read_text())


def test_dot_text_has_every_layer_and_blob(tmp_path: Path) -> None:
    text = draw(tmp_path, BRANCHES, "-rankdir=LR", picture="net.dot")
    assert text.startswith('digraph "branches <&>" {\n  rankdir=LR;')
    assert text.count("fillcolor=") == 5
    assert text.count(" -> ") == 6
    assert '"a\\nConvolution, 2, 3x3, pad 1\\nrelu: ReLU"' in text


def test_other_pictures_need_graphviz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", str(LENET), str(tmp_path / "net.png")]) == 1
    assert "apt install graphviz" in capsys.readouterr().err
    assert main(["draw", str(LENET), str(tmp_path / "net.xyz")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_graphviz_draws_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for its program, which hands on what it was asked for."""
    program = tmp_path / "bin" / "dot"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "asked for $1"\ncat\n')
    program.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert shutil.which("dot") == str(program)
    assert draw(tmp_path, BRANCHES, picture="net.png").startswith("asked for -Tpng\ndigraph")
    assert draw(tmp_path, BRANCHES).startswith("asked for -Tsvg\n")
    assert draw(tmp_path, BRANCHES, "-nographviz").startswith("<svg")


def test_arrows_that_pass_a_row_by_keep_clear_of_its_boxes() -> None:
    """The arrow from top to bottom goes past the box between."""
    layout = lay_out(dict.fromkeys("abc", (40.0, 20.0)), [("a", "b"), ("b", "c"), ("a", "c")])
    (gap,) = [place for place in layout.paths[2] if place.box is None]
    middle = layout.places["b"]
    assert gap.row == middle.row == 1
    assert abs(gap.x - middle.x) > 20
