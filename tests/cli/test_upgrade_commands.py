"""The three commands that upgrade old files: Caffe's results, Caffe's lines."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from netc.cli.main import main
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

GOLDEN = Path(__file__).parent.parent / "golden" / "upgrade"
NETS = sorted(path.name.removesuffix(".in.prototxt") for path in GOLDEN.glob("own_*.in.prototxt"))
SOLVERS = sorted(path.name.removesuffix(".in.prototxt") for path in GOLDEN.glob("solver_*.in.prototxt"))


@pytest.mark.parametrize("name", NETS)
def test_nets_come_out_as_caffe_writes_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(GOLDEN)
    target = tmp_path / "new.prototxt"
    assert main(["upgrade_net_proto_text", f"{name}.in.prototxt", str(target)]) == 0
    expected = text_format.Parse((GOLDEN / f"{name}.out.prototxt").read_text(), pb.NetParameter())
    assert text_format.Parse(target.read_text(), pb.NetParameter()) == expected
    err = capsys.readouterr().err
    assert f"upgrade_net_proto_text.cpp:49] Wrote upgraded NetParameter text proto to {target}" in err
    assert ("File already in latest proto format" in err) == ("current" in name)


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_come_out_as_caffe_writes_them(name: str, tmp_path: Path) -> None:
    target = tmp_path / "new.prototxt"
    assert main(["upgrade_solver_proto_text", str(GOLDEN / f"{name}.in.prototxt"), str(target)]) == 0
    expected = text_format.Parse((GOLDEN / f"{name}.out.prototxt").read_text(), pb.SolverParameter())
    assert text_format.Parse(target.read_text(), pb.SolverParameter()) == expected


def test_binary_weights_keep_their_values(tmp_path: Path) -> None:
    target = tmp_path / "new.caffemodel"
    assert main(["upgrade_net_proto_binary", str(GOLDEN / "legacy_model_v1.caffemodel"), str(target)]) == 0
    made, expected = pb.NetParameter(), pb.NetParameter()
    made.ParseFromString(target.read_bytes())
    expected.ParseFromString((GOLDEN / "legacy_model_v1.upgraded.caffemodel").read_bytes())
    assert made == expected
    nets = [
        Net(str(GOLDEN / "legacy_model.net.prototxt"), weights=str(path))
        for path in (GOLDEN / "legacy_model_v1.caffemodel", target)
    ]
    for old, new in zip(*(net.parameters.data for net in nets), strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(
    "command", ["upgrade_net_proto_text", "upgrade_net_proto_binary", "upgrade_solver_proto_text"]
)
def test_what_cannot_be_read_is_an_error_and_writes_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").write_bytes(b"\x00\x01 no net")
    assert main([command, str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    assert str(tmp_path / "old") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
