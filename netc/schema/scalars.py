"""The values of prototxt fields: tokens become numbers, bools, strings and enum values, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from netc.schema.suggestions import did_you_mean
from netc.schema.tokens import IDENTIFIER, NUMBER, STRING, Token

INTEGER_RANGES = {
    FieldDescriptor.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
BOOLS = {"true": True, "t": True, "True": True, "false": False, "f": False, "False": False}
NAMED_FLOATS = {"inf": math.inf, "infinity": math.inf, "nan": math.nan}
ESCAPES = {
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "v": b"\v",
    "\\": b"\\",
    "'": b"'",
    '"': b'"',
    "?": b"?",
}

_INTEGER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")
_FLOAT = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+|0[0-9]+\.[0-9]*)(?:[eE][+-]?[0-9]+)?[fF]?")
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))|([^\\]+)", re.DOTALL
)
# The longest integer in range has 22 octal digits; int() of a far longer one takes quadratic time.
_LONGEST_INTEGER = 64


class ValueProblem(Exception):
    """A value that does not fit its field; becomes a NetcError at the value's place."""

    def __init__(self, what: str, expected: str, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what, self.expected, self.remedy = what, expected, remedy


def convert(field: FieldDescriptor, negative: bool, token: Token) -> Any:
    """The value of a field that is no string. Raises ValueProblem."""
    return _CONVERTERS[field.type](field, negative, token)


def convert_strings(field: FieldDescriptor, tokens: list[Token]) -> str | bytes:
    """The value of a string or bytes field, from adjacent literals. Raises ValueProblem."""
    data = b"".join(_unescape(token.text[1:-1]) for token in tokens)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return data
    if b"\0" in data:
        raise ValueProblem("the string holds a NUL byte", "text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueProblem("the string is not UTF-8", "text in UTF-8") from error


def _unescape(body: str) -> bytes:
    if "\\" not in body:
        return body.encode("utf-8")
    pieces = []
    for octal, byte, short, long, letter, plain in _ESCAPE.findall(body):
        if plain:
            pieces.append(plain.encode("utf-8"))
        elif octal or byte:
            value = int(octal, 8) if octal else int(byte, 16)
            if value > 255:
                raise ValueProblem(f"\\{octal} is more than a byte holds", "an octal escape up to \\377")
            pieces.append(bytes([value]))
        elif short or long:
            pieces.append(_encode_code_point(int(short or long, 16)))
        elif letter in ESCAPES:
            pieces.append(ESCAPES[letter])
        else:
            raise ValueProblem(
                f"unknown escape \\{letter} in the string",
                "one of " + " ".join("\\" + name for name in (*ESCAPES, "ooo", "xhh", "uhhhh", "Uhhhhhhhh")),
                "write \\\\ for a backslash",
            )
    return b"".join(pieces)


def _encode_code_point(code: int) -> bytes:
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueProblem(f"U+{code:04X} is no character", "a Unicode character")
    return chr(code).encode("utf-8")


def _shown(negative: bool, token: Token) -> str:
    return ("-" if negative else "") + token.text


def _parse_integer(text: str) -> int | None:
    if len(text) > _LONGEST_INTEGER or not _INTEGER.fullmatch(text):
        return None
    if text[:2] in ("0x", "0X"):
        return int(text, 16)
    return int(text, 8) if text[0] == "0" and len(text) > 1 else int(text)


def _integer(field: FieldDescriptor, negative: bool, token: Token) -> int:
    kind, least, most = INTEGER_RANGES[field.type]
    allowed = "an integer" if least else "an integer that is not negative"
    shown = _shown(negative, token)
    if token.kind != NUMBER:
        raise ValueProblem(f"{field.name} takes {allowed}, not {shown}", allowed, _unquoted(token))
    value = _parse_integer(token.text)
    if value is None and _INTEGER.fullmatch(token.text):
        raise ValueProblem(f"{shown[:20]}... is out of range for {field.name}", f"{least} to {most} ({kind})")
    if value is None:
        raise ValueProblem(f"{shown} is not an integer", allowed, _whole_number(token.text))
    value = -value if negative else value
    if not least <= value <= most:
        raise ValueProblem(f"{shown} is out of range for {field.name}", f"{least} to {most} ({kind})")
    return value


def _whole_number(text: str) -> str | None:
    """What to write in place of 3.0 or 1e3."""
    if not _FLOAT.fullmatch(text):
        return None
    value = float(text.rstrip("fF"))
    return f"write {int(value)}" if math.isfinite(value) and value == int(value) and value < 2**64 else None


def _unquoted(token: Token) -> str | None:
    """What to write in place of a number in quotes."""
    number = token.text.strip("\"'").removeprefix("-")
    return (
        f"write {token.text[1:-1]} without quotes"
        if token.kind == STRING and _FLOAT.fullmatch(number)
        else None
    )


def _float(field: FieldDescriptor, negative: bool, token: Token) -> float:
    text = token.text
    if token.kind == IDENTIFIER and text.lower() in NAMED_FLOATS:
        value = NAMED_FLOATS[text.lower()]
    elif token.kind == NUMBER and _FLOAT.fullmatch(text):
        value = float(text.rstrip("fF"))
    else:
        what = f"{text} is not a decimal number"
        if token.kind != NUMBER:
            what = f"{field.name} takes a number, not {_shown(negative, token)}"
        raise ValueProblem(what, "a decimal number", _unquoted(token))
    return -value if negative else value


def _bool(field: FieldDescriptor, negative: bool, token: Token) -> bool:
    if not negative:
        if token.kind == IDENTIFIER and token.text in BOOLS:
            return BOOLS[token.text]
        if token.kind == NUMBER and _parse_integer(token.text) in (0, 1):
            return _parse_integer(token.text) == 1
    near = token.text.strip("\"'").lower()
    remedy = f"write {near}" if near in BOOLS else None
    raise ValueProblem(f"{field.name} takes true or false", "true or false", remedy)


def _enum(field: FieldDescriptor, negative: bool, token: Token) -> int:
    enum = field.enum_type
    assert enum is not None  # the table of converters sends only enums here
    names = [value.name for value in enum.values]
    if token.kind == IDENTIFIER and not negative and token.text in enum.values_by_name:
        return int(enum.values_by_name[token.text].number)
    if token.kind == NUMBER:
        number = _parse_integer(token.text)
        if number is not None and (-number if negative else number) in enum.values_by_number:
            return -number if negative else number
    written = token.text.strip("\"'")
    if token.kind == STRING and written in enum.values_by_name:
        remedy: str | None = f"write {written} without quotes"
    else:
        remedy = did_you_mean(written, names)
    raise ValueProblem(f"{field.name} has no value {_shown(negative, token)}", ", ".join(names), remedy)


_CONVERTERS: dict[int, Callable[[FieldDescriptor, bool, Token], Any]] = {
    **dict.fromkeys(INTEGER_RANGES, _integer),
    FieldDescriptor.TYPE_FLOAT: _float,
    FieldDescriptor.TYPE_DOUBLE: _float,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_ENUM: _enum,
}
