"""Processes that outlive their host: ended by its guard, or by whoever comes next."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talkbench.workers import orphans
from tests.support import ROOT
from tests.unit.workers.fakes import gone, is_running

HOST = """
import os, subprocess, sys, time
from talkbench.workers import orphans
orphans.start_guard()
orphans.start_guard()
token = orphans.host_prefix() + "0" * 32
code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code], env={orphans.TOKEN: token}, start_new_session=True, stdout=1)
print("host", os.getpid(), orphans.host_prefix(), flush=True)
time.sleep(600)
"""


def host() -> tuple[subprocess.Popen[str], int, str]:
    """Start a host with a child in a session of its own; return it, the child, and the prefix of its tokens."""
    process = subprocess.Popen([sys.executable, "-c", HOST], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline(), process.stdout.readline()]
    (told,) = (line for line in lines if line.startswith("host"))
    (child,) = (line for line in lines if not line.startswith("host"))
    process.stdout.close()
    return process, int(child), told.split()[2]


def guards(prefix: str) -> list[int]:
    """Return the guards of a host, found by their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if prefix.encode() in words and any(word.endswith(b"orphans.py") for word in words):
                found.append(int(entry.name))
    return found


def test_a_killed_host_leaves_nothing_and_its_guard_goes_too() -> None:
    process, child, prefix = host()
    (guard,) = guards(prefix)
    process.kill()
    process.wait()
    assert gone([child, guard])


def test_what_a_host_killed_with_its_guard_has_left_is_ended_by_the_next_one_and_nothing_else() -> None:
    process, child, prefix = host()
    other, other_child, other_prefix = host()
    for guard in guards(prefix):
        os.kill(guard, signal.SIGKILL)
    process.kill()
    process.wait()
    time.sleep(0.2)
    assert is_running(child)
    assert orphans.reap() >= 1
    assert gone([child])
    assert is_running(other_child), "it took a living host's process"
    assert orphans.carrying(other_prefix) == [other_child]
    other.kill()
    other.wait()
    assert gone([other_child])


def test_a_process_that_cannot_be_killed_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(orphans, "KILL_SECONDS", 0.05)
    monkeypatch.setattr(orphans, "carrying", lambda _: [1 << 23])
    orphans.kill_carrying("token")
    assert f"even by kill -9: {1 << 23}" in caplog.text


def test_a_host_that_leaves_by_itself_takes_its_guard_along() -> None:
    code = "from talkbench.workers import orphans; orphans.start_guard(); print(orphans.host_prefix())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    end = time.monotonic() + 30
    while guards(done.stdout.strip()) and time.monotonic() < end:
        time.sleep(0.05)
    assert not guards(done.stdout.strip())
