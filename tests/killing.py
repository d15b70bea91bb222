"""Score, be killed, look, repeat: `python -m tests.killing CLIPS FOLDER TIMES` prints what was lost or doubled.

Each round forks a process that scores a folder of clips and kills it with SIGKILL at a random moment. After every
kill the raw parts are read: whole lines only, each row at most once, nothing that was there before gone. When a run
is complete it is compared with an undisturbed one, and the next starts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from talkbench import api

METRICS = ["flicker", "motion"]
Key = tuple[str, str, str]


def whole_rows(run: Path) -> list[dict]:
    """Return the rows of all complete lines, duplicates included."""
    rows = []
    for part in sorted((run / "rows").glob("part-*.jsonl")):
        data = part.read_bytes()
        rows += [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return rows


def name(row: dict) -> Key:
    return row["system"], row["item"], row["output"]


def score_and_kill(clips: Path, run: Path, after_seconds: float) -> bool:
    """Fork a scoring process, kill it; return whether it had finished before."""
    child = os.fork()
    if child == 0:
        try:
            api.score([clips / "ours", clips / "theirs"], run, metrics=METRICS, jobs=1)
        finally:
            os._exit(0)
    time.sleep(after_seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return not os.WIFSIGNALED(status)


def main(clips: Path, folder: Path, times: int) -> None:
    """Kill `times` times and print the tally as JSON."""
    rng = random.Random(20251230)
    reference_run = folder / "reference" / "run"
    began = time.monotonic()
    api.score([clips / "ours", clips / "theirs"], reference_run, metrics=METRICS, jobs=1)
    whole = time.monotonic() - began
    reference = {name(row): row["value"] for row in whole_rows(reference_run)}
    tally = {"kills": 0, "complete_runs": 0, "lost": 0, "doubled": 0, "different": 0, "torn": 0}
    number, seen = 0, set()
    while tally["kills"] < times:
        run = folder / f"try-{number}" / "run"
        finished = score_and_kill(clips, run, rng.uniform(0.0, 0.6 * whole))
        tally["kills"] += not finished
        rows = whole_rows(run)
        names = [name(row) for row in rows]
        tally["doubled"] += len(names) - len(set(names))
        tally["lost"] += len(seen - set(names))
        tally["different"] += sum(row["value"] != reference[name(row)] for row in rows)
        tally["torn"] += any(p.read_bytes()[-1:] not in (b"\n", b"") for p in (run / "rows").glob("*.jsonl"))
        seen = set(names)
        if seen == set(reference):
            tally["complete_runs"] += 1
            number, seen = number + 1, set()
    print(json.dumps(tally))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
