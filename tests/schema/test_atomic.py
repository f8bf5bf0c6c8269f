"""Files appear whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.schema.atomic import replacing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half_and_stop(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")


def write_until_the_disk_is_full(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        with open("/dev/full", "w") as full:
            full.write("x" * 10_000)


def test_the_file_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    target = tmp_path / "a.caffemodel"
    with replacing(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".caffemodel"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["a.caffemodel"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        write_half_and_stop(target)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="cannot write"), replacing(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_a_full_disk_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(NetcError, match=r"No space(.|\n)*free some disk space"):
        write_until_the_disk_is_full(tmp_path / "a")
    assert names(tmp_path) == []


def test_folders_and_devices_are_refused(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
        (tmp_path / "no" / "a", "no folder"),
    ):
        with pytest.raises(NetcError, match=words), replacing(path):
            pass
    assert Path("/dev/null").is_char_device()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_text() == "new"


def test_a_block_within_a_block_uses_the_same_temporary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as outer:
        with replacing(outer) as inner:
            assert inner == outer
            inner.write_text("new")
        assert not (tmp_path / "a").exists()
    assert names(tmp_path) == ["a"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from netc.schema.atomic import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "a.h5"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", program, str(target)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with replacing(target) as temporary:
        (tmp_path / ".a.other.tmp.h5").write_text("not ours")
        temporary.write_text("whole")
    assert names(tmp_path) == [".a.other.tmp.h5", "a.h5"]


def test_a_writer_that_still_runs_is_left_alone(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        with replacing(tmp_path / "a") as second:
            second.write_text("second")
        assert first.exists()
    assert (tmp_path / "a").read_text() == "first"


def test_long_names_fit(tmp_path: Path) -> None:
    with replacing(tmp_path / ("n" * 250)) as temporary:
        temporary.write_text("x")
    assert names(tmp_path) == ["n" * 250]
