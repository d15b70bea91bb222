"""Progress as a protocol: library code reports, the command line draws, tests stay silent."""

from __future__ import annotations

import logging
import time
from typing import Protocol

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Receives what happens in a long job."""

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` steps."""

    def step(self, label: str, *, ok: bool = True) -> None:
        """Finish one step; `ok` is False if the step produced a failure row."""

    def finish(self) -> None:
        """End the stage."""


class Silent:
    """Draws nothing."""

    def start(self, stage: str, total: int) -> None:
        """Ignore."""

    def step(self, label: str, *, ok: bool = True) -> None:
        """Ignore."""

    def finish(self) -> None:
        """Ignore."""


class Logged:
    """One log line a minute, for output that is not a terminal."""

    def __init__(self, every_seconds: float = 60.0) -> None:
        self._every_seconds = every_seconds

    def start(self, stage: str, total: int) -> None:
        """Log the size of the job."""
        self._stage, self._total, self._done, self._failed = stage, total, 0, 0
        self._began = self._last = time.monotonic()
        _log.info("%s: %d to do", stage, total)

    def step(self, label: str, *, ok: bool = True) -> None:
        """Count, and log if a minute has passed."""
        self._done += 1
        self._failed += not ok
        now = time.monotonic()
        if now - self._last >= self._every_seconds:
            self._last = now
            _log.info("%s: %d of %d, %d failed, last %s", self._stage, self._done, self._total, self._failed, label)

    def finish(self) -> None:
        """Log the outcome."""
        seconds = time.monotonic() - self._began
        _log.info("%s: %d of %d in %.0f s, %d failed", self._stage, self._done, self._total, seconds, self._failed)
