"""Data prepared by several processes, killed and gone on with, are the bytes of one undisturbed process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.data import prepare
from tests.support import ROOT, make_clip

NUM_CLIPS = 17
"""One more than a shard holds: the second shard is finished long before the first."""


def asked(folder: Path, out: str, jobs: int) -> list[str]:
    given = ["--source", "folder", "--root", folder / "clips", "--chunks", 1, "--out", folder / out, "--jobs", jobs]
    return [str(each) for each in given]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def children(pid: int) -> list[str]:
    """Return the processes that a process has started."""
    asked = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return asked.stdout.split()


def test_killed_processes_lose_no_finished_shard_and_no_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(NUM_CLIPS):
        make_clip(tmp_path / "clips" / f"{number:02}.mp4", seconds=1.6, seed=number)
    command = [sys.executable, "-m", "model.data.prepare", *asked(tmp_path, "two", 2)]
    started = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("two/shards/*.jsonl")):
            assert started.poll() is None
            time.sleep(0.1)
        left = children(started.pid)
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("two/shards/*.jsonl")}
    deadline = time.monotonic() + 60
    while any(Path("/proc", pid).exists() for pid in left):
        assert time.monotonic() < deadline, "children live on without their parent"
        time.sleep(0.1)
    for out in ("two", "one"):
        prepare.main(asked(tmp_path, out, 1))
        assert json.loads(capsys.readouterr().out)["outcomes"] == {"encoded": NUM_CLIPS}
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert content(tmp_path / "two") == content(tmp_path / "one")
