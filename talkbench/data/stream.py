"""Elements of a JSON file of any size, one at a time: an array, JSON Lines, or values one after the other.

What cannot be read is yielded as a `Broken` with a reason and costs that element only, never the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

CHUNK_BYTES = 1 << 20
MAX_ELEMENT_CHARS = 1 << 20
"""An element that is not finished after this many characters is malformed; bounds the memory."""

_BETWEEN = re.compile(r"[\s,\ufeff]*")
_RESYNC = re.compile(r"(?:\}\s*,?|\n)\s*(?=\{)")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Broken:
    """An element that is none.

    Attributes:
        reason: `malformed-json`, `not-utf8` or `truncated`.
    """

    reason: str


def elements(file: BinaryIO) -> Iterator[Any]:
    """Yield the elements of an open file in order; those that cannot be read as `Broken`."""
    return iter(_Stream(file))


def elements_of(path: Path) -> Iterator[Any]:
    """Yield the elements of a file in order; those that cannot be read as `Broken`."""
    with path.open("rb") as file:
        yield from elements(file)


class _Stream:
    """A window of text over the file, moved along as elements are taken from its front."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._rest = file, b""
        self._text, self._at, self._ended = "", 0, False
        self._dirty = self._gave_up = False
        self._decode = json.JSONDecoder().raw_decode

    def __iter__(self) -> Iterator[Any]:
        self._skip()
        in_array = self._text[self._at : self._at + 1] == "["
        self._at += in_array
        while True:
            self._skip()
            if self._at >= len(self._text):
                if in_array and not self._gave_up:
                    yield Broken("truncated")
                return
            if in_array and self._text[self._at] == "]":
                self._at += 1
                self._skip()
                if self._at < len(self._text):
                    yield Broken("malformed-json")
                return
            yield self._next()

    def _next(self) -> Any:
        start = self._at
        while True:
            try:
                value, self._at = self._decode(self._text, self._at)
            except (ValueError, RecursionError):
                if not self._ended and len(self._text) - self._at < MAX_ELEMENT_CHARS:
                    self._more()
                    start = self._at
                    continue
                return self._lost()
            # A number may go on behind the end of what has been read.
            if self._at == len(self._text) and not self._ended:
                self._at = start
                self._more()
                start = self._at
                continue
            if self._dirty and _ESCAPED_BYTE.search(self._text, start, self._at):
                return Broken("not-utf8")
            return value

    def _lost(self) -> Broken:
        """Go on at the next place that looks like the start of a record."""
        while True:
            found = _RESYNC.search(self._text, self._at + 1)
            if found:
                self._at = found.end()
                return Broken("malformed-json")
            if self._ended:
                self._at, self._gave_up = len(self._text), True
                return Broken("malformed-json")
            # Keep a tail that may be the first half of the pattern.
            self._at = max(self._at, len(self._text) - 64)
            self._more()

    def _skip(self) -> None:
        """Pass over separators, reading on while there are nothing but separators."""
        while True:
            found = _BETWEEN.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text) or self._ended:
                return
            self._more()

    def _more(self) -> None:
        block = self._file.read(CHUNK_BYTES)
        self._ended = not block
        data = self._rest + block
        cut = len(data) if self._ended else len(data) - _partial_character(data)
        self._rest = data[cut:]
        piece = data[:cut].decode("utf-8", errors="surrogateescape")
        self._dirty = self._dirty or _ESCAPED_BYTE.search(piece) is not None
        self._text, self._at = self._text[self._at :] + piece, 0


def _partial_character(data: bytes) -> int:
    """Return how many bytes at the end begin a character whose rest is still to come."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if needed > back else 0
        if byte < 0x80:
            return 0
    return 0
