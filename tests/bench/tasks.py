"""One measurement per process: `python -m tests.bench.tasks TASK ARGUMENTS` prints seconds and peak MB as JSON."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np

RATE, HEIGHT, WIDTH, BASE_SECONDS = 25, 416, 720, 10


def frames():
    """Yield ten seconds of a panning texture with a little grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : HEIGHT + 64, 0 : WIDTH + 512]
    wide = (120 + 60 * np.sin(x / 37) * np.cos(y / 23))[..., None] + rng.normal(0, 6, (HEIGHT + 64, WIDTH + 512, 3))
    wide = wide.clip(0, 255).astype(np.uint8)
    for number in range(BASE_SECONDS * RATE):
        left = int(220 + 200 * np.sin(number / 40))
        top = int(30 + 25 * np.cos(number / 31))
        yield wide[top : top + HEIGHT, left : left + WIDTH]


def make_clip(path: Path, seconds: int) -> None:
    """Encode ten seconds once and repeat the packets, picture and sound, to the asked length."""
    import av

    from talkbench.media.encode import Encoding, write_clip

    base = path.with_name("base.mp4")
    if not base.exists():
        tone = (0.2 * np.sin(np.arange(BASE_SECONDS * 16_000) * 0.1)).astype(np.float32)
        write_clip(base, frames(), frame_rate=Fraction(RATE), audio_N=tone, encoding=Encoding(crf=16))
    with av.open(str(path), "w") as out:
        with av.open(str(base)) as given:
            streams = [out.add_stream_from_template(stream) for stream in given.streams]
        shift, ends = [0] * len(streams), [0] * len(streams)
        for _ in range(seconds // BASE_SECONDS):
            first: dict[int, int] = {}
            with av.open(str(base)) as given:
                for packet in given.demux():
                    if packet.dts is None or packet.pts is None:
                        continue
                    index = packet.stream.index
                    first.setdefault(index, packet.dts)
                    packet.pts += shift[index]
                    packet.dts += shift[index]
                    ends[index] = packet.dts + max(packet.duration, 1)
                    packet.stream = streams[index]
                    out.mux(packet)
            shift = [ends[index] - first[index] for index in range(len(streams))]


def make_face_clip(path: Path, seconds: int, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Draw a talking person of talkbench-mini, with speech."""
    from talkbench.media.encode import Encoding, write_clip
    from talkbench.mini.suite import Performance, mini_suite

    suite = mini_suite(num_short=0, num_long=1, long_seconds=max(60, seconds), height=height, width=width)
    performance = Performance(suite.items[0].model_copy(update={"duration_seconds": float(seconds)}))
    write_clip(
        path,
        performance.frames(),
        frame_rate=Fraction(RATE),
        audio_N=performance.audio(),
        encoding=Encoding(crf=16),
    )


def make_folder(folder: Path, count: int, seconds: int) -> None:
    """Write `count` different clips: the same pictures with another comment, so that no two files are equal."""
    folder.mkdir()
    make_clip(folder / "0.mp4", seconds)
    data = (folder / "0.mp4").read_bytes()
    for number in range(1, count):
        (folder / f"{number}.mp4").write_bytes(data + b"\x00\x00\x00\x0cfree" + number.to_bytes(4, "big"))
    (folder / "base.mp4").unlink()


def score(clip: Path, names: str) -> dict[str, float]:
    """Our pass over a clip, from opening the file to the rows."""
    from talkbench.manifests.load import FOLDER
    from talkbench.metrics.base import Context
    from talkbench.metrics.score import Metric, score_clip
    from talkbench.systems.scan import _record

    began = time.perf_counter()
    record = _record(FOLDER, None, "bench", clip.stem, [clip])
    scored = score_clip(record, tuple(Metric(name) for name in names.split(",")), None, Context("cpu", 2))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": next(row.value for row in scored.rows if row.value is not None)}


def score_weights(clip: Path, names: str, weights: Path, precision: str) -> dict[str, float]:
    """Our pass with networks over a clip, weights read from disk; `all` is all of them at once, `a+b` are both."""
    from talkbench.manifests.load import FOLDER
    from talkbench.metrics.base import RUNNERS, Context
    from talkbench.metrics.score import Metric, score_clip
    from talkbench.systems.scan import _record
    from talkbench.weights import store

    chosen = ["flicker", "subject", "background", "smoothness", "sync"] if names == "all" else names.split("+")
    metrics = []
    for name in chosen:
        runner = RUNNERS.get(name)
        located = store.locate(runner.needs.weights, weights_dir=weights, allow_unverified=True)
        has_precision = "precision" in runner.params_type.__dataclass_fields__
        params = runner.params_type(precision=precision) if has_precision and name != "qalign" else None
        metrics.append(Metric(name, params, located.files))
    began = time.perf_counter()
    record = _record(FOLDER, None, "bench", clip.stem, [clip])
    scored = score_clip(record, tuple(metrics), None, Context("cpu", 2))
    seconds = time.perf_counter() - began
    without = [row.output for row in scored.rows if row.status != "ok"]
    if without:
        raise SystemExit(f"no value for {', '.join(without)}: {scored.rows[0].message}")
    return {"seconds": seconds, "value": float(scored.rows[0].value or 0)}


def official_flicker(clip: Path) -> dict[str, float]:
    """VBench's definition as its code runs it: all frames loaded by OpenCV, float32 differences, mean of means."""
    import cv2

    began = time.perf_counter()
    capture, loaded = cv2.VideoCapture(str(clip)), []
    while (found := capture.read())[0]:
        loaded.append(found[1])
    terms = [float(np.mean(cv2.absdiff(np.float32(a), np.float32(b)))) for a, b in pairwise(loaded)]
    value = (255.0 - sum(terms) / len(terms)) / 255.0
    return {"seconds": time.perf_counter() - began, "value": value}


def score_api(folder: Path, run: Path) -> dict[str, float]:
    """A repeated `api.score`, after one that warms the imports."""
    from talkbench import api

    api.score([folder], run)
    began = time.perf_counter()
    api.score([folder], run)
    return {"seconds": time.perf_counter() - began}


def peak_mb() -> float:
    """Return the peak memory of this program alone; `ru_maxrss` would count the process that started it as well."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    task, *arguments = sys.argv[1:]
    paths = [Path(a) for a in arguments]
    if task == "make-clip":
        make_clip(paths[0], int(arguments[1]))
        result: dict[str, float] = {}
    elif task == "make-face-clip":
        make_face_clip(paths[0], *map(int, arguments[1:]))
        result = {}
    elif task == "score-weights":
        result = score_weights(paths[0], arguments[1], paths[2], arguments[3])
    elif task == "make-folder":
        make_folder(paths[0], int(arguments[1]), int(arguments[2]))
        result = {}
    elif task == "score":
        result = score(paths[0], arguments[1])
    elif task == "official-flicker":
        result = official_flicker(paths[0])
    elif task == "score-api":
        result = score_api(paths[0], paths[1])
    elif task == "time":
        began = time.perf_counter()
        subprocess.run(arguments, check=True, capture_output=True)
        result = {"seconds": time.perf_counter() - began}
    else:
        raise SystemExit(f"no task {task!r}")
    print(json.dumps(result | {"peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
