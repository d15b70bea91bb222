"""Every bad input of the contract: each is a row with a status and a reason, or one clear message; the rest goes on.

The table `FILES` lists what becomes rows; the tests below it what becomes a message.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from talkbench import api
from talkbench.errors import TalkbenchError
from talkbench.metrics.base import RUNNERS
from talkbench.store.run import Run
from tests.support import ROOT, make_clip, make_raw, moving_square, talkbench, tone
from tests.unit.media.test_audio_and_encode import mono_then_stereo

FLICKER = "vbench.temporal_flickering"
Maker = Callable[[Path], object]


def cut(path: Path) -> None:
    data = make_clip(path, seconds=2).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_before_the_index(path: Path) -> None:
    """An mp4 whose index comes last, and is missing."""
    make_raw(path, list(moving_square(25)))
    path.write_bytes(path.read_bytes()[:-2000])


def sound_only(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        for start in range(0, 16_000, 1024):
            frame = av.AudioFrame.from_ndarray(tone(1.0)[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_frames(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


def ten_bit(path: Path) -> None:
    make_raw(
        path, list(moving_square(25)), codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}
    )


def rgba(path: Path) -> None:
    frames = [np.dstack([f, np.full(f.shape[:2], 9, np.uint8)]) for f in moving_square(10)]
    made = make_raw(path.with_suffix(".mov"), frames, codec="qtrle", pix_fmt="argb", source="rgba")
    made.rename(path)


def sound(rate: int, layout: str, channels: int, seconds: float) -> Maker:
    samples = np.tile(tone(seconds, rate_hz=rate), (channels, 1))
    return lambda path: make_raw(path, list(moving_square(25)), audio=samples, audio_rate=rate, layout=layout)


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8).tobytes())


# name -> (maker, status of flicker, reason, words that the clip's notes contain)
FILES: dict[str, tuple[Maker, str, str | None, str]] = {
    "no audio track": (lambda p: make_clip(p, audio=False), "ok", None, "no audio track"),
    "no video track": (sound_only, "failed", "no-video", ""),
    "zero frames": (no_frames, "failed", "no-frames|no-video", ""),
    "one frame": (lambda p: make_clip(p, seconds=0.04), "unscorable", "one-frame", ""),
    "truncated": (cut, "failed", "truncated", ""),
    "truncated before its index": (cut_before_the_index, "failed", "not-a-video", ""),
    "a text file": (lambda p: p.write_text("hello, this is no video\n" * 9), "failed", "not-a-video", ""),
    "an HTML error page": (lambda p: p.write_text("<html><body>404</body></html>"), "failed", "not-a-video", ""),
    "random bytes": (garbage, "failed", "not-a-video|no-video|no-frames", ""),
    "empty": (lambda p: p.touch(), "failed", "empty-file", ""),
    "a folder": (lambda p: p.mkdir(), "failed", "unreadable", ""),
    "a dangling link": (lambda p: p.symlink_to("nowhere"), "failed", "unreadable", ""),
    "a pipe": (os.mkfifo, "failed", "unreadable", ""),
    "variable frame rate": (
        lambda p: make_raw(p, list(moving_square(9)), times=[0, 1, 2, 9, 10, 11, 30, 31, 32], options={"bf": "0"}),
        "ok", None, "variable frame rate",
    ),
    "rotated": (lambda p: make_raw(p, list(moving_square(9)), rotation=90), "ok", None, "rotated by 90"),
    "odd sizes": (lambda p: make_clip(p, height=65, width=81), "ok", None, ""),
    "8 pixels": (lambda p: make_raw(p, [f[:8, :8] for f in moving_square(9)], pix_fmt="yuv444p"), "ok", None, ""),
    "10-bit": (ten_bit, "ok", None, "10-bit"),
    "RGBA": (rgba, "ok", None, "transparency dropped"),
    "8 kHz audio": (sound(8_000, "mono", 1, 1.0), "ok", None, ""),
    "5.1 audio": (sound(48_000, "5.1", 6, 1.0), "ok", None, "6 audio channels"),
    "mono, then stereo": (mono_then_stereo, "ok", None, ""),
    "audio shorter than video": (sound(16_000, "mono", 1, 0.4), "ok", None, "audio lasts 0."),
    "audio longer than video": (sound(16_000, "mono", 1, 3.0), "ok", None, "audio lasts 3."),
    "name with spaces": (make_clip, "ok", None, ""),
    'name "with" quotes\'s': (make_clip, "ok", None, ""),
    "dots.. and ..dots": (make_clip, "ok", None, ""),
    "ünïcödé 说话 🎬": (make_clip, "ok", None, ""),
    "<script>alert(1)<script>": (make_clip, "ok", None, ""),
    "100%25 #1?": (make_clip, "ok", None, ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One folder with all of `FILES`, scored in one go."""
    folder = tmp_path_factory.mktemp("bad") / "system"
    folder.mkdir()
    for name, (maker, *_) in FILES.items():
        maker(folder / f"{name}.mp4")
    shutil.copy(make_clip(folder / "twice.mp4"), folder / "twice.mkv")
    (folder / b"not-\xff-utf8.mp4".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    run = folder.parent / "run"
    summary = api.score([folder], run, jobs=2)
    assert summary.any_failed
    return Run(run)


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_becomes_a_row_with_a_reason_and_the_rest_goes_on(scored: Run, name: str) -> None:
    _, status, reason, note = FILES[name]
    (row,) = [r for r in scored.current_rows() if r["item"] == name and r["output"] == FLICKER]
    assert row["status"] == status, row
    if reason is not None:
        assert row["reason"] in reason.split("|")
        assert row["message"]
    (record,) = [r for r in scored.clips() if r.item == name]
    assert note in " ".join(record.notes)


def test_two_files_for_one_item_and_a_name_that_is_no_text_are_rows_too(scored: Run) -> None:
    reasons = {r["item"]: r["reason"] for r in scored.current_rows() if r["output"] == FLICKER}
    assert reasons["twice"] == "duplicate-item"
    assert reasons["not-\\xff-utf8"] == "file-name"


def test_every_file_has_a_row_for_every_metric(scored: Run) -> None:
    rows = scored.current_rows()
    items = {record.item for record in scored.clips()}
    assert items == {*FILES, "twice", "not-\\xff-utf8"}
    for item in items:
        assert {r["metric"] for r in rows if r["item"] == item} == set(RUNNERS.names())


def test_failures_are_shown_by_status_and_report_and_leave_with_3(scored: Run, tmp_path: Path) -> None:
    shown = talkbench("status", scored.path)
    assert "truncated" in shown.stdout
    again = talkbench("score", scored.path, "--rerun", "failed", "--metric", "flicker")
    assert again.returncode == 3
    assert "some clips failed" in again.stderr


def test_known_ids_are_required_by_a_frozen_suite(tmp_path: Path) -> None:
    manifest = tmp_path / "small.v1.jsonl"
    manifest.write_text(
        '{"id": "clip-1", "tier": "short", "identity": "a", "duration_seconds": 1.2, "licence": "CC0"}\n'
    )
    for name in ("clip-1", "clip-l"):
        make_clip(tmp_path / "ours" / f"{name}.mp4")
    api.score([tmp_path / "ours"], tmp_path / "run", suite=str(manifest), metrics=["flicker"])
    found = {r["item"]: r for r in Run(tmp_path / "run").current_rows()}
    assert found["clip-1"]["status"] == "ok"
    assert (found["clip-l"]["status"], found["clip-l"]["reason"]) == ("skipped", "unknown-item")
    assert "Did you mean 'clip-1'" in found["clip-l"]["message"]


def test_clips_too_long_for_an_open_suite_are_set_aside(tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4", seconds=11)
    make_clip(tmp_path / "ours" / "b.mp4", seconds=1)
    api.score([tmp_path / "ours"], tmp_path / "run", suite="short", metrics=["flicker"])
    found = {r["item"]: r["reason"] for r in Run(tmp_path / "run").current_rows()}
    assert found == {"a": "outside-suite", "b": None}


def test_a_sidecar_that_is_no_sidecar_is_named(tmp_path: Path) -> None:
    make_clip(tmp_path / "ours" / "a.mp4")
    make_clip(tmp_path / "ours" / "b.mp4", seed=1)
    (tmp_path / "ours" / "a.clip.json").write_text('{"schema_version": 1, "timing": 3}')
    api.score([tmp_path / "ours"], tmp_path / "run", metrics=["speed", "flicker"])
    found = {(r["item"], r["output"]): r for r in Run(tmp_path / "run").current_rows()}
    assert found["a", "speed.fps"]["reason"] == "bad-sidecar"
    assert "a.clip.json: timing" in found["a", "speed.fps"]["message"]
    assert found["b", FLICKER]["status"] == "ok"


# --- messages

MESSAGES = [
    (["score", "{tmp}/nowhere", "--out", "{tmp}/r"], 2, "nowhere does not exist. Give a folder of clips"),
    (["score", "{tmp}/file.txt", "--out", "{tmp}/r"], 2, "file.txt is a file. Give a folder of clips"),
    (["score", "{tmp}/empty", "--out", "{tmp}/r"], 2, "empty holds no clip (.mp4"),
    (["score", "{clips}/ours"], 2, "where to? Name a run folder"),
    (["score"], 2, "no clips given: `talkbench score FOLDER"),
    (["score", "{clips}/ours", "{clips}/ours", "--out", "{tmp}/r"], 2, "both called 'ours'. Name them"),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--metric", "flickr"], 2, "Did you mean 'flicker'"),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--suite", "shrt"], 2, "Did you mean 'short'"),
    (["score", "{clips}/ours", "--out", "{tmp}/file.txt"], 2, "file.txt is a file; --out names a folder"),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--config", "{tmp}/wrong.yaml"], 2, "unknown key 'metric'. Did you"),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--config", "{tmp}/params.yaml"], 2, "no parameter 'noise_level'."),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--suite", "{tmp}/twice.jsonl"], 2, "ids stand more than once: x"),
    (["score", "{clips}/ours", "--out", "{tmp}/r", "--suite", "{tmp}/broken.jsonl"], 2, "line 1: not JSON"),
    (["status", "{tmp}/empty"], 2, "is not a run folder (no run.json). Make one with `talkbench score"),
    (["compare", "{tmp}/empty", "a", "b"], 2, "is not a run folder"),
    (["generate", "mini", "--system", "recordd", "--out", "{tmp}/r"], 2, "Did you mean 'recorded'"),
    (["generate", "short", "--system", "recorded", "--out", "{tmp}/r"], 2, "no frozen item list"),
    (["generate", "mini", "--system", "recorded", "--size", "big", "--out", "{tmp}/r"], 2, "expected WIDTHxHEIGHT"),
    (["run", "mini"], 2, "say what, and with what"),
    (["manifest", "show", "nothing"], 2, "unknown suite 'nothing'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "words"), MESSAGES, ids=[" ".join(m[0][:2]) + f" {i}" for i, m in enumerate(MESSAGES)]
)
def test_a_wrong_request_is_one_message_without_a_traceback(
    arguments: list[str], code: int, words: str, two_systems: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "wrong.yaml").write_text("metric: [flicker]\n")
    (tmp_path / "params.yaml").write_text("metrics: [motion]\nparams: {motion: {noise_level: 3}}\n")
    item = '{"id": "x", "tier": "short", "identity": "a", "duration_seconds": 1}\n'
    (tmp_path / "twice.jsonl").write_text(item * 2)
    (tmp_path / "broken.jsonl").write_text("{nope\n")
    done = talkbench(*[a.format(tmp=tmp_path, clips=two_systems) for a in arguments])
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_of_another_suite_is_not_mixed(two_systems: Path, tmp_path: Path) -> None:
    api.score([two_systems / "ours"], tmp_path / "run", suite="short", metrics=["flicker"])
    with pytest.raises(TalkbenchError, match=r"is a run of short.v1 with another item list than long.v1"):
        api.score([two_systems / "ours"], tmp_path / "run", suite="long")


def test_an_unknown_system_or_output_is_suggested(two_systems: Path, tmp_path: Path) -> None:
    api.score([two_systems / "ours", two_systems / "theirs"], tmp_path / "run", metrics=["flicker"])
    with pytest.raises(TalkbenchError, match="no system 'our'. Did you mean 'ours'"):
        api.compare(tmp_path / "run", "our", "theirs")
    with pytest.raises(TalkbenchError, match="no output 'vbench.flicker'. Did you mean"):
        api.compare(tmp_path / "run", "ours", "theirs", outputs=["vbench.flicker"])


def test_a_full_disk_ends_with_a_message_and_loses_nothing_stored(two_systems: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.score([two_systems / "ours"], run, metrics=["flicker"], jobs=1)
    (part,) = (run / "rows").glob("part-*.jsonl")
    before = part.read_bytes()
    limit = len(before) + 300

    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 4000), max(limit, 4000)))

    command = [
        sys.executable,
        "-m",
        "talkbench",
        "score",
        str(two_systems / "theirs"),
        "--out",
        str(run),
        "-m",
        "flicker",
        "-j",
        "1",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, preexec_fn=small_files_only, timeout=120, check=False
    )
    assert done.returncode == 2
    assert "All clips scored before are stored" in done.stderr
    assert "Traceback" not in done.stderr
    after = part.read_bytes()
    assert after.startswith(before)
    assert after.endswith(b"\n")
    summary = api.score([two_systems / "theirs"], run, metrics=["flicker"], jobs=1)
    assert {r["item"] for r in Run(run).current_rows() if r["system"] == "theirs"} == {f"item-{i}" for i in range(4)}
    assert not summary.any_failed


def test_ctrl_c_leaves_with_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    for number in range(8):
        make_clip(tmp_path / "ours" / f"{number}.mp4", seconds=8, height=240, width=320, seed=number)
    command = [
        sys.executable,
        "-m",
        "talkbench",
        "score",
        str(tmp_path / "ours"),
        "--out",
        str(tmp_path / "run"),
        "-m",
        "flicker,motion",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob("rows/*.jsonl")) or not any(
        p.stat().st_size for p in (tmp_path / "run").glob("rows/*")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in told
    assert "Traceback" not in told
    stored = len(Run(tmp_path / "run").current_rows())
    assert stored > 0
    api.score([tmp_path / "ours"], tmp_path / "run", metrics=["flicker", "motion"])
    assert len(Run(tmp_path / "run").current_rows()) == 16
