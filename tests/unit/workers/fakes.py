"""What the tests of workers share."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from talkbench.workers.host import SHIM, Limits, Worker
from talkbench.workers.log import WorkerLog
from talkbench.workers.protocol import Job
from tests.support import ROOT

FAKES = ROOT / "tests" / "data" / "workers"
SECOND = 10.0


def command(behaviour: str, clip: Path, *, raw: bool = False) -> list[str]:
    """Return the launch line of a fake."""
    if raw:
        return [sys.executable, "-S", str(FAKES / "raw.py"), behaviour]
    return [sys.executable, str(SHIM), str(FAKES / "fake.py"), behaviour, str(clip)]


def worker(
    behaviour: str, clip: Path, folder: Path, *, raw: bool = False, start: float = SECOND, silence: float = SECOND
) -> Worker:
    """Start a fake."""
    folder.mkdir(parents=True, exist_ok=True)
    return Worker(
        command(behaviour, clip, raw=raw),
        folder=folder,
        log=WorkerLog(folder / "worker.log"),
        limits=Limits(start, silence),
    )


def job(folder: Path, name: str = "one", seed: int = 1) -> Job:
    """Return a job of one second."""
    return Job(
        id=name,
        image="image.png",
        audio="audio.wav",
        audio_seconds=1.0,
        seed=seed,
        output=str(folder / f"{name}.mp4"),
        scratch=str(folder),
    )


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    """Return whether all processes are gone within some seconds."""
    end = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def carrying_any(text: bytes, folder: Path) -> list[int]:
    """Return the processes that work in a folder and have a text in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (entry / "cmdline").read_bytes() and os.readlink(entry / "cwd") == str(folder):
                found.append(int(entry.name))
    return found
