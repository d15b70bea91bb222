"""Files that are either whole or absent: write-then-rename, append-with-fsync, torn-line repair."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

_TAIL_BLOCK_BYTES = 1 << 16


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIOWrapper]:
    """Yield a text file that becomes `path` on success and vanishes on failure.

    The temporary file lies in the same folder, is fsynced, and is renamed over `path`, so a reader sees the old
    content or the new one, never a part. Parents are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:40]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with partial.open("x", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    with replacing(path) as file:
        file.write(text)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step."""
    with replacing(path) as file:
        file.buffer.write(data)


@contextlib.contextmanager
def lock(path: Path, *, wait: bool) -> Iterator[bool]:
    """Hold an exclusive lock on `path` for the block; yield whether it was obtained.

    The kernel frees the lock when the process dies, by `kill -9` too, so no lock is ever stale.

    Args:
        path: Lock file, created if absent and left behind (it is empty).
        wait: Block until the lock is free; otherwise yield False at once if somebody holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


class AppendFile:
    """A JSON Lines part with one writer: locked, repaired on opening, fsynced on every append.

    Args:
        path: The part; created if absent. A torn last line (a writer died inside a write) is cut off.

    Raises:
        BlockingIOError: If another process is writing this part.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.repaired_bytes = self._repair()
        except BaseException:
            os.close(self._handle)
            raise

    def append(self, lines: list[str]) -> None:
        """Write all lines or none: a failed write (full disk) is rolled back before the error is raised."""
        data = "".join(f"{line}\n" for line in lines).encode()
        before = os.fstat(self._handle).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._handle, data[written:])
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, before)
            raise

    def close(self) -> None:
        """Release the lock."""
        os.close(self._handle)

    def _repair(self) -> int:
        size = os.fstat(self._handle).st_size
        end = size
        while end > 0:
            start = max(0, end - _TAIL_BLOCK_BYTES)
            newline = os.pread(self._handle, end - start, start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._handle, end)
            os.fsync(self._handle)
        return size - end
