"""Generate, be killed, look, repeat: `python -m tests.killing_generation FOLDER TIMES` prints what was lost or left.

Each round forks a process that generates with two instant systems whose jobs leave children behind, and kills it with
SIGKILL at a random moment: alone, with its workers, or with its workers and its guard. After every kill each clip that
was there is compared with the file it is a copy of; nothing that was made may be gone. When a run is complete, the next
starts. In the end no process of any round may be left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from talkbench import api
from talkbench.store.attempts import read, summary
from talkbench.store.run import Run
from talkbench.workers import orphans
from tests import instant
from tests.support import make_clip

NUM_ITEMS = 5
NAMES = ("one", "two")


def generate_and_kill(suite: Path, adapter: Path, run: Path, after_seconds: float, victims: str) -> tuple[bool, int]:
    """Fork a generating process, kill it; return whether it had finished before, and its process id."""
    host = os.fork()
    if host == 0:
        try:
            api.generate(str(suite), [str(adapter)], run, jobs=2)
        finally:
            os._exit(0)
    time.sleep(after_seconds)
    children = _children(host)
    with contextlib.suppress(ProcessLookupError):
        os.kill(host, signal.SIGKILL)
    for pid in children if victims != "host" else ():
        if victims == "all" or not _is_guard(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(host, 0)
    return not os.WIFSIGNALED(status), host


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def _is_guard(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"orphans.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def left_of(host: int, seconds: float) -> int:
    """Return how many processes of a host there are after some seconds at most."""
    end = time.monotonic() + seconds
    while (left := len(orphans.carrying(f".{host}."))) and time.monotonic() < end:
        time.sleep(0.02)
    return left


def clips(run: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.stem}": path.read_bytes() for path in run.glob("clips/*/[!.]*.mp4")}


def made(run: Path) -> set[str]:
    """Return the clips that a record says are made."""
    tried = [(path.parent.name, path.stem) for path in run.glob("attempts/*/*.jsonl")]
    return {f"{s}/{item}" for s, item in tried if any(r.outcome == "made" for r in read(run, s, item))}


def main(folder: Path, times: int) -> None:
    """Kill `times` times and print the tally as JSON."""
    rng = random.Random(20251230)
    clip = make_clip(folder / "clip.mp4", seconds=0.4)
    suite = instant.suite(folder / "suite", NUM_ITEMS, seconds=0.4)
    adapter = instant.adapter(folder / "adapter", clip, {name: {} for name in NAMES}, "children", frames=10)
    began = time.monotonic()
    api.generate(str(suite), [str(adapter)], folder / "reference", jobs=2)
    whole = time.monotonic() - began
    tally = {"kills": 0, "complete_runs": 0, "lost": 0, "torn": 0, "left_by_a_killed_host": 0, "left_in_the_end": 0}
    number, hosts = 0, []
    while tally["kills"] < times or number == 0:
        run = folder / f"run-{number}"
        before = clips(run)
        victims = rng.choice(["host", "host and workers", "all"])
        finished, host = generate_and_kill(suite, adapter, run, rng.uniform(0.0, 0.9 * whole), victims)
        hosts.append(host)
        tally["kills"] += not finished
        after = clips(run)
        tally["lost"] += len(set(before) - set(after)) + len(made(run) - set(after))
        tally["torn"] += sum(data != clip.read_bytes() for data in after.values())
        if victims != "all":  # otherwise the next round's host ends what is left
            tally["left_by_a_killed_host"] += left_of(host, 5.0)
        if finished:
            everything = {f"{name}/item-{item:03d}" for name in NAMES for item in range(NUM_ITEMS)}
            tally["complete_runs"] += set(after) == everything
            tally["lost"] += len(everything - set(after))
            number += 1
    last = api.generate(str(suite), [str(adapter)], folder / "last", jobs=2)
    tally["lost"] += last.num_clips - last.made
    tally["lost"] += sum(counts.get("made", 0) != NUM_ITEMS for counts in summary(Run(folder / "last")).values())
    tally["left_in_the_end"] = sum(left_of(host, 3.0) for host in [*hosts, os.getpid()])
    print(json.dumps(tally))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
