"""Flags in every spelling that gflags knows, and what is said about the ones it would not take."""

import pytest
from google.protobuf import text_format

from netc.backends import open as backends
from netc.cli import train
from netc.cli.flags import Flag, Flags, UsageError, parse_flags
from netc.proto import netc_pb2 as pb

TABLE = (
    Flag("solver", "string", "", "a file"),
    Flag("resize_height", "int", 0, "a size"),
    Flag("rate", "float", 0.5, "a number"),
    Flag("gray", "bool", False, "a switch"),
    Flag("stage", "list", [], "several"),
    Flag("backend", "string", "lmdb", "one of two", choices=("lmdb", "leveldb")),
    Flag("log_dir", "string", "", "a folder", environment="GLOG_log_dir"),
)


def parse(*arguments: str, environment: dict[str, str] | None = None) -> Flags:
    return parse_flags(TABLE, arguments, environment or {})


@pytest.mark.parametrize(
    "arguments",
    [
        ("-resize_height", "28"),
        ("-resize_height=28",),
        ("--resize_height", "28"),
        ("--resize_height=28",),
        ("--resize-height=28",),
    ],
)
def test_a_value_is_read_in_every_spelling(arguments: tuple[str, ...]) -> None:
    assert parse(*arguments).resize_height == 28


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("-gray", True),
        ("--gray", True),
        ("-nogray", False),
        ("--nogray", False),
        ("-gray=false", False),
        ("--gray=true", True),
        ("-gray=0", False),
        ("-gray=YES", True),
    ],
)
def test_a_switch_is_read_in_every_spelling(argument: str, value: bool) -> None:
    flags = parse("-gray=true" if not value else "-gray=false", argument)
    assert flags.gray is value


def test_a_switch_does_not_take_the_next_argument() -> None:
    flags = parse("-gray", "false")
    assert flags.gray is True
    assert flags.positionals == ["false"]


def test_flags_may_stand_between_positional_arguments() -> None:
    flags = parse("root/", "-gray", "list.txt", "--backend", "leveldb", "db")
    assert flags.positionals == ["root/", "list.txt", "db"]
    assert (flags.gray, flags.backend) == (True, "leveldb")


def test_two_dashes_end_the_flags() -> None:
    flags = parse("-gray", "--", "-solver", "x")
    assert flags.positionals == ["-solver", "x"]
    assert flags.solver == ""


def test_a_lone_dash_and_a_negative_number_are_positional() -> None:
    assert parse("-", "-3").positionals == ["-", "-3"]


@pytest.mark.parametrize(("text", "value"), [("-1", -1), ("+7", 7), ("0", 0)])
def test_negative_numbers_are_values(text: str, value: int) -> None:
    assert parse("-resize_height", text).resize_height == value
    assert parse(f"-resize_height={text}").resize_height == value


def test_floats_and_lists_are_read() -> None:
    flags = parse("-rate", "-2.5e-3", "-stage", "a, b,,c")
    assert flags.rate == -2.5e-3
    assert flags.stage == ["a", "b", "c"]


def test_an_empty_value_is_a_value() -> None:
    assert parse("-solver=").solver == ""
    assert "solver" in parse("-solver=").given


def test_the_last_of_two_equal_flags_counts() -> None:
    assert parse("-solver", "a", "-solver", "b").solver == "b"


def test_defaults_hold_and_lists_are_not_shared() -> None:
    first, second = parse(), parse()
    first.stage.append("x")
    assert second.stage == []
    assert (second.backend, second.rate, second.given) == ("lmdb", 0.5, frozenset())


def test_the_environment_gives_a_default_that_a_flag_overrides() -> None:
    environment = {"GLOG_log_dir": "/logs"}
    assert parse(environment=environment).log_dir == "/logs"
    assert parse("-log_dir", "mine", environment=environment).log_dir == "mine"


def test_an_unknown_flag_names_the_near_one_and_lists_all() -> None:
    with pytest.raises(UsageError, match="unknown flag --resize_hight") as caught:
        parse("--resize_hight=3")
    assert caught.value.remedy == "did you mean -resize_height?"
    assert "-solver" in caught.value.expected


def test_no_before_a_flag_that_is_no_switch_is_unknown() -> None:
    with pytest.raises(UsageError, match="unknown flag -nosolver"):
        parse("-nosolver")


@pytest.mark.parametrize("arguments", [("-solver",), ("-solver", "-gray"), ("-resize_height", "--solver=x")])
def test_a_missing_value_is_told(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="has no value"):
        parse(*arguments)


def test_a_value_may_begin_with_a_dash_where_it_is_no_flag() -> None:
    assert parse("-solver", "-odd-name").solver == "-odd-name"


@pytest.mark.parametrize("argument", ["-resize_height=tall", "-rate=x", "-gray=maybe", "-resize_height=2.5"])
def test_a_value_of_the_wrong_type_is_told(argument: str) -> None:
    with pytest.raises(UsageError, match="wrong type") as caught:
        parse(argument)
    assert caught.value.found == repr(argument.split("=")[1])


def test_a_value_outside_the_choices_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        parse("-backend", "lmbd")
    assert caught.value.expected == "lmdb or leveldb"
    assert caught.value.remedy == "did you mean lmdb?"


@pytest.mark.parametrize(
    ("solver_mode", "there", "gpu"), [("GPU", True, "2"), ("GPU", False, ""), ("CPU", True, "")]
)
def test_a_solver_gets_the_gpu_it_asks_for_where_there_is_one(
    solver_mode: str, there: bool, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "gpu_is_there", lambda: there)
    definition = text_format.Parse(f"solver_mode: {solver_mode} device_id: 2", pb.SolverParameter())
    assert train._gpu_of(definition) == gpu
