"""Log lines in glog's form, on stderr and in files that existing tools find."""

import logging
import os
import re
from pathlib import Path

import pytest

from netc.cli.flags import Flags
from netc.cli.log import GlogFormatter, log_file_path, log_session
from netc.errors import NetcError

GOLDEN = Path(__file__).parent.parent / "golden" / "misc"
# The form of Caffe's own lines; the year is only written by newer versions of glog.
GLOG_LINE = re.compile(r"[IWEF](\d{4})?\d{4} \d\d:\d\d:\d\d\.\d{6} {1,6}\d+ [\w.]+:\d+\] .*")
log = logging.getLogger("netc.somewhere")


def session(**values: object) -> log_session:
    return log_session(Flags({"log_dir": "", "quiet": False, "minloglevel": 0, **values}))


def test_the_pattern_of_this_test_fits_caffes_own_lines() -> None:
    lines = (GOLDEN / "caffe_train.log").read_text().splitlines()
    prefixed = [line for line in lines if re.match(r"[IWEF]\d{4}", line)]
    assert len(prefixed) > 100
    assert all(GLOG_LINE.fullmatch(line) for line in prefixed)


def test_lines_have_glogs_form_and_the_classic_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    with session():
        log.info("Iteration %d, lr = %g", 5, 0.05, extra={"source": "sgd_solver.cpp:112"})
        log.warning("plain")
    first, second = capsys.readouterr().err.splitlines()
    assert GLOG_LINE.fullmatch(first)
    assert GLOG_LINE.fullmatch(second)
    assert re.fullmatch(r"I\d{4} \S+ +\d+ sgd_solver\.cpp:112\] Iteration 5, lr = 0\.05", first)
    assert re.fullmatch(r"W\d{4} \S+ +\d+ test_log\.py:\d+\] plain", second)


def test_the_prefix_is_written_from_the_record() -> None:
    record = logging.LogRecord("netc", logging.ERROR, "/a/b.py", 7, "m", None, None)
    record.created = 1795221041.818488
    line = GlogFormatter().format(record)
    assert line[:1] == "E"
    assert re.fullmatch(r"E\d{4} \d\d:\d\d:41\.818488 +\d+ b\.py:7\] m", line)


@pytest.mark.parametrize(
    ("level", "letter"),
    [
        (logging.DEBUG, "I"),
        (logging.INFO, "I"),
        (logging.WARNING, "W"),
        (logging.ERROR, "E"),
        (logging.CRITICAL, "F"),
    ],
)
def test_the_letter_tells_the_severity(level: int, letter: str) -> None:
    record = logging.LogRecord("netc", level, "b.py", 7, "m", None, None)
    assert GlogFormatter().format(record)[0] == letter


def test_quiet_shows_only_warnings_but_the_file_is_complete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with session(quiet=True, log_dir=str(tmp_path)):
        log.info("detail")
        log.warning("worry")
    err = capsys.readouterr().err
    assert "worry" in err
    assert "detail" not in err
    assert "detail" in (tmp_path / "netc.INFO").read_text()


def test_minloglevel_drops_lines_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with session(minloglevel=2, log_dir=str(tmp_path)):
        log.warning("worry")
        log.error("trouble")
    assert "worry" not in capsys.readouterr().err
    text = (tmp_path / "netc.INFO").read_text()
    assert "worry" not in text
    assert "trouble" in text


def test_the_log_file_has_glogs_name_and_heading(tmp_path: Path) -> None:
    with session(log_dir=str(tmp_path / "made" / "here")):
        log.info("hello")
    (path,) = (tmp_path / "made" / "here").glob("netc.*.*.log.INFO.*")
    assert re.fullmatch(r"netc\.[\w-]+\.[\w-]+\.log\.INFO\.\d{8}-\d{6}\.\d+", path.name)
    assert path.name.endswith(f".{os.getpid()}")
    lines = path.read_text().splitlines()
    assert lines[0].startswith("Log file created at: ")
    assert GLOG_LINE.fullmatch(lines[-1])
    assert (path.parent / "netc.INFO").resolve() == path


def test_the_newest_log_is_linked(tmp_path: Path) -> None:
    (tmp_path / "netc.INFO").symlink_to("older")
    with session(log_dir=str(tmp_path)):
        log.info("hello")
    assert "hello" in (tmp_path / "netc.INFO").read_text()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetcError, match="cannot write a log"), session(log_dir=str(tmp_path / "file" / "x")):
        pass


def test_an_error_is_in_the_log_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NetcError), session(log_dir=str(tmp_path)):
        raise NetcError("the disk is full", remedy="make room")
    text = (tmp_path / "netc.INFO").read_text()
    assert re.search(r"E\d{4} .*\] the disk is full\n  remedy: make room", text)
    assert "Traceback" not in text
    assert capsys.readouterr().err == ""


def test_a_defect_leaves_its_traceback_in_the_log_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), session(log_dir=str(tmp_path)):
        raise ZeroDivisionError
    assert "Traceback" in (tmp_path / "netc.INFO").read_text()


def test_the_session_leaves_no_handler_behind() -> None:
    logger = logging.getLogger("netc")
    before = list(logger.handlers), logger.level
    with session():
        assert len(logger.handlers) == len(before[0]) + 1
    assert (logger.handlers, logger.level) == before


def test_odd_names_of_users_stay_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "domain\\a.user")
    assert ".domain_a_user.log.INFO." in log_file_path(Path()).name
