"""Where each stage keeps what it makes, below one build folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from talkbench import atomic
from talkbench.errors import TalkbenchError

DEFAULT = Path("runs/talkbench-data")


@dataclass(frozen=True)
class Build:
    """The files of one build of TalkBench."""

    root: Path

    @property
    def parts(self) -> Path:
        """Finished parts of the index, one per metadata file."""
        return self.root / "index" / "parts"

    @property
    def candidates(self) -> Path:
        """The candidate table."""
        return self.root / "index" / "candidates.parquet"

    @property
    def index_report(self) -> Path:
        """Pinned metadata files and counts of the index."""
        return self.root / "index" / "report.json"

    @property
    def selection(self) -> Path:
        """Accepted clips and reserve, one JSON line each."""
        return self.root / "select" / "selection.jsonl"

    @property
    def select_report(self) -> Path:
        """Rejections by reason and the achieved quotas."""
        return self.root / "select" / "report.json"

    @property
    def exclusions(self) -> Path:
        """What trainers must leave out."""
        return self.root / "select" / "exclusions.json"

    @property
    def attempts(self) -> Path:
        """Every attempt to fetch, appended."""
        return self.root / "fetch" / "attempts.jsonl"

    @property
    def snapshot(self) -> Path:
        """The frozen availability of every source that was tried."""
        return self.root / "fetch" / "snapshot.jsonl"

    @property
    def media(self) -> Path:
        """Fetched media."""
        return self.root / "fetch" / "media"

    @property
    def checked(self) -> Path:
        """What networks measured in fetched media, appended."""
        return self.root / "check" / "measured.jsonl"

    def release(self, version: str) -> Path:
        """Return the folder of a rendered version."""
        return self.root / "release" / version


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, the same bytes for the same value."""
    atomic.write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:
    """Return what an earlier stage wrote.

    Raises:
        TalkbenchError: If it is not there or not JSON; names the command that makes it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise TalkbenchError(f"{path} is not there: run `{made_by}` first.") from error
    except ValueError as error:
        raise TalkbenchError(f"{path} is not JSON ({error}): remove it and run `{made_by}` again.") from error


def read_lines(path: Path, made_by: str) -> list[Any]:
    """Return the records of a JSON Lines file that an earlier stage wrote.

    Raises:
        TalkbenchError: If it is not there, or a line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TalkbenchError(f"{path} is not there: run `{made_by}` first.") from error
    except UnicodeDecodeError as error:
        raise TalkbenchError(f"{path} is not UTF-8 ({error}): remove it and run `{made_by}` again.") from error
    found = []
    # Not `splitlines`: U+2028 and its like may stand within a text of a record.
    for at, line in enumerate(StringIO(text), 1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise TalkbenchError(f"{path}, line {at}: not JSON ({error}); run `{made_by}` again.") from error
    return found
