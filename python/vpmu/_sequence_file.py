"""Reading the TOML file of a switch sequence, and the line on which each of its parts is."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

from ._errors import ScenarioError, UnknownName

#: A place in the file: keys and indices.
Where = tuple[str | int, ...]
#: Whose registers a sequence accesses.
VENDORS = ("intel", "amd")
_KEYS = ("summary", "source", "vendor", "load", "put", "exit", "entry")
_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]*")
_STRINGS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (r'"""(?:\\.|.)*?"{3,5}', r"'''.*?'{3,5}", r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'")
)


class _Lines:
    """Walks through a text that is TOML and notes where each value begins."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Where, int] = {}
        self._text = text
        self._at = 0
        self._tables: dict[Where, int] = {}
        self._document()

    def _note(self, where: Where) -> None:
        self.lines.setdefault(where, self._text.count("\n", 0, self._at) + 1)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found.group()

    def _next(self) -> str:
        self._take(_SPACE)
        return self._text[self._at : self._at + 1]

    def _string(self) -> str:
        for pattern in _STRINGS:
            found = self._take(pattern)
            if found:
                return found
        return ""

    def _keys(self) -> Where:
        """A dotted key."""
        keys: list[str] = []
        while True:
            self._next()
            keys.append(self._string()[1:-1] or self._take(_BARE))
            if self._next() != ".":
                return tuple(keys)
            self._at += 1

    def _document(self) -> None:
        table: Where = ()
        while self._next():
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Where:
        """``[a.b]``, or ``[[a.b]]``, which is one more element of an array."""
        start = self._at
        self._at += 1
        many = self._text[self._at : self._at + 1] == "["
        self._at += many
        where: Where = ()
        keys = self._keys()
        for i, key in enumerate(keys):
            where = (*where, key)
            if where in self._tables:
                if many and i == len(keys) - 1:
                    self._tables[where] += 1
                where = (*where, self._tables[where])
            elif many and i == len(keys) - 1:
                self._tables[where] = 0
                where = (*where, 0)
        self._next()
        self._at, end = start, self._text.index("]", self._at) + 1 + many
        self._note(where)
        self._at = end
        return where

    def _pair(self, table: Where) -> None:
        self._next()
        start = self._at
        where = (*table, *self._keys())
        end, self._at = self._at, start
        self._note(where)
        self._at = end
        self._next()
        self._at += 1  # the equals sign
        self._value(where)

    def _value(self, where: Where) -> None:
        first = self._next()
        if first == "[":
            self._at += 1
            index = 0
            while self._next() != "]":
                self._note((*where, index))
                self._value((*where, index))
                index += 1
                if self._next() == ",":
                    self._at += 1
            self._at += 1
        elif first == "{":
            self._at += 1
            while self._next() != "}":
                self._pair(where)
                if self._next() == ",":
                    self._at += 1
            self._at += 1
        elif not self._string():
            self._take(_SCALAR)


def parse_sequence(text: str, path: str) -> tuple[dict[str, Any], Callable[[Where], int]]:
    """Parse a file of a switch sequence as far as TOML goes.

    Parameters
    ----------
    text : str
    path : str
        For messages.

    Returns
    -------
    (dict, callable)
        The keys, those left out as empty; and what finds the line of a place, or of the nearest one around it.

    Raises
    ------
    ScenarioError
        In one line, with the file and the line.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = re.search(r"\(at line (\d+)|\(at end of document\)", str(error))
        line = found.group(1) if found and found.group(1) else text.count("\n") + 1
        message = re.sub(r" \(at .*\)", "", str(error))
        raise ScenarioError(f"{path}:{line}: this is no TOML: {message}") from None
    lines = _Lines(text).lines

    def line_of(where: Where) -> int:
        while where and where not in lines:
            where = where[:-1]
        return lines.get(where, 1)

    for key in table:
        if key not in _KEYS:
            raise ScenarioError(f"{path}:{line_of((key,))}: {UnknownName('key of a switch sequence', key, _KEYS)}")
    for key in ("load", "put"):
        if key not in table:
            raise ScenarioError(f"{path}:1: a switch sequence has {key} = [...], a list of steps; this file has none")
    for key in ("load", "put", "exit", "entry"):
        if not isinstance(table.setdefault(key, []), list):
            raise ScenarioError(f"{path}:{line_of((key,))}: {key} is a list of steps, not {table[key]!r}")
    if table.setdefault("vendor", "intel") not in VENDORS:
        raise ScenarioError(f"{path}:{line_of(('vendor',))}: {UnknownName('vendor', str(table['vendor']), VENDORS)}")
    for key in ("summary", "source"):
        if not isinstance(table.setdefault(key, ""), str):
            raise ScenarioError(f"{path}:{line_of((key,))}: {key} is a text, not {table[key]!r}")
    return table, line_of
