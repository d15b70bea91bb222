"""`make bench`: time and peak memory as ratios within one run; absolute numbers of shared machines mean nothing.

    python -m tests.bench                      # everything (several minutes, up to 16 GB for the official formula)
    python -m tests.bench --seconds 10,60      # shorter clips only

Every measurement is a process of its own; memory is that process's peak. Results are printed and written to
bench-results/<date>.json with versions and device.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from talkbench.provenance import describe
from tests.support import ROOT

REPEATS = 3
BYTES_PER_FRAME = 720 * 416 * 3


def measure(task: str, *arguments: object) -> dict[str, float]:
    """Run a task of `tests.bench.tasks` in a fresh process; return its seconds and peak MB."""
    command = [sys.executable, "-m", "tests.bench.tasks", task, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{task} {arguments}: {done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def median_of(task: str, *arguments: object, repeats: int = REPEATS) -> dict[str, float]:
    runs = [measure(task, *arguments) for _ in range(repeats)]
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def flicker(folder: Path, lengths: list[int]) -> list[dict[str, object]]:
    """Our pass against the official formula over fully loaded frames."""
    lines = []
    for seconds in lengths:
        clip = folder / f"{seconds}s.mp4"
        measure("make-clip", clip, seconds)
        repeats = REPEATS if seconds <= 60 else 1
        ours = median_of("score", clip, "flicker", repeats=repeats)
        line: dict[str, object] = {"clip": f"{seconds} s of 720x416", "our peak MB": ours["peak_mb"]}
        if seconds * 25 * BYTES_PER_FRAME < 0.8 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            official = median_of("official-flicker", clip, repeats=repeats)
            line |= {
                "official peak MB": official["peak_mb"],
                "time ours / official": ours["seconds"] / official["seconds"],
                "difference": abs(ours["value"] - official["value"]),
            }
        else:
            line |= {"official peak MB": "does not fit"}
        lines.append(line)
    return lines


def shared_decode(folder: Path) -> list[dict[str, object]]:
    """One pass that feeds k runners against k passes."""
    clip = folder / "60s.mp4"
    if not clip.exists():
        measure("make-clip", clip, 60)
    lines = []
    for names in (["flicker", "motion"], ["flicker", "motion"] * 2):
        together = median_of("score", clip, ",".join(names))
        apart = [median_of("score", clip, name) for name in dict.fromkeys(names)]
        times = len(names) // len(apart)
        lines.append(
            {
                "runners": len(names),
                "k passes / one pass": times * sum(one["seconds"] for one in apart) / together["seconds"],
                "peak MB, one pass": together["peak_mb"],
            }
        )
    return lines


def resume(folder: Path) -> list[dict[str, object]]:
    """A finished run, asked again."""
    measure("make-folder", folder / "many", 24, 60)
    command = [sys.executable, "-m", "talkbench", "score", str(folder / "many"), "--out", str(folder / "run"), "--json"]
    first = measure("time", *command)
    again = [measure("time", *command) for _ in range(REPEATS)]
    inside = median_of("score-api", folder / "many", folder / "run")
    shell = statistics.median(one["seconds"] for one in again)
    return [
        {"what": "the whole command, start-up included", "again / first": shell / first["seconds"]},
        {"what": "api.score in a running process", "again / first": inside["seconds"] / first["seconds"]},
    ]


def show(title: str, lines: list[dict[str, object]], console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for head in dict.fromkeys(key for line in lines for key in line):
        table.add_column(head, justify="right")
    for line in lines:
        table.add_row(
            *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in (line.get(c.header, "") for c in table.columns))
        )
    console.print(table)


def save(results: dict[str, object], prefix: str, console: Console) -> None:
    """Write results to bench-results/<prefix><date>.json."""
    path = ROOT / "bench-results" / f"{prefix}{datetime.now(UTC):%Y-%m-%dT%H%M}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    console.print(f"written: {path.relative_to(ROOT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", default="10,60,600", help="lengths of the flicker clips")
    lengths = [int(part) for part in parser.parse_args().seconds.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 110)
    results: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "provenance": describe()}
    with tempfile.TemporaryDirectory() as name:
        for title, part in (
            ("Temporal flickering against the official formula on loaded frames", lambda f: flicker(f, lengths)),
            ("One decode for k runners", shared_decode),
            ("Re-running a finished run", resume),
        ):
            results[title] = part(Path(name))
            show(title, results[title], console)  # type: ignore[arg-type]
    save(results, "", console)


if __name__ == "__main__":
    main()
