"""Memory of a worker: with all that it started, at its most, and of GPUs only if something can tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from talkbench.workers import memory
from talkbench.workers.memory import MemoryMeter, PeakMemory, rss_bytes

CHILD = "import sys; x = b'x' * (60 << 20); print('full', flush=True); sys.stdin.read()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {CHILD!r}], start_new_session=True)"


@pytest.fixture
def family():
    """A process in a session of its own with a child, in another session, that holds 60 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout.readline() == b"full\n"
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_children_in_sessions_of_their_own_are_counted_and_the_most_is_kept(family) -> None:
    with MemoryMeter(family.pid) as meter:
        found = rss_bytes(family.pid)
        assert 60 << 20 < found < 200 << 20
        family.stdin.close()
        family.wait()
        assert rss_bytes(family.pid) is None
        peak = meter.peak()
    assert peak.rss_bytes == pytest.approx(found, rel=0.05)
    assert peak.facts() == {"peak_rss_bytes": peak.rss_bytes, "peak_gpu_bytes": None}


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return program


def test_the_most_of_each_gpu_is_read_from_one_running_nvidia_smi(tmp_path: Path, monkeypatch) -> None:
    lines = "".join(f"echo '{line}'; " for line in ("0, 100", "3, 7", "0, 900", "0, 200", "3, [N/A]"))
    smi(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; {lines} exec sleep 60')
    monkeypatch.setattr(memory, "SAMPLE_SECONDS", 0.0)
    with MemoryMeter(os.getpid(), ("0", "3")) as meter:
        end = time.monotonic() + 30
        while (meter.peak().gpu_bytes or {}).get("0") != 900 << 20 and time.monotonic() < end:
            meter.sample()
            time.sleep(0.02)
        assert meter.peak().gpu_bytes == {"0": 900 << 20, "3": 7 << 20}
    assert meter._watching.returncode is not None, "nvidia-smi was left running"
    asked = (tmp_path / "asked").read_text()
    assert "--id=0,3" in asked and "memory.used" in asked and "--loop-ms=1000" in asked


def test_without_gpus_or_without_nvidia_smi_nothing_is_started(tmp_path: Path, monkeypatch) -> None:
    smi(tmp_path, monkeypatch, f"touch {tmp_path}/started")
    with MemoryMeter(os.getpid()) as meter:
        assert meter.peak().gpu_bytes is None
    monkeypatch.setenv("PATH", "/nowhere")
    with MemoryMeter(os.getpid(), ("0",)) as meter:
        assert meter.peak() == PeakMemory(meter.peak().rss_bytes, None)
    assert not (tmp_path / "started").exists()
