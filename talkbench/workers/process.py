"""A worker as an operating-system process: started in a session of its own, read line by line, ended for good.

Every process that it starts inherits a token in its environment, by which what left its group (torchrun starts each
rank in a session of its own) is found and ended with it, even if we die first (`talkbench.workers.orphans`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from talkbench.config import inherited_environment
from talkbench.workers import orphans
from talkbench.workers.log import WorkerLog

TERMINATE_SECONDS = 3.0
"""From SIGTERM to SIGKILL: a launcher of several processes passes the signal on."""
_POLL_SECONDS = 0.02
_LAST_WORDS_SECONDS = 2.0
_READ_BYTES = 1 << 16
_READS_PER_PIPE = 32


class OutputEnded(Exception):  # noqa: N818 - an event; what it means is the caller's to say
    """The worker's stdout is closed: no message will come any more."""


class WorkerProcess:
    """One process, or the launcher of several.

    Args:
        command: Program and arguments.
        folder: Working directory, and where its temporary files go.
        log: Takes its stderr.
        environment: Variables besides the inherited ones.
        max_line_bytes: A longer line is delivered in parts.

    Raises:
        OSError: If it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        log: WorkerLog,
        environment: Mapping[str, str],
        max_line_bytes: int,
    ) -> None:
        self._log = log
        self._token = orphans.new_token()
        self._max_line_bytes = max_line_bytes
        self._begun = bytearray()
        self._lines: deque[tuple[bytes, int]] = deque()
        self._is_heard = True
        self._closed = False
        self._process = subprocess.Popen(  # noqa: S603 - an argument list from an adapter, never a shell
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=folder,
            env=_clean_environment(folder) | {orphans.TOKEN: self._token} | dict(environment),
            start_new_session=True,
        )
        self._selector = selectors.DefaultSelector()
        for stream in (self._process.stdout, self._process.stderr):
            self._selector.register(stream, selectors.EVENT_READ)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        """Process id, which is the group's and the session's too."""
        return self._process.pid

    def send(self, line: bytes) -> None:
        """Write to its stdin.

        Raises:
            OutputEnded: If nobody reads there any more.
        """
        try:
            self._process.stdin.write(line)  # type: ignore[union-attr]
        except OSError as error:
            raise OutputEnded from error

    def next_line(self, timeout: float) -> tuple[bytes, int] | None:
        """Return the next line of stdout with its arrival (monotonic nanoseconds), or None if none comes in time.

        Raises:
            OutputEnded: If stdout is closed and all its lines were taken.
        """
        end = time.monotonic() + timeout
        while not self._lines:
            if self._process.stdout not in self._open_streams():
                raise OutputEnded
            left = end - time.monotonic()
            if left <= 0:
                return None
            self._take(left)
        return self._lines.popleft()

    def take_log(self) -> None:
        """Take what it has printed so far: no more than a pipe holds, or a flood would never end."""
        for _ in range(_READS_PER_PIPE):
            if not self._open_streams() or not self._take(0.0):
                return

    def how_it_ended(self) -> str:
        """Wait briefly for the end, and say which one it was."""
        self._wait(_LAST_WORDS_SECONDS)
        code = self._process.returncode
        if code is None:
            return "it closed its stdout but lives on"
        if code >= 0:
            return f"the process left with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process was ended by signal {-code}"

    def leave(self, timeout: float) -> None:
        """Wait for it to go by itself, then see to it; what it says from here on is not kept."""
        self._is_heard = False
        self._wait(timeout)
        self.end()

    def end(self) -> None:
        """End it and all that it started, and log its last words; does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        self._is_heard = False
        if self._process.poll() is None:
            self._signal_group(signal.SIGTERM)
            self._wait(TERMINATE_SECONDS)
        self._kill_all()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel; `kill_carrying` has told
            self._process.wait(TERMINATE_SECONDS)
        self.take_log()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        self._selector.close()

    def interrupt(self) -> None:
        """Kill every process of the worker at once; safe from another thread, which then finds its output ended."""
        if not self._closed:  # the number of a process that is gone may be another's by now
            self._kill_all()

    def _kill_all(self) -> None:
        self._signal_group(signal.SIGKILL)
        orphans.kill_carrying(self._token)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _wait(self, seconds: float) -> None:
        """Read on until the process is gone or the time is up: a full pipe would keep it from leaving."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            self._take(_POLL_SECONDS)

    def _open_streams(self) -> list[object]:
        return [key.fileobj for key in self._selector.get_map().values()]

    def _take(self, timeout: float) -> bool:
        """Take what both streams hold, waiting for something; return whether there was anything."""
        ready = self._selector.select(timeout)
        for key, _ in ready:
            now_ns = time.monotonic_ns()
            data = os.read(key.fd, _READ_BYTES)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.fileobj is self._process.stderr:
                self._log.write(data)
            elif self._is_heard:
                self._begun += data
                self._cut(now_ns)
        return bool(ready)

    def _cut(self, now_ns: int) -> None:
        *whole, rest = bytes(self._begun).split(b"\n")
        if len(rest) > self._max_line_bytes:
            whole, rest = [*whole, rest], b""
        self._lines.extend((line, now_ns) for line in whole)
        self._begun = bytearray(rest)


def _clean_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a worker: nothing on Python's path but what is installed, and no downloads."""
    return inherited_environment() | {
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TMPDIR": str(folder),
    }
