"""The program as a whole: finding commands, help, exit codes, and how errors look."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netc.cli import main as program
from netc.cli.command import Command
from netc.cli.flags import Flags
from netc.cli.main import COMMANDS, main
from netc.errors import Location, NetcError
from netc.version import __version__


def failing(error: BaseException) -> Command:
    def run(flags: Flags) -> int:
        raise error

    return Command("fail", "fails", run)


@pytest.fixture
def fail_with(monkeypatch: pytest.MonkeyPatch):
    """Adds a command `fail` that raises the error given."""

    def install(error: BaseException) -> None:
        monkeypatch.setattr(program, "COMMANDS", {**COMMANDS, "fail": failing(error)})

    return install


def test_without_arguments_netc_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in out
        assert command.summary in out


MODEL = str(Path(__file__).parents[2] / "models" / "lenet" / "deploy.prototxt")
SOLVER = str(Path(__file__).parents[2] / "models" / "lenet" / "solver.prototxt")


@pytest.mark.parametrize(
    ("command", "flag", "file", "rest"),
    [
        ("summary", "-model", MODEL, []),
        ("deploy", "--model", MODEL, []),
        ("draw", "-model", MODEL, ["net.dot"]),
        ("lint", "-model", MODEL, []),
        ("lint", "-solver", SOLVER, []),
    ],
)
def test_the_flags_of_train_name_a_net_for_every_command(
    command: str,
    flag: str,
    file: str,
    rest: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """-model or -solver does what the same file does as the first argument."""
    monkeypatch.chdir(tmp_path)
    assert main([command, file, *rest]) == 0
    plain = capsys.readouterr().out, [Path(path).read_bytes() for path in rest]
    for arguments in ([flag, file, *rest], [*rest, f"{flag}={file}"]):
        assert main([command, *arguments]) == 0
        assert (capsys.readouterr().out, [Path(path).read_bytes() for path in rest]) == plain


@pytest.mark.parametrize("arguments", [["help"], ["-help"], ["--help"], ["-h"]])
def test_help_in_every_spelling(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["help", "train"],
        ["train", "-help"],
        ["train", "--help"],
        ["train", "-h"],
        ["-help", "train"],
        ["train", "-solver", "x", "--help=true"],
    ],
)
def test_help_of_a_command_in_every_spelling(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert "netc train [flags]" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_shows_every_flag_with_its_text(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", command.name]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in command.table:
        if not flag.hidden:
            assert f" -{flag.name}" in text
            assert " ".join(flag.help.split()) in text


CAFFE_FLAGS = {
    "train": "solver model weights snapshot gpu level stage sigint_effect sighup_effect iterations log_dir",
    "test": "model weights gpu level stage iterations",
    "time": "model weights gpu level stage phase iterations",
    "device_query": "gpu",
    "convert_imageset": "gray shuffle backend resize_width resize_height check_size encoded encode_type",
    "compute_image_mean": "backend",
}


@pytest.mark.parametrize("name", CAFFE_FLAGS)
def test_commands_take_caffes_flags(name: str) -> None:
    assert set(CAFFE_FLAGS[name].split()) <= {flag.name for flag in COMMANDS[name].table}


@pytest.mark.parametrize("argument", ["version", "-version", "--version"])
def test_version_in_every_spelling(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument]) == 0
    assert capsys.readouterr().out.startswith(f"netc {__version__} (Python ")


@pytest.mark.parametrize("arguments", [["trian"], ["help", "trian"]])
def test_a_mistyped_command_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "did you mean netc train?" in capsys.readouterr().err


def test_a_flag_without_a_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-gpu", "0"]) == 2
    assert "no command is given" in capsys.readouterr().err


def test_flags_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-slover", "x", "train"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("netc train: unknown flag -slover")
    assert "did you mean -solver?" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train"], "-solver is missing"),
        (["train", "-solver", "s", "-weights", "w", "-snapshot", "x"], "-weights and -snapshot"),
        (["train", "-solver", "s", "extra"], "cannot make sense of its arguments"),
        (["train", "s.prototxt", "a.solverstate"], "netc train -solver s.prototxt -snapshot a.solverstate"),
        (["test", "n.prototxt", "w.caffemodel"], "netc test -model n.prototxt -weights w.caffemodel"),
        (["test", "n.prototxt", "what"], "remedy: netc help test"),
        (["train", "-solver", "s", "-sigint_effect", "explode"], "snapshot or stop or none"),
        (["train", "-solver", "s", "-iterations", "-1"], "-iterations is negative"),
        (["test", "-weights", "w"], "-model is missing"),
        (["test", "-model", "m"], "-weights is missing"),
        (["test", "-model", "m", "-weights", "w", "-iterations=0"], "-iterations must be positive"),
        (["convert_imageset", "root"], "ROOT LIST DB or ROOT DB"),
        (["convert_imageset", "-gray", "false", "root", "list", "db"], "-gray=false"),
        (["compute_image_mean"], "DB [MEAN.binaryproto]"),
        (["plot", "-o", "x.png"], "LOG..."),
    ],
)
def test_usage_errors_exit_with_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith(f"netc {arguments[0]}: ")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("gpu", "said"), [("none", "names no device"), ("0,1", "several GPUs"), ("all", "several GPUs")]
)
@pytest.mark.parametrize("command", [["train", "-solver", "s"], ["test", "-model", "m", "-weights", "w"]])
def test_an_explicit_gpu_fails_clearly(
    command: list[str], gpu: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "-gpu", gpu]) == 1
    assert said in capsys.readouterr().err


def test_an_error_is_one_block_without_traceback(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(NetcError("no such layer", at=Location("a.prototxt", 3), layer="ip", remedy="add it"))
    assert main(["fail"]) == 1
    assert (
        capsys.readouterr().err == "netc fail: a.prototxt:3: no such layer\n  layer: ip\n  remedy: add it\n"
    )


@pytest.mark.parametrize("debug", ["-debug", "--debug", "-debug=true"])
def test_debug_shows_the_traceback(debug: str, fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(NetcError("no such layer"))
    assert main(["fail", debug]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("netc fail: no such layer\n")


def test_a_defect_is_one_line_that_says_how_to_see_more(
    fail_with, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(ZeroDivisionError("division by zero"))
    assert main(["fail"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "a defect in netc (ZeroDivisionError: division by zero)" in err
    assert "-debug" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "x"), "No space left on device"),
        (MemoryError(), "out of memory"),
        (ModuleNotFoundError("No module named 'lmdb'", name="lmdb"), "install netc"),
    ],
)
def test_what_the_machine_refuses_is_no_defect(
    error: Exception, said: str, fail_with, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(error)
    assert main(["fail"]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "defect" not in err


def test_an_interrupt_exits_as_shells_expect(fail_with, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt())
    assert main(["fail"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "netc fail: interrupted\n"


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "netc", "help", "train"], stdout=closed, stderr=subprocess.PIPE
        )
    assert done.stderr == b""
    assert done.returncode == 141


def test_python_m_netc_runs_and_passes_the_exit_code_on(run_netc) -> None:
    assert run_netc().returncode == 0
    done = run_netc("trian")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from netc.cli.main import main; main(['help', 'train']); "
        "heavy = {'numpy', 'google.protobuf', 'matplotlib', 'rich', 'cv2', 'h5py'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_missing_file_names_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nope.prototxt")
    assert main(["train", "-solver", missing]) == 1
    assert missing in capsys.readouterr().err
