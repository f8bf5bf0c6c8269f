"""Reads prototxt: protobuf's text format, with the place of every field, and all errors of a file at once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from netc.errors import NetcError, raise_errors
from netc.proto import netc_pb2 as pb
from netc.schema.fields import is_repeated, required_names
from netc.schema.positions import Lines, Path, Positions
from netc.schema.reading import decode_text, read_file_text
from netc.schema.scalars import ValueProblem, convert, convert_strings
from netc.schema.suggestions import remedy_for_field
from netc.schema.tokens import END, IDENTIFIER, MARK, STRING, Token, tokenize

__all__ = ["Parsed", "Positions", "format_text", "parse_text", "read_text"]

MOST_ERRORS = 100
CLOSERS = {"{": "}", "<": ">", "[": "]"}
STRING_TYPES = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)

# By the message that is wanted: what may be given in its place, and what to do then.
MISTAKEN: dict[str, tuple[str, Callable[[], Message], str]] = {
    "SolverParameter": ("net", pb.NetParameter, "give the net as -model, and its solver as -solver"),
    "NetParameter": ("solver", pb.SolverParameter, "give the solver as -solver, and its net as -model"),
}

_UNQUOTED = re.compile(r"[^\s{}<>\"']+")

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Parsed(Generic[M]):
    """A message and the places of its fields."""

    message: M
    positions: Positions


def read_text(path: str | os.PathLike[str], message_class: Callable[[], M]) -> Parsed[M]:
    """The message in a prototxt file. Raises NetcError, or NetcErrors holding every error of the file."""
    parsed = parse_text(read_file_text(path), message_class, os.fspath(path))
    if not parsed.message.ListFields():
        raise NetcError(
            "the file is empty", at=parsed.positions.at(), expected=f"a {parsed.message.DESCRIPTOR.name}"
        )
    return parsed


def parse_text(text: str | bytes, message_class: Callable[[], M], file: str = "<text>") -> Parsed[M]:
    """The message that `text` spells out. file: what errors and positions call it. Raises as `read_text`."""
    if isinstance(text, bytes):
        text = decode_text(text, file)
    message = message_class()
    parser = _Parser(text, file)
    parser.parse(message)
    if parser.errors:
        raise_errors(_mistaken(text, message.DESCRIPTOR.name, file) or parser.errors)
    return Parsed(message, parser.positions)


def _mistaken(text: str, wanted: str, file: str) -> list[NetcError]:
    """The one error to raise where a whole net was given for a solver, or the other way round."""
    if wanted not in MISTAKEN:
        return []
    name, message_class, remedy = MISTAKEN[wanted]
    other = _Parser(text, file)
    other.parse(message := message_class())
    if other.errors or not message.ListFields():
        return []
    place = other.positions.at()
    return [NetcError(f"this is a {name}", at=place, expected=f"a {wanted}", remedy=remedy)]


def format_text(message: Message) -> str:
    """The message as prototxt, one field a line."""
    return str(text_format.MessageToString(message, as_utf8=True))


@dataclass
class _Frame:
    """A message being read: the field it fills, what closes it, where it begins, the fields met so far."""

    name: str
    message: Any
    path: Path
    closer: str = ""
    offset: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def descriptor(self) -> Descriptor:
        return self.message.DESCRIPTOR

    @property
    def title(self) -> str:
        return self.name or self.descriptor.name


class _TooManyErrors(Exception):
    """Ends the reading of a text that is probably no prototxt."""


class _Parser:
    """Walks the tokens of one text; after an error it goes on at the next field.

    Python's stack grows with known messages only, and no message of the schema holds itself; what an unknown
    field holds is skipped in a loop. So no nesting is too deep.
    """

    def __init__(self, text: str, file: str) -> None:
        self.errors: list[NetcError] = []
        self._text = text
        self._lines = Lines(text, file)
        self.positions = Positions(self._lines)
        self._tokens = tokenize(text)
        self._next = 0
        self._frames: list[_Frame] = []
        self._unwind_to: int | None = None

    def parse(self, message: Message) -> None:
        self.positions.record((), 0)
        try:
            self._read_fields(_Frame("", message, ()))
        except _TooManyErrors:
            at = self._lines.location(self._tokens[self._next].offset)
            self.errors.append(NetcError("too many errors: the rest was not read", at=at))

    # Messages and fields

    def _read_fields(self, frame: _Frame) -> None:
        """Reads up to what closes the message, and that as well."""
        self._frames.append(frame)
        depth = len(self._frames)
        while True:
            token = self._tokens[self._next]
            if token.kind == IDENTIFIER:
                if self._closes_implicitly(frame, token):
                    break
                self._next += 1
                self._read_field(frame, token)
                if self._unwind_to == depth:
                    self._unwind_to = None
                elif self._unwind_to is not None:
                    break
                self._accept_separator()
            elif token.kind == END:
                self._report_unclosed(frame, token)
                break
            elif token.text in ("}", ">"):
                self._next += 1
                if self._closes(frame, token):
                    break
            else:
                self._error(token, "a field name is missing", expected="a field name", found=token.text)
                self._next += 1
                self._skip_to_next_field()
        self._check_required(frame)
        self._frames.pop()

    def _read_field(self, frame: _Frame, name: Token) -> None:
        descriptor = frame.descriptor.fields_by_name.get(name.text)
        if descriptor is None:
            self._report_unknown(frame, name)
            self._skip_to_next_field()
            return
        colon = self._accept(":")
        repeated = is_repeated(descriptor)
        if not repeated and name.text in frame.counts:
            first = self.positions.at(*frame.path, name.text)
            self._error(name, f"{name.text} is given twice", found=f"the first at line {first.line}")
            self._skip_to_next_field()
            return
        is_message = descriptor.message_type is not None
        read_one = self._read_message if is_message else self._read_scalar
        if not colon and not is_message and self._tokens[self._next].text not in CLOSERS:
            self._error(name, f"{name.text} has no colon", remedy=f"write {name.text}: and its value")
        if repeated and self._accept("["):
            self._read_list(frame, descriptor, name, read_one)
        else:
            read_one(frame, descriptor, name)

    def _read_list(self, frame: _Frame, descriptor: FieldDescriptor, name: Token, read_one: Any) -> None:
        opening = self._tokens[self._next - 1]
        if self._accept("]"):
            return
        place = name
        while self._unwind_to is None:
            read_one(frame, descriptor, place)
            place = self._tokens[self._next]
            if self._accept("]"):
                return
            if self._accept(","):
                place = self._tokens[self._next]
                continue
            if place.kind == END or place.text in ("}", ">") or self._begins_field():
                self._error(opening, f"the list of {descriptor.name} is never closed", expected="]")
                return
            self._error(place, f"a comma is missing in the list of {descriptor.name}", expected=", or ]")

    def _read_message(self, frame: _Frame, descriptor: FieldDescriptor, place: Token) -> None:
        opening = self._tokens[self._next]
        if opening.text not in ("{", "<"):
            remedy = f"write {descriptor.name} {{ ... }}"
            self._error(
                place, f"{descriptor.name} takes a message", expected="{", found=opening.text, remedy=remedy
            )
            self._skip_to_next_field()
            return
        self._next += 1
        path = self._record(frame, descriptor, place)
        if is_repeated(descriptor):
            inner = getattr(frame.message, descriptor.name).add()
        else:
            inner = getattr(frame.message, descriptor.name)
            inner.SetInParent()
        self._read_fields(_Frame(descriptor.name, inner, path, CLOSERS[opening.text], place.offset))

    def _read_scalar(self, frame: _Frame, descriptor: FieldDescriptor, place: Token) -> None:
        first = self._tokens[self._next]
        negative = self._accept("-")
        token = self._tokens[self._next]
        if token.kind in (END, MARK) or self._begins_field():
            self._error(place, f"{descriptor.name} has no value", found=token.text)
            self._skip_to_next_field()
            return
        try:
            value = self._convert(descriptor, negative, token)
        except ValueProblem as problem:
            self._error(first, problem.what, expected=problem.expected, remedy=problem.remedy)
            frame.counts.setdefault(descriptor.name, 0)
            self._skip_to_next_field()
            return
        self._record(frame, descriptor, place)
        if is_repeated(descriptor):
            getattr(frame.message, descriptor.name).append(value)
        else:
            setattr(frame.message, descriptor.name, value)

    def _convert(self, descriptor: FieldDescriptor, negative: bool, token: Token) -> Any:
        """The value at `token`, and the tokens it takes."""
        if token.text[0] in "\"'" and token.kind != STRING:
            raise ValueProblem("the string is not closed on its line", f"a closing {token.text[0]}")
        if descriptor.type not in STRING_TYPES:
            value = convert(descriptor, negative, token)
            self._next += 1
            return value
        if token.kind != STRING or negative:
            written = _UNQUOTED.match(self._text, token.offset)
            remedy = f'write "{written[0]}"' if written else None
            raise ValueProblem(f"{descriptor.name} takes a string", "text in quotes", remedy)
        literals = []
        while self._tokens[self._next].kind == STRING:
            literals.append(self._tokens[self._next])
            self._next += 1
        return convert_strings(descriptor, literals)

    def _record(self, frame: _Frame, descriptor: FieldDescriptor, place: Token) -> Path:
        """Counts the field and notes where it stands; gives its path."""
        name = descriptor.name
        index = frame.counts.get(name, 0)
        frame.counts[name] = index + 1
        path: Path = (*frame.path, name)
        if not is_repeated(descriptor):
            self.positions.record(path, place.offset)
            return path
        if index == 0:
            self.positions.record(path, place.offset)
        self.positions.record((*path, index), place.offset)
        return (*path, index)

    # The ends of messages

    def _closes(self, frame: _Frame, token: Token) -> bool:
        if not frame.closer:
            self._error(
                token, f"{token.text} closes nothing", remedy="remove it, or add what it should close"
            )
            return False
        if token.text != frame.closer:
            what = f"{frame.title} is closed by the wrong bracket"
            self._error(token, what, expected=frame.closer, found=token.text)
        return True

    def _closes_implicitly(self, frame: _Frame, token: Token) -> bool:
        """`layer {` inside an open layer: the brace before it was forgotten, and is taken as written."""
        if token.text in frame.descriptor.fields_by_name or not self._begins_field():
            return False
        for depth in range(len(self._frames) - 1, 0, -1):
            if self._frames[depth].name == token.text:
                open_frame = self._frames[depth]
                where = self._lines.location(open_frame.offset)
                self._error(
                    token,
                    f"the {open_frame.name} before this one is not closed",
                    expected=open_frame.closer,
                    found=token.text,
                    remedy=f"close the {open_frame.name} that begins at line {where.line}",
                )
                self._unwind_to = depth
                return True
        return False

    def _report_unclosed(self, frame: _Frame, end: Token) -> None:
        # One missing brace leaves every message around it open: the innermost is reported, and it alone.
        if frame.closer:
            self._error_at(
                frame.offset, f"{frame.title} is never closed", expected=frame.closer, found=end.text
            )
            self._unwind_to = 0

    def _check_required(self, frame: _Frame) -> None:
        for name in required_names(frame.descriptor):
            if name not in frame.counts:
                self._error_at(
                    frame.offset, f"{frame.title} needs {name}", remedy=f"add {name}: and its value"
                )

    # Tokens

    def _accept(self, mark: str) -> bool:
        found = self._tokens[self._next].text == mark
        self._next += found
        return found

    def _accept_separator(self) -> None:
        self._next += self._tokens[self._next].text in (",", ";")

    def _begins_line(self, token: Token) -> bool:
        before = self._text.rfind("\n", 0, token.offset) + 1
        return token.kind == IDENTIFIER and not self._text[before : token.offset].strip()

    def _begins_field(self) -> bool:
        """Whether the next tokens are a name and what follows only a field's name."""
        token = self._tokens[self._next]
        return token.kind == IDENTIFIER and self._tokens[self._next + 1].text in (":", "{", "<")

    def _skip_to_next_field(self) -> None:
        """Leaves what remains of a field that cannot be read; messages and lists in it go whole."""
        self._accept(":")
        token = self._tokens[self._next]
        while not (token.kind == END or token.text in ("}", ">", "]", ",", ";") or self._begins_field()):
            self._next += 1
            if token.text in CLOSERS:
                self._skip_group()
            token = self._tokens[self._next]
            if self._begins_line(token):
                break

    def _skip_group(self) -> None:
        depth = 1
        while depth and self._tokens[self._next].kind != END:
            text = self._tokens[self._next].text
            depth += (text in CLOSERS) - (text in ("}", ">", "]"))
            self._next += 1

    # Errors

    def _report_unknown(self, frame: _Frame, name: Token) -> None:
        around = [(outer.name, outer.descriptor) for outer in self._frames]
        layer_type = getattr(frame.message, "type", "")
        remedy = remedy_for_field(
            name.text, frame.descriptor, around, layer_type if isinstance(layer_type, str) else ""
        )
        kind = f" ({frame.descriptor.name})" if frame.name else ""
        self._error(name, f"{frame.title}{kind} has no field {name.text}", remedy=remedy)

    def _error(self, token: Token, what: str, **details: Any) -> None:
        self._error_at(token.offset, what, **details)

    def _error_at(self, offset: int, what: str, **details: Any) -> None:
        layer = next(
            (frame.message.name for frame in self._frames if frame.name in ("layer", "layers")), None
        )
        self.errors.append(NetcError(what, at=self._lines.location(offset), layer=layer or None, **details))
        if len(self.errors) >= MOST_ERRORS:
            raise _TooManyErrors
