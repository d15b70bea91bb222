"""Score rows as JSON Lines parts: many writers without a server, readers that survive any crash.

Each writer owns one part file (a kernel lock that dies with it) under its machine's name (on shared file systems such
a lock may not reach other machines), and appends all rows of one clip and metric in one
fsynced write, so a killed process loses at most the clip in flight. A torn last line is ignored by readers and cut off
by the next writer of that part.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from talkbench import migrate
from talkbench.atomic import AppendFile
from talkbench.errors import TalkbenchError
from talkbench.provenance import host_name
from talkbench.schema import SCHEMA_VERSION, ScoreRow

_log = logging.getLogger(__name__)


class RowWriter:
    """Appends rows to the first part of this machine in a run that no living process is writing."""

    def __init__(self, folder: Path) -> None:
        number = 0
        while True:
            try:
                self._file = AppendFile(folder / f"part-{host_name()}-{number:04d}.jsonl")
                break
            except BlockingIOError:
                number += 1
        if self._file.repaired_bytes:
            _log.warning("%s: cut off a torn last line of %d bytes", self._file.path, self._file.repaired_bytes)

    def write(self, rows: Iterable[ScoreRow]) -> None:
        """Append rows; they are on disk when this returns.

        Raises:
            TalkbenchError: If the disk is full; nothing of this write remains, everything before it does.
        """
        try:
            self._file.append([row.to_json() for row in rows])
        except OSError as error:
            raise TalkbenchError(
                f"cannot write {self._file.path}: {error.strerror}. All clips scored before are stored; "
                "free some space and run the same command again."
            ) from error

    def close(self) -> None:
        """Let the next process have the part."""
        self._file.close()


class RowStore:
    """Reads the rows of a run, incrementally: `refresh` parses only what was appended since the last call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        self._rows: dict[tuple[str, str, str], dict[str, Any]] = {}

    def refresh(self) -> None:
        """Read what is new. Of rows with the same clip, score key and output, the newest wins."""
        for part in sorted(self._folder.glob("part-*.jsonl")):
            for row in self._new_lines(part):
                name = (row["clip_key"], row["score_key"], row["output"])
                known = self._rows.get(name)
                if known is None or known["written_at"] <= row["written_at"]:
                    self._rows[name] = row

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows as plain dictionaries in the current schema."""
        return list(self._rows.values())

    def statuses(self) -> dict[tuple[str, str], set[str]]:
        """Return the statuses stored per clip key and score key."""
        found: dict[tuple[str, str], set[str]] = {}
        for (clip_key, score_key, _), row in self._rows.items():
            found.setdefault((clip_key, score_key), set()).add(row["status"])
        return found

    def _new_lines(self, part: Path) -> Iterator[dict[str, Any]]:
        start = self._offsets.get(part, 0)
        size = part.stat().st_size
        if size < start:
            start = 0
        if size == start:
            return
        with part.open("rb") as file:
            file.seek(start)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._offsets[part] = start + whole
        for number, line in enumerate(data[:whole].splitlines(), 1):
            yield _parse(line, f"{part}, line {number} after byte {start}")


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TalkbenchError(f"{where}: not JSON ({error}). Remove the line; its clip is scored again.") from error
    if not isinstance(row, dict):
        raise TalkbenchError(f"{where}: not a row. Remove the line; its clip is scored again.")
    if row.get("schema_version") != SCHEMA_VERSION:
        return migrate.lift(row, where)
    found: dict[str, Any] = row
    return found


def validate(rows: Iterable[dict[str, Any]]) -> list[ScoreRow]:
    """Return rows as validated records, for export and tests.

    Raises:
        TalkbenchError: If a row does not follow the schema.
    """
    try:
        return [ScoreRow.model_validate(row) for row in rows]
    except ValidationError as error:
        raise TalkbenchError(f"a stored row does not follow schema {SCHEMA_VERSION}: {error}") from error
