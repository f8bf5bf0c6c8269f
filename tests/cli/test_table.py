"""Tables: aligned text where the output is piped, drawn on a terminal that is wide enough."""

import os

import pytest

from netc.cli.table import Table


def make() -> Table:
    table = Table(
        ("name", "count"), right=frozenset({"count"}), title="things", total=("total", "12"), notes=["end"]
    )
    table.add("a", "2")
    table.add("long name", "10")
    return table


PLAIN = """\
things
name       count
----------------
a              2
long name     10
----------------
total         12
end
"""


def test_piped_output_is_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    make().show()
    assert capsys.readouterr().out == PLAIN


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("netc.cli.table.is_drawn", lambda: True)


def columns(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((count, 24)))


def test_a_terminal_gets_a_drawn_table(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns(monkeypatch, 80)
    make().show()
    out = capsys.readouterr().out
    assert "─" in out
    assert all(word in out for word in ("things", "long name", "12", "end"))


def test_a_terminal_too_narrow_for_it_gets_plain_text(
    terminal: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    columns(monkeypatch, 12)
    make().show()
    assert capsys.readouterr().out == PLAIN


def test_a_table_without_rows_is_its_heading() -> None:
    assert Table(("a", "b")).text() == "a  b\n----"
