"""Folders for work in progress, which outlive neither their process nor, by much, its violent end.

A folder is held by a lock that the kernel frees when the process dies; whoever makes the next folder removes those
that nobody holds any more.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from talkbench import atomic

_PREFIX = "talkbench-scratch-"


@contextlib.contextmanager
def folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new empty folder that is removed afterwards.

    Args:
        parent: Where to make it; by default where the system keeps temporary files.
    """
    parent = parent or Path(tempfile.gettempdir())
    _remove_abandoned(parent)
    path = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    with atomic.lock(_lock_of(path), wait=True):
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            _remove(path)


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        if path.is_dir():
            with contextlib.suppress(PermissionError), atomic.lock(_lock_of(path), wait=False) as nobody_holds_it:
                if nobody_holds_it:
                    _remove(path)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        _lock_of(path).unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
