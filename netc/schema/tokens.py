"""Cuts prototxt into tokens, each with its offset in the text."""

from __future__ import annotations

import re
from typing import NamedTuple

IDENTIFIER, NUMBER, STRING, MARK, UNKNOWN, END = range(6)

# A number takes in letters that touch it, so that "1abc" is one bad number rather than two good tokens.
_TOKEN = re.compile(
    r"""(?:[ \t\r\n\f\v]+ | \#[^\n]*)*
    (?: ([A-Za-z_][A-Za-z0-9_]*)
      | (\.?[0-9](?:[eE][+-](?=[0-9])|[A-Za-z0-9_.])*)
      | ("(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
      | ([{}<>\[\]:;,-])
      | (["'][^\n]* | .)
    )?""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """kind: one of the constants above; text: as written, quotes included; offset: of its first character."""

    kind: int
    text: str
    offset: int


def tokenize(text: str) -> list[Token]:
    """The tokens of `text`; the last is an END. What fits no rule becomes an UNKNOWN, never an exception."""
    tokens: list[Token] = []
    offset = 0
    while offset < len(text):
        match = _TOKEN.match(text, offset)
        assert match is not None  # every part of the pattern is optional
        offset = match.end()
        group = match.lastindex
        if group is None:
            break
        tokens.append(Token(group - 1, match[group], match.start(group)))
    tokens.append(Token(END, "end of file", len(text)))
    return tokens
