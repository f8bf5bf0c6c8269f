"""A thousand prototxt files, mutated from golden ones: each gives a net, or NetcErrors with line numbers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.solver import read_solver

GOLDEN = Path(__file__).parent / "golden"
CASES, GROUPS = 1000, 20
MEMORY = 64 << 20  # more than this is more than the machine has, as far as these nets go

TOKEN = re.compile(r'"[^"]*"|[\w.+-]+|\S')
NUMBER = re.compile(r"-?\d+(\.\d*)?(e-?\d+)?")
WHOLE_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
ODD_VALUES = (
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "7",
        "17",
        "1000000",
        "2147483647",
        "2147483648",
        "4294967295",
        "-2147483648",
    ),
    *("18446744073709551616", "1e38", "1e-45", "1e400", "nan", "-inf", "0x10", "010", "1.5", "true", "FALSE"),
    *("AVE", "TRAIN", '""', '"data"', '"x"', "''", "{ }", "[ ]", "[1, 2]", "{", "}", "<", ":", "#", ";", '"'),
)
NOISE = "{}<>[]:;,#\"'\\\n\t 0-.eé\x01"


@cache
def texts() -> dict[str, tuple[str, int]]:
    """Every golden prototxt by name, with the phase to build it in."""
    found: dict[str, tuple[str, int]] = {}
    for path in sorted((*GOLDEN.glob("layers/*.npz"), *GOLDEN.glob("fork_layers/*.npz"))):
        with np.load(path) as case:
            found[path.stem] = str(case["prototxt"]), pb.Phase.Value(str(case["phase"]))
    for path in sorted(GOLDEN.glob("upgrade/*.prototxt")):
        found[path.name] = path.read_text(), pb.TEST
    for path in sorted(GOLDEN.glob("solvers/*.npz")):
        with np.load(path) as case:
            found[f"solver_{path.stem}"] = str(case["solver"]), pb.TRAIN
    return found


# Mutations: each gives a changed text, from a text and a random stream.


def replace_value(text: str, rng: random.Random) -> str:
    return _replace(text, rng.choice(list(NUMBER.finditer(text)) or [None]), rng.choice(ODD_VALUES))


def nudge_value(text: str, rng: random.Random) -> str:
    place = rng.choice(list(WHOLE_NUMBER.finditer(text)) or [None])
    return _replace(text, place, str(int(place[0]) + rng.choice((-2, -1, 1, 2)))) if place else text


def swap_values(text: str, rng: random.Random) -> str:
    numbers = list(NUMBER.finditer(text)) or [None]
    other = rng.choice(numbers)
    return _replace(text, rng.choice(numbers), other[0] if other else "")


def set_apart(text: str, rng: random.Random) -> str:
    token = _token(text, rng)
    return _replace(text, token, f"\n{token[0]} # {token[0]}\n") if token else text


def replace_token(text: str, rng: random.Random) -> str:
    return _replace(text, _token(text, rng), rng.choice(ODD_VALUES))


def delete_token(text: str, rng: random.Random) -> str:
    return _replace(text, _token(text, rng), "")


def repeat_token(text: str, rng: random.Random) -> str:
    token = _token(text, rng)
    return _replace(text, token, f"{token[0]} {token[0]}") if token else text


def take_token_of_another(text: str, rng: random.Random) -> str:
    other = _token(rng.choice(list(texts().values()))[0], rng)
    return _replace(text, _token(text, rng), other[0] if other else "")


def misspell(text: str, rng: random.Random) -> str:
    token = _token(text, rng)
    if not token:
        return text
    letters = list(token[0])
    rng.shuffle(letters)
    return _replace(text, token, "".join(letters))


def delete_span(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    return text[:start] + text[start + rng.randrange(80) :]


def repeat_span(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    end = start + rng.randrange(120)
    return text[:end] + text[start:end] + text[end:]


def cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def splice(text: str, rng: random.Random) -> str:
    other = rng.choice(list(texts().values()))[0]
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]


def append_another(text: str, rng: random.Random) -> str:
    return f"{text}\n{rng.choice(list(texts().values()))[0]}"


def insert_noise(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + "".join(rng.choices(NOISE, k=rng.randrange(1, 6))) + text[at:]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    *(
        nudge_value,
        nudge_value,
        nudge_value,
        swap_values,
        swap_values,
        set_apart,
        replace_value,
        replace_value,
    ),
    *(replace_value, replace_token, delete_token, repeat_token),
    *(take_token_of_another, misspell, delete_span, repeat_span, cut, splice, append_another, insert_noise),
)


def _token(text: str, rng: random.Random) -> re.Match[str] | None:
    return rng.choice(list(TOKEN.finditer(text)) or [None])


def _replace(text: str, place: re.Match[str] | None, value: str) -> str:
    return text[: place.start()] + value + text[place.end() :] if place else text


def errors_of(path: Path, name: str, phase: int) -> list[NetcError]:
    """What is wrong with a net or solver, nothing where it is built; other exceptions fail the test."""
    try:
        if name.startswith("solver_"):
            read_solver(path)
        else:
            Net(path, phase, seed=1).close()
    except NetcErrors as errors:
        return errors.errors
    except NetcError as error:
        return [error]
    return []


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_mutated_prototxt_gives_a_net_or_errors_with_lines(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(CpuBackend, "installed", MEMORY)
    path = tmp_path / "net.prototxt"
    outcomes = {"a net": 0, "errors": 0}
    for case in range(group, CASES, GROUPS):
        rng = random.Random(case)
        name = rng.choice(list(texts()))
        text, phase = texts()[name]
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            text = rng.choice(MUTATIONS)(text, rng)
        path.write_text(text)
        try:
            errors = errors_of(path, name, phase)
        except Exception as error:
            pytest.fail(f"case {case} ({name}): {type(error).__name__}: {error}\n{text}")
        for error in errors:
            assert error.at is not None, f"case {case} ({name}): no place: {error}\n{text}"
            assert error.at.line, f"case {case} ({name}): no line: {error}\n{text}"
        outcomes["errors" if errors else "a net"] += 1
    assert all(outcomes.values()), outcomes
