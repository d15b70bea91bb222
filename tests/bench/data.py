"""Rows per second and peak memory of indexing and selection over synthetic metadata.

    python -m tests.bench.data                       # 1,000,000 rows of TalkVid, a tenth of SpeakerVid; 1.2 GB
    python -m tests.bench.data --rows 100000 --folder /dev/shm/bench

Each stage is a process of its own; memory is that process's peak, and includes interpreter and libraries.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from talkbench.data.folder import Build
from tests.support import ROOT
from tests.unit.data import metadata

LIMIT_MB = 1000.0


def stage(name: str, folder: Path) -> dict[str, float]:
    """Run one stage here; return its rows, seconds and the peak of this process in MB."""
    from talkbench.data.exclusions import check_overlap
    from talkbench.data.index import index
    from talkbench.data.select import select

    build = Build(folder / "build")
    began = time.perf_counter()
    if name in {"index", "index again"}:
        rows = index(build, talkvid=[folder / "talkvid.json"]).read
    elif name == "index tars":
        rows = index(Build(folder / "tars"), speakervid=[folder / "speakervid"]).read
    elif name == "select":
        select(build)
        rows = json.loads(build.index_report.read_text())["rows"]
    else:
        excluded = json.loads(build.exclusions.read_text())
        rows = check_overlap(folder / "talkvid.json", excluded).read
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": rows, "seconds": seconds, "rows per second": rows / seconds, "peak MB": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(json.dumps(stage(given.stage, given.folder)))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        metadata.write_array(folder / "talkvid.json", metadata.talkvid(given.rows, clips_per_source=20))
        metadata.write_speakervid(folder / "speakervid", metadata.speakervid(given.rows // 10))
        for what in ("index tars", "index", "index again", "select", "check-overlap"):
            command = [sys.executable, "-m", "tests.bench.data", "--stage", what, "--folder", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
            found = json.loads(done.stdout)
            verdict = "" if found["peak MB"] < LIMIT_MB else f"  OVER {LIMIT_MB:g} MB"
            print(
                f"{what:<14}" + "  ".join(f"{key} {value:,.1f}" for key, value in found.items()) + verdict, flush=True
            )


if __name__ == "__main__":
    main()
