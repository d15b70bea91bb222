"""Systems in processes of their own, from `generate` to scores: resume, failures, Ctrl-C, kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from talkbench import api
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.ids import sha256_file
from talkbench.mini.suite import mini_suite
from talkbench.schema import Item
from talkbench.store.run import Run
from talkbench.systems.adapter import Station
from talkbench.systems.inputs import write_inputs
from talkbench.systems.machine import Machine
from talkbench.systems.scan import read_sidecar
from talkbench.systems.spec import read
from talkbench.systems.task import Task, job_key
from talkbench.workers.host import WorkerFailedError
from tests.support import ROOT, make_clip, talkbench
from tests.unit.workers.fakes import FAKES, gone

SEEDS = {"one": 1, "two": 13, "three": 3}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three items of one second, with a picture and a recording, as a manifest."""
    folder = tmp_path_factory.mktemp("suite")
    image, sound = folder / "assets" / "face.jpg", folder / "assets" / "speech.wav"
    image.parent.mkdir()
    Image.new("L", (60, 80), 128).save(image)
    with wave.open(str(sound), "wb") as file:
        file.setparams((2, 2, 48_000, 0, "NONE", ""))
        file.writeframes(np.zeros((48_000, 2), "<i2").tobytes())
    given = {
        "image": {"path": "assets/face.jpg", "sha256": sha256_file(image)},
        "audio": {"path": "assets/speech.wav", "sha256": sha256_file(sound)},
    }
    items = [
        Item(id=name, tier="short", identity=name, duration_seconds=1.0, seed=seed, **given)
        for name, seed in SEEDS.items()
    ]
    (folder / "trial.v1.jsonl").write_text("".join(item.to_json() + "\n" for item in items))
    return folder / "trial.v1.jsonl"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1.0)


def adapter(folder: Path, behaviour: str, clip: Path, name: str = "fake", **changes) -> Path:
    """Describe a fake as a system."""
    system = {
        "version": 1,
        "description": "a fake",
        "launch": ["{python}", "{shim}", str(FAKES / "fake.py"), behaviour, str(clip)],
        "patience": {"start_seconds": 10, "silence_seconds": 5, "job_seconds": 10},
    }
    data = {"title": "Fakes", "licence": "MIT", "source": {"repo": "a/b"}, "systems": {name: system | changes}}
    path = folder / f"{behaviour}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data))
    return path


def sidecars(run: Path, system: str = "fake") -> dict[str, dict]:
    """Return what lies beside the clips."""
    return {path.stem: read_sidecar(path).model_dump() for path in sorted((run / "clips" / system).glob("*.mp4"))}


def test_clips_land_with_sidecars_from_one_warm_worker_and_are_not_made_twice(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    path, run = adapter(tmp_path, "good", clip), tmp_path / "run"
    summary = api.generate(str(suite), [str(path)], run)
    found = sidecars(run)
    assert (summary.num_clips, summary.failures) == (3, ())
    assert set(found) == set(SEEDS)
    assert {(run / "clips" / "fake" / f"{name}.mp4").read_bytes() for name in SEEDS} == {clip.read_bytes()}
    assert len({sidecar["settings"]["clip"]["pid"] for sidecar in found.values()}) == 1
    assert sorted(sidecar["timing"]["warmed_up"] for sidecar in found.values()) == [False, True, True]
    assert found["two"]["settings"]["seed"] == 13
    assert found["two"]["settings"]["worker"]["versions"] == {"fake": "1.0"}
    assert found["two"]["truth"] is None
    assert not list((run / "clips").rglob(".*"))
    before = (run / "clips" / "fake" / "one.mp4").stat().st_mtime_ns
    (run / "clips" / "fake" / "two.clip.json").unlink()
    api.generate(str(suite), [str(path)], run)
    again = sidecars(run)
    assert (run / "clips" / "fake" / "one.mp4").stat().st_mtime_ns == before
    assert again["one"] == found["one"]
    assert again["two"]["settings"]["clip"]["pid"] != found["two"]["settings"]["clip"]["pid"]


def test_a_system_that_wants_words_is_told_those_of_the_item_or_else_its_own(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    (spec,) = read(adapter(tmp_path, "good", clip, prompt="its own"))
    item = Item.model_validate_json(suite.read_text().splitlines()[0])
    station = Station(spec, Machine(tmp_path, ()), (), log=tmp_path / "log", assets=suite.parent)
    told, keys = [], set()
    for text in (None, "the item's"):
        given = item.model_copy(update={"text": text})
        task = Task(spec.name, given, tmp_path / "clip.mp4", job_key(given, spec.digest))
        told.append(station.make(task).settings["clip"]["prompt"])
        keys.add(task.key)
    station.close()
    assert told == ["its own", "the item's"]
    assert len(keys) == 2, "other words, another clip"


def test_another_version_of_the_system_makes_its_clips_anew(suite: Path, clip: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.generate(str(suite), [str(adapter(tmp_path, "good", clip))], run)
    first = {name: sidecar["job_key"] for name, sidecar in sidecars(run).items()}
    planned = api.plan(str(suite), [str(adapter(tmp_path, "good", clip, version=2))], run)
    assert planned["clips_to_make"] == 3
    api.generate(str(suite), [str(adapter(tmp_path, "good", clip, version=2))], run)
    second = {name: sidecar["job_key"] for name, sidecar in sidecars(run).items()}
    assert not set(first.values()) & set(second.values())


def test_clips_of_a_worker_are_scored_like_any_other_with_their_speed(suite: Path, clip: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    api.run(str(suite), [str(adapter(tmp_path, "slow", clip))], run, metrics=["speed", "flicker"], jobs=1)
    rows = {(row["item"], row["output"]): row for row in Run(run).current_rows()}
    assert rows["one", "vbench.temporal_flickering"]["status"] == "ok"
    assert 15 < rows["one", "speed.fps"]["value"] < 26
    assert rows["one", "speed.first_frame_seconds"]["value"] > 0.19


@pytest.mark.parametrize(
    ("behaviour", "reason", "num_made"),
    [
        ("crash-second", "crashed: the process was ended by SIGSEGV", 2),
        ("error", "error: ValueError: no face", 2),
        ("exit0", "crashed: the process left with exit code 0", 0),
        ("nothing", "bad-output: it said done, but there is no file", 0),
        ("partial", "bad-output: ", 0),
        ("boastful", "bad-output: the timing events tell of 100 frames", 0),
        ("leaves", "no-handshake: the process left with exit code 1", 0),
    ],
)
def test_a_failure_costs_its_own_clip_and_leaves_nothing_half_made(
    suite: Path, clip: Path, tmp_path: Path, behaviour: str, reason: str, num_made: int
) -> None:
    run = tmp_path / "run"
    summary = api.generate(str(suite), [str(adapter(tmp_path, behaviour, clip))], run)
    assert len(summary.failures) == 3 - num_made
    assert len(sidecars(run)) == num_made
    assert reason in summary.failures[0]
    assert not [path for path in (run / "clips").rglob("*") if path.name.startswith(".")]


def test_a_crashed_worker_is_started_again_for_the_next_job(suite: Path, clip: Path, tmp_path: Path) -> None:
    api.generate(str(suite), [str(adapter(tmp_path, "crash-second", clip))], tmp_path / "run", retries=0)
    found = sidecars(tmp_path / "run")
    assert len({sidecar["settings"]["clip"]["pid"] for sidecar in found.values()}) == 2
    log = (tmp_path / "run" / "logs" / "fake-0.log").read_text()
    assert log.count("--- start") == 2
    assert log.count("--- job") == 3
    assert "Segmentation fault in nonsense.cu" in log


def test_a_system_that_does_not_start_is_given_up_after_two_tries(suite: Path, clip: Path, tmp_path: Path) -> None:
    summary = api.generate(str(suite), [str(adapter(tmp_path, "leaves", clip))], tmp_path / "run")
    assert [("not tried" in failure) for failure in summary.failures] == [False, False, True]
    assert "libcudart.so.99" in summary.failures[0]


def test_several_workers_share_the_clips(suite: Path, clip: Path, tmp_path: Path) -> None:
    api.generate(str(suite), [str(adapter(tmp_path, "slow", clip))], tmp_path / "run", jobs=2)
    found = sidecars(tmp_path / "run")
    assert len(found) == 3
    spans = sorted((s["timing"]["job_received_ns"], s["timing"]["file_closed_ns"]) for s in found.values())
    assert spans[1][0] < spans[0][1]


def test_an_item_that_is_too_long_or_whose_files_are_wrong_fails_in_words(
    suite: Path, clip: Path, tmp_path: Path
) -> None:
    path = adapter(tmp_path, "good", clip, limits={"max_seconds": 0.5})
    summary = api.generate(str(suite), [str(path)], tmp_path / "run")
    assert "unsupported: lasts 1 s, fake makes clips of up to 0.5 s" in summary.failures[0]
    item = Item.model_validate_json(suite.read_text().splitlines()[0])
    for changes, words in (
        ({"image": {"path": "assets/none.png", "sha256": "0" * 64}}, "does not exist"),
        ({"audio": item.image.model_dump()}, "speech|audio|sound"),
        ({"image": item.audio.model_dump()}, "no picture"),
        ({"image": {"path": "assets/face.jpg", "sha256": "0" * 64}}, "the manifest says 0000"),
        ({"audio": None}, "has no audio"),
    ):
        wrong = Item.model_validate(item.model_dump() | changes)
        with pytest.raises(TalkbenchError, match=words):
            write_inputs(wrong, tmp_path, suite.parent)
    with pytest.raises(TalkbenchError, match=r"by the path of its \.jsonl"):
        write_inputs(item, tmp_path, None)


def test_inputs_are_an_rgb_png_and_16_khz_mono_wav_of_the_same_length(suite: Path, tmp_path: Path) -> None:
    given = write_inputs(Item.model_validate_json(suite.read_text().splitlines()[0]), tmp_path, suite.parent)
    with Image.open(given.image) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (60, 80))
    with wave.open(str(given.audio)) as sound:
        assert sound.getparams()[:3] == (1, 2, 16_000)
        assert sound.getnframes() == pytest.approx(16_000, abs=20)
    (item,) = mini_suite(num_short=1, num_long=0, height=128, width=160).items
    drawn = write_inputs(item, tmp_path, None)
    with Image.open(drawn.image) as picture, wave.open(str(drawn.audio)) as sound:
        assert picture.size == (160, 128)
        assert sound.getnframes() == round(item.duration_seconds * 16_000)
        assert np.frombuffer(sound.readframes(sound.getnframes()), "<i2").std() > 100
    assert drawn.audio_seconds == item.duration_seconds


def test_a_system_that_cannot_run_is_refused_before_anything_is_made(suite: Path, clip: Path, tmp_path: Path) -> None:
    good, bad = adapter(tmp_path, "good", clip), adapter(tmp_path, "slow", clip, name="needy", needs={"gpus": 64})
    with pytest.raises(PrerequisiteError, match="needy cannot run here"):
        api.generate(str(suite), [str(good), str(bad)], tmp_path / "run")
    assert not list(tmp_path.rglob("run/clips/*/*"))
    done = talkbench("generate", suite, "--system", bad, "--out", tmp_path / "run")
    assert done.returncode == 4
    assert "64 GPU(s)" in done.stderr


def test_the_reference_model_without_its_weights_says_where_to_get_them(tmp_path: Path) -> None:
    done = talkbench("generate", "mini", "-s", ROOT / "model" / "adapter.yaml", "--out", tmp_path / "run",
                     "--num-short", "1", "--num-long", "0", "--weights-dir", tmp_path)  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "huggingface.co/Soul-AILab/SoulX-FlashTalk-14B" in done.stderr
    assert "--weights-dir" in done.stderr
    assert not list(tmp_path.rglob("*.mp4"))


def test_an_interrupt_that_comes_while_a_worker_starts_ends_it(clip: Path, tmp_path: Path) -> None:
    (spec,) = read(adapter(tmp_path, "late", clip))
    station = Station(spec, Machine(tmp_path, ()), (), log=tmp_path / "log", assets=None)
    began = time.monotonic()
    station.interrupt()
    with pytest.raises(WorkerFailedError, match="no-handshake"):
        station.worker()
    station.close()
    assert time.monotonic() - began < 5


def start(suite: Path, path: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "talkbench", "generate", str(suite), "-s", str(path), "--out", str(run)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)


def pid_of_worker(run: Path) -> int:
    """Wait until the fake has said its process id in the log."""
    log = run / "logs" / "fake-0.log"
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if log.is_file() and "pid " in (text := log.read_text()):
            return int(text.rpartition("pid ")[2].split()[0])
        time.sleep(0.05)
    raise AssertionError(f"no worker started: {log}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopping_the_host_ends_its_workers_and_loses_no_finished_clip(
    suite: Path, clip: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    api.generate(str(suite), [str(adapter(tmp_path, "error", clip))], run)
    process = start(suite, adapter(tmp_path, "wake", clip, version=2), run)
    worker = pid_of_worker(run)
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=30)
    assert gone([worker])
    assert set(sidecars(run)) == {"one", "three"}
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "run the same command again" in told


def test_the_command_line_lists_and_checks_systems(clip: Path, tmp_path: Path) -> None:
    listed = json.loads(talkbench("system", "list", "--json").stdout)
    assert {"name": "recorded", "kind": "known-answer", "lacks": []}.items() <= listed[0].items()
    two_seconds = make_clip(tmp_path / "clip.mp4", seconds=2.0)
    good = adapter(tmp_path, "still", two_seconds)
    done = talkbench("system", "check", good)
    assert done.returncode == 0, done.stderr
    assert "fake works" in done.stderr
    assert "a fast chip" in done.stderr
    failed = talkbench("system", "check", adapter(tmp_path, "leaves", clip), "--json")
    assert failed.returncode == 3
    assert "no-handshake" in json.loads(failed.stdout)[0]["failure"]
    known = talkbench("system", "check", "recorded")
    assert known.returncode == 2
    assert "always runs" in known.stderr
