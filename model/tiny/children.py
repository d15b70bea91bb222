"""Child processes whose words are kept and followed, and who do not outlive us for long.

A child holds the lock of its log file: one that is left over from a killed run is waited for, not raced. It ends when
it next says something that nobody hears, or earlier if it calls `leave_with_parent`.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from talkbench.errors import TalkbenchError

EVERY_SECONDS = 30.0
"""Between two words about the same child."""


def leave_with_parent(every_seconds: float = 1.0) -> None:
    """Have this process end soon after the one that started it, by `kill -9` too."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every_seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Children:
    """The child processes of this one.

    Args:
        tell: Told every so often what a child said last.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._running: set[subprocess.Popen[str]] = set()
        self._guard = threading.Lock()
        self._stopped = False

    def run(self, command: Sequence[str], log: Path) -> None:
        """Run a program to its end, its words appended to a log.

        Raises:
            TalkbenchError: If it fails; with its last words.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file:
            self._hold(file, log)
            with self._guard:
                if self._stopped:
                    raise TalkbenchError("stopped before it began. Run the same command again.")
                process = subprocess.Popen(  # noqa: S603 - our own programs
                    list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    pass_fds=(file.fileno(),),
                )  # fmt: skip
                self._running.add(process)
            last, told = "", time.monotonic()
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            for line in process.stdout:
                file.write(line)
                file.flush()
                last = line.strip() or last
                if time.monotonic() - told > EVERY_SECONDS:
                    told = time.monotonic()
                    self._tell(f"{log.parent.name}: {last}")
            code = process.wait()
        with self._guard:
            self._running.discard(process)
        if code:
            raise TalkbenchError(f"ended with {code}: {last or 'without a word'} (all of it: {log})")

    def _hold(self, file: TextIO, log: Path) -> None:
        """Take the lock of a log, which the child inherits."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._tell(f"{log.parent.name}: waits for a process that a stopped run has left")
            fcntl.flock(file, fcntl.LOCK_EX)

    def stop(self) -> None:
        """End all that run, and begin no more."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                process.terminate()
