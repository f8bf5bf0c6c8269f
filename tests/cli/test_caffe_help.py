"""What Caffe's own help and device_query print, held against the commands and flags that netc has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from netc.cli.main import COMMANDS, main
from netc.tools import cuda_driver

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
FLAG = re.compile(r"^-(\w+) \((.*)\) type: (\w+) default: (\S+)(?: currently: \S+)?$")
KINDS = {"int32": "int", "uint32": "int", "string": "string", "bool": "bool", "double": "float"}
# Of glog's and gflags' flags, those that scripts which call Caffe give.
LOG_FLAGS = {"alsologtostderr", "log_dir", "logtostderr", "minloglevel"}

MEANT = {"phase": "TRAIN"}
"""What an empty default stands for: `caffe time` runs the net of this phase."""


def caffes_help() -> str:
    return (GOLDEN / "caffe_help.log").read_text(encoding="utf-8")


def caffes_commands() -> list[str]:
    (listed,) = re.findall(r"^commands:\n((?:  \w+ .*\n)+)", caffes_help(), re.MULTILINE)
    return [line.split()[0] for line in listed.splitlines()]


def flags_from(source: str) -> dict[str, tuple[str, Any]]:
    """The kind and the default of every flag that Caffe's help lists for a source file."""
    (listed,) = re.findall(
        rf"^  Flags from {re.escape(source)}:\n((?:    .*\n)+)", caffes_help(), re.MULTILINE
    )
    found = {}
    for entry in re.split(r"\n    (?=-)", "\n" + listed.rstrip())[1:]:
        match = FLAG.match(" ".join(entry.split()))
        assert match, entry
        name, _, kind, default = match.groups()
        found[name] = (KINDS[kind], {"true": True, "false": False, '""': ""}.get(default, default.strip('"')))
    return found


def test_caffes_help_is_read() -> None:
    flags = flags_from("tools/caffe.cpp")
    assert len(flags) == 11
    assert flags["iterations"] == ("int", "50")
    assert flags["sigint_effect"] == ("string", "stop")
    assert flags_from("./src/logging.cc")["minloglevel"] == ("int", "0")


def test_every_command_of_caffes_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert caffes_commands() == ["train", "test", "device_query", "time"]
    main(["help"])
    listed = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert set(caffes_commands()) <= set(listed)


@pytest.mark.parametrize("name", flags_from("tools/caffe.cpp"))
def test_every_flag_of_caffes_is_taken_with_its_kind_and_default(name: str) -> None:
    kind, default = flags_from("tools/caffe.cpp")[name]
    takers = [flag for command in caffes_commands() for flag in COMMANDS[command].table if flag.name == name]
    assert takers
    assert {flag.kind for flag in takers} <= {kind, "list" if kind == "string" else kind}
    defaults = {str(flag.default) if flag.default != [] else "" for flag in takers}
    assert MEANT.get(name, default) in defaults


@pytest.mark.parametrize("name", sorted(LOG_FLAGS))
def test_the_log_flags_that_scripts_give_are_taken(name: str) -> None:
    kind, _ = flags_from("./src/logging.cc")[name]
    for command in caffes_commands():
        assert [flag.kind for flag in COMMANDS[command].table if flag.name == name] == [kind], command


def test_device_query_begins_as_caffes_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (GOLDEN / "caffe_device_query.log").read_text(encoding="utf-8").splitlines()[2:4]
    monkeypatch.setattr(cuda_driver, "LIBRARIES", ("libnone.so.1",))
    assert main(["device_query", "-gpu=0"]) == 1  # where Caffe aborts, with its second line
    assert second.startswith("F")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0][0] == first[0] == "I"
    assert lines[0].split("] ", 1)[1] == first.split("] ", 1)[1] == "Querying GPUs 0"
    assert lines[0].split("]")[0].split()[-1] == first.split("]")[0].split()[-1] == "caffe.cpp:138"
