"""What a worker prints: kept in a file up to a size, and its end in memory for the message of a failure."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from talkbench.provenance import without_credentials

MAX_BYTES = 32 << 20
_TAIL_BYTES = 1 << 14
_TAIL_LINES = 8
_LINE_CHARACTERS = 300


class WorkerLog:
    """A log file that a worker cannot fill the disk with.

    Args:
        path: The file; appended to, parents are created.
        max_bytes: What comes after these is counted, not kept.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._left = max_bytes
        self._dropped = 0
        self._end = b""

    def write(self, data: bytes) -> None:
        """Append what the worker printed."""
        self._end = (self._end + data)[-_TAIL_BYTES:]
        kept = data[: self._left]
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)
        if kept:
            self._file.write(kept)

    def mark(self, text: str) -> None:
        """Append a line of ours; last words are those after it."""
        self._end = b""
        self._file.write(f"--- {text}\n".encode())

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that say something, credentials removed."""
        text = without_credentials(self._end.decode("utf-8", "replace"))
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return tuple(line[:_LINE_CHARACTERS] for line in lines[-_TAIL_LINES:])

    def close(self) -> None:
        """Say how much is missing, and close the file."""
        if self._dropped:
            self._file.write(
                f"\n--- {self._dropped} further bytes were not kept; they end with:\n".encode() + self._end
            )
        self._file.close()
