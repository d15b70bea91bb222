"""What the scheduler adds to a job: instant systems over many items, on this machine and, if it is here, over Ray.

    python -m tests.bench.schedule                     # 200 jobs, one worker
    python -m tests.bench.schedule --jobs 1000 --ray

A job of an instant system is what is around every job: inputs are written, the clip is decoded and checked, published
and recorded. Inputs and checks are the clip's own price and are measured apart; the overhead is what is left: choosing,
threads, messages to the worker and back, publishing, recording. Times are between the records of the first and the last
clip, so that neither the start of a worker nor that of a cluster is in them. A machine that is busy with other things
shows more of everything.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from talkbench import api, atomic
from talkbench.manifests.load import load
from talkbench.store.attempts import Attempt, read
from talkbench.systems import adapter
from talkbench.systems.inputs import write_inputs
from tests import instant
from tests.support import make_clip

SECONDS = 1.0
GOAL_MS = 50.0


class Stopwatch:
    """Adds up the seconds that a function takes, by standing in its place."""

    def __init__(self, function: Callable) -> None:
        self._function, self.seconds = function, 0.0

    def __call__(self, *given, **named):
        began = time.perf_counter()
        try:
            return self._function(*given, **named)
        finally:
            self.seconds += time.perf_counter() - began


def measure(suite: Path, path: Path, run: Path, ray: str | None) -> tuple[float, float]:
    """Return the milliseconds per clip after the first one, and the seconds that all else took."""
    began = time.perf_counter()
    done = api.generate(str(suite), [str(path)], run, ray=ray, jobs=1)
    seconds = time.perf_counter() - began
    if done.made != done.num_clips:
        raise SystemExit(f"{done.failures[:3]}")
    items = [item.id for item in load(str(suite)).items or ()]
    ends = sorted(datetime.fromisoformat(read(run, "instant", item)[-1].written_at) for item in items)
    between = (ends[-1] - ends[0]).total_seconds()
    return 1000 * between / (len(ends) - 1), seconds - between


def parts(suite: Path, clip: Path, run: Path, times: int) -> dict[str, float]:
    """Return the milliseconds of the recording and of the inputs of a job, measured alone."""
    item = (load(str(suite)).items or ())[0]

    def record(number: int) -> None:
        with Attempt(run, "alone", str(number), "key") as attempt:
            attempt.made("")

    def write(_: int) -> None:
        with tempfile.TemporaryDirectory(dir=run) as folder:
            write_inputs(item, Path(folder), suite.parent)

    def publish(number: int) -> None:
        adapter._publish(clip, run / "published" / f"{number}.mp4")
        atomic.write_text(run / "published" / f"{number}.json", "{}\n")

    found = {}
    for name, part in (("records of the attempt", record), ("inputs", write), ("publishing", publish)):
        began = time.perf_counter()
        for number in range(times):
            part(number)
        found[name] = 1000 * (time.perf_counter() - began) / times
    return found


def bench(folder: Path, num_jobs: int, ray: str | None) -> dict[str, float]:
    """Return milliseconds per job, in all and by part."""
    clip = make_clip(folder / "clip.mp4", seconds=SECONDS)
    path = instant.adapter(folder / "adapter", clip, {"instant": {}})
    suite = instant.suite(folder / "suite", num_jobs)
    accept = adapter.accept = Stopwatch(adapter.accept)  # type: ignore[assignment]
    try:
        per_job, rest_seconds = measure(suite, path, folder / "run", ray)
    finally:
        adapter.accept = accept._function
    found = {"per job": per_job, "start and end of the request": 1000 * rest_seconds}
    if ray is None:
        found["decoding and checking the clip"] = 1000 * accept.seconds / num_jobs
        found |= parts(suite, clip, folder / "parts", min(num_jobs, 100))
        found["scheduler, messages, threads"] = per_job - sum(list(found.values())[2:])
        found["overhead"] = per_job - found["decoding and checking the clip"] - found["inputs"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--ray", action="store_true", help="also over a Ray cluster of this machine")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        for ray in (None, "local") if given.ray else (None,):
            folder = Path(name) / (ray or "here")
            (folder / "parts").mkdir(parents=True)
            results["over Ray" if ray else "this machine"] = bench(folder, given.jobs, ray)
    for where, found in results.items():
        print(f"{where}, {given.jobs} jobs of an instant system, {SECONDS:g} s of 80x64 each; milliseconds per job")
        for what, value in found.items():
            print(f"  {what:<34}{value:>9.2f}")
    print(json.dumps(results))
    if results["this machine"]["overhead"] > GOAL_MS:
        sys.exit(f"more than {GOAL_MS:g} ms of overhead per job")


if __name__ == "__main__":
    main()
