"""How much memory a worker uses while a job runs: of the host, with all processes below it, and of its GPUs.

Host memory is the sum of the resident sets: pages that several processes share count once for each. GPU memory is all
that is in use on the worker's GPUs, as `nvidia-smi` sees it every second, other programs included.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SAMPLE_SECONDS = 0.5
"""Least time between two looks: each reads a line of every process of the machine."""
_MEBIBYTE = 1 << 20
_INTERVAL_MILLISECONDS = 1000


@dataclass(frozen=True)
class PeakMemory:
    """The most that was seen.

    Attributes:
        rss_bytes: Of the worker and the processes below it, together; None where there is no `/proc`.
        gpu_bytes: GPU as `nvidia-smi` names it -> bytes in use on it; None if it has none, or nothing can tell.
    """

    rss_bytes: int | None
    gpu_bytes: dict[str, int] | None

    def facts(self) -> dict[str, Any]:
        """Return it as plain data, to be kept beside the clip."""
        return {"peak_rss_bytes": self.rss_bytes, "peak_gpu_bytes": self.gpu_bytes}


class MemoryMeter:
    """Measures between entering and leaving it, when `sample` is called, but not too often.

    Args:
        pid: The worker.
        gpus: Those that it sees, as `CUDA_VISIBLE_DEVICES` names them.
    """

    def __init__(self, pid: int, gpus: tuple[str, ...] = ()) -> None:
        self._pid = pid
        self._gpus = gpus
        self._rss_bytes: int | None = None
        self._gpu_bytes: dict[str, int] = {}
        self._watching: subprocess.Popen[bytes] | None = None
        self._begun = b""
        self._looked = 0.0

    def __enter__(self) -> Self:
        program = shutil.which("nvidia-smi") if self._gpus else None
        if program is not None:
            command = [program, f"--id={','.join(self._gpus)}", "--query-gpu=index,memory.used"]
            command += ["--format=csv,noheader,nounits", f"--loop-ms={_INTERVAL_MILLISECONDS}"]
            # Its pipe is read by us only: if we are gone, its next line ends it.
            self._watching = subprocess.Popen(  # noqa: S603 - found on PATH, and an argument list
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
            os.set_blocking(self._watching.stdout.fileno(), False)  # type: ignore[union-attr]
        self._look()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._watching is not None:
            self._watching.kill()
            self._watching.wait()
            self._watching.stdout.close()  # type: ignore[union-attr]

    def sample(self) -> None:
        """Look, unless that was done a moment ago."""
        if time.monotonic() - self._looked >= SAMPLE_SECONDS:
            self._look()

    def peak(self) -> PeakMemory:
        """Look once more, and return the most that was seen."""
        self._look()
        return PeakMemory(self._rss_bytes, self._gpu_bytes or None)

    def _look(self) -> None:
        self._looked = time.monotonic()
        now = rss_bytes(self._pid)
        if now is not None:
            self._rss_bytes = max(now, self._rss_bytes or 0)
        if self._watching is not None:
            *lines, self._begun = (self._begun + self._read()).split(b"\n")
            for line in lines:
                index, _, mebibytes = line.decode("ascii", "replace").partition(",")
                if mebibytes.strip().isdigit():
                    used = int(mebibytes) * _MEBIBYTE
                    self._gpu_bytes[index.strip()] = max(used, self._gpu_bytes.get(index.strip(), 0))

    def _read(self) -> bytes:
        """Return what `nvidia-smi` has printed since."""
        return self._watching.stdout.read() or b""  # type: ignore[union-attr]


def rss_bytes(pid: int) -> int | None:
    """Return the resident memory of a process, of those of its session and of all below them.

    None if it is gone, or there is no `/proc`.
    """
    parents, family = {}, {pid}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            _, parent, _, session = (folder / "stat").read_bytes().rpartition(b")")[2].split()[:4]
            parents[int(folder.name)] = int(parent)
            if int(session) == pid:
                family.add(int(folder.name))
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    found = [pages for member in family & parents.keys() if (pages := _resident_pages(member)) is not None]
    return sum(found) * os.sysconf("SC_PAGE_SIZE") if found else None


def _resident_pages(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    return None
