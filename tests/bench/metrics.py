"""`make bench-metrics`: network metrics against the official packages, same clips and weights, ratios in one run.

    python -m tests.bench.metrics                             # 4 s against the official code, minutes on two cores
    python -m tests.bench.metrics --seconds 10                # longer
    python -m tests.bench.metrics --growth 60,600             # memory of ours alone as clips grow, an hour

What grows with a clip's length does not depend on its size: `--growth` takes small pictures. It leaves out `subject`,
which differs from `background` in its network alone, and `smoothness`, which holds no more than the pairs of one batch.

Weights are random ones in the official formats: arithmetic and memory do not depend on their values. The official
packages run in the environments of `talkbench calibrate`; `--python` names one that has all of them. Every measurement
is a process of its own; memory is its peak, and `beyond weights` subtracts the size of the weight files.

The floor is the arithmetic alone: operations per frame (stated in the table) at the rate of a large float32 matrix
product, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from talkbench.calibrate.environment import interpreter, oracles_folder
from talkbench.progress import Logged
from talkbench.provenance import describe
from tests.bench.__main__ import measure, save, show
from tests.fitted_s3fd import write_weights as write_sync_weights
from tests.random_weights import write as write_random_weights

GIGA_PER_FRAME = {"subject": 57.5, "background": 8.1, "smoothness": 67.7 / 2, "sync": 11.7 + 3.6}
"""Operations per frame of 720x416, 10^9 (a multiplication and an addition are two)."""
DIMENSIONS = {
    "subject": "subject_consistency",
    "background": "background_consistency",
    "smoothness": "motion_smoothness",
    "flicker": "temporal_flickering",
}
GROWING = "flicker+background+sync"
GROWING_SIDE_PX = 256
FILES = {
    "subject": ("dino_vitbase16_pretrain.pth",),
    "background": ("ViT-B-32.pt",),
    "smoothness": ("amt-s.pth",),
    "sync": ("sfd_face.pth", "syncnet_v2.model"),
}
RUN_AND_WEIGH = (
    "import json, resource, subprocess, sys, time\n"
    "began = time.perf_counter()\n"
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
    "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024\n"
    "print(json.dumps({'seconds': time.perf_counter() - began, 'peak_mb': peak}))\n"
)


def official(metric: str, clip: Path, weights: Path, pythons: dict[str, Path]) -> dict[str, float]:
    """Run the official package on a clip; start-up included, as with ours."""
    with tempfile.TemporaryDirectory() as work:
        if metric == "sync":
            script, arguments = "syncnet", ["--output", f"{work}/out.json"]
        else:
            script = "vbench"
            arguments = ["--work", work, "--dimension", DIMENSIONS[metric], "--threads", str(os.cpu_count())]
        command = [str(pythons[script]), str(oracles_folder() / f"{script}.py"), "--weights", str(weights)]
        command += [*arguments, "--clip", str(clip)]
        done = subprocess.run(
            [sys.executable, "-c", RUN_AND_WEIGH, *command], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"official {metric} on {clip.name}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def matrix_rate() -> float:
    """Return 10^9 operations per second of a large float32 matrix product on all cores."""
    code = (
        "import time, torch\n"
        "a = torch.rand(2048, 2048); a @ a; began = time.perf_counter()\n"
        "for _ in range(8): a @ a\n"
        "print(8 * 2 * 2048**3 / (time.perf_counter() - began) / 1e9)\n"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def line(metric: str, clip: Path, seconds: int, weights: Path, precision: str) -> dict[str, object]:
    """Measure ours on a clip."""
    ours = measure("score-weights", clip, metric, weights, precision)
    names = list(FILES) if metric == "all" else metric.split("+")
    megabytes = sum((weights / file).stat().st_size for name in names for file in FILES.get(name, ())) / 1e6
    return {
        "metric": metric if precision == "fp32" else f"{metric}, {precision}",
        "clip": f"{seconds} s",
        "ours s": ours["seconds"],
        "ours peak MB": ours["peak_mb"],
        "beyond weights MB": ours["peak_mb"] - megabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", default="4", help="lengths at which both sides are measured; sync needs more than 2"
    )
    parser.add_argument("--growth", help="lengths at which the memory of our side alone is measured, and nothing else")
    parser.add_argument("--python", type=Path, help="interpreter that has the official packages")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.growth:
        grow([int(part) for part in options.growth.split(",")], console)
        return
    pythons = {name: interpreter(name, options.python, Logged()) for name in ("vbench", "syncnet")}
    rate = matrix_rate()
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "weights"
        write_random_weights(weights, ["dino", "clip", "amt"])
        write_sync_weights(weights)
        for seconds in [int(part) for part in options.seconds.split(",")]:
            clip = folder / f"{seconds}s.mp4"
            measure("make-face-clip", clip, seconds)
            together = {"ours": 0.0, "official": 0.0}
            for metric in (*DIMENSIONS, "sync"):
                found = line(metric, clip, seconds, weights, "fp32")
                theirs = official(metric, clip, weights, pythons)
                found |= {
                    "official s": theirs["seconds"],
                    "official peak MB": theirs["peak_mb"],
                    "official / ours": theirs["seconds"] / float(str(found["ours s"])),
                }
                if metric in GIGA_PER_FRAME:
                    found["floor s"] = GIGA_PER_FRAME[metric] * 25 * seconds / rate
                together["official"] += theirs["seconds"]
                lines.append(found)
            for precision in ("fp32", "bf16"):
                found = line("all", clip, seconds, weights, precision)
                found["official s"] = together["official"]
                found["official / ours"] = together["official"] / float(str(found["ours s"]))
                found["floor s"] = sum(GIGA_PER_FRAME.values()) * 25 * seconds / rate
                lines.append(found)
    show("Network metrics against the official packages", lines, console)
    save(_dated({"matrix_gigaoperations_per_second": rate, "lines": lines}), "metrics-", console)


def grow(lengths: list[int], console: Console) -> None:
    """Measure the peak memory of our pass over clips of growing length."""
    lines: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "weights"
        write_random_weights(weights, ["clip"])
        write_sync_weights(weights)
        for seconds in lengths:
            clip = Path(name) / f"{seconds}s.mp4"
            measure("make-face-clip", clip, seconds, GROWING_SIDE_PX, GROWING_SIDE_PX)
            found = line(GROWING, clip, seconds, weights, "fp32")
            found["of the first"] = float(str(found["ours peak MB"])) / float(
                str((lines or [found])[0]["ours peak MB"])
            )
            lines.append(found)
    show("Peak memory as clips grow", lines, console)
    save(_dated({"lines": lines}), "metrics-growth-", console)


def _dated(result: dict[str, object]) -> dict[str, object]:
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "provenance": describe(), **result}


if __name__ == "__main__":
    main()
