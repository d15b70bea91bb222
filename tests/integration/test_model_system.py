"""The reference model as a system like any other: the tiny recipe, through its adapter, in its own process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from talkbench import api
from talkbench.media import probe
from talkbench.media.decode import VideoReader
from talkbench.mini.suite import mini_suite
from talkbench.schema import Suite
from talkbench.systems.adapter import Station
from talkbench.systems.machine import Machine
from talkbench.systems.scan import read_sidecar
from talkbench.systems.spec import read
from talkbench.systems.task import Task
from talkbench.workers.host import WorkerFailedError
from tests.support import ROOT
from tests.unit.workers.fakes import carrying_any

pytest.importorskip("torch")
NAME = "soulx-livetalk-tiny"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def adapter(folder: Path, *launcher: str) -> Path:
    """Write the adapter of the tiny recipe alone, started by a launcher if one is given."""
    data = yaml.safe_load((ROOT / "model" / "adapter.yaml").read_text())
    system = data["systems"][NAME]
    system["launch"][1:1] = launcher
    path = folder / "adapter.yaml"
    path.write_text(yaml.safe_dump(data | {"systems": {NAME: system}}))
    return path


@pytest.fixture(scope="module")
def suite() -> Suite:
    """Two items of talkbench-mini, of 36 and 15 frames."""
    drawn = mini_suite(num_short=2, num_long=0, height=128, width=128)
    items = [
        item.model_copy(update={"duration_seconds": seconds})
        for item, seconds in zip(drawn.items, (1.44, 0.6), strict=True)
    ]
    return drawn.model_copy(update={"items": tuple(items), "name": "two"})


@pytest.fixture(scope="module")
def run(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    summary = api.generate(suite, [str(adapter(folder))], folder / "run")
    assert summary.failures == ()
    return folder / "run"


def frames(path: Path) -> np.ndarray:
    with probe.open_clip(path) as container:
        reader = VideoReader(container, path, probe.probe(path).video)
        return np.concatenate([batch.frames_THWC.copy() for batch in reader.batches()])


def clip(run: Path, number: int) -> Path:
    return run / "clips" / NAME / f"mini-s{number:02d}.mp4"


def test_every_frame_of_the_sound_is_there_with_the_sound(run: Path) -> None:
    for number, count in ((1, 36), (2, 15)):
        facts = probe.probe(clip(run, number))
        assert (facts.video.width, facts.video.height, facts.video.frame_rate) == (64, 64, "25")
        assert facts.audio.rate_hz == 16_000
        assert facts.audio.duration_seconds == pytest.approx(count / 25, abs=0.07)
        assert len(frames(clip(run, number))) == count


def test_its_chunks_are_timed_and_what_it_is_lies_beside_the_clip(run: Path) -> None:
    first, second = (read_sidecar(clip(run, number)) for number in (1, 2))
    assert [chunk.num_frames for chunk in first.timing.chunks] == [28, 8]
    assert [chunk.num_frames for chunk in second.timing.chunks] == [15]
    assert (first.timing.warmed_up, second.timing.warmed_up) == (False, True)
    assert first.timing.first_frame_ns <= first.timing.chunks[0].done_ns < first.timing.chunks[1].done_ns
    worker = first.settings["worker"]
    assert worker["versions"]["torch"]
    assert worker["details"]["weights"].startswith("mini-domain")
    assert (first.settings["clip"]["seed"], second.settings["clip"]["seed"]) == (20251230, 20251231)


def test_the_picture_moves_and_differs_between_items(run: Path) -> None:
    first, second = frames(clip(run, 1)).astype(int), frames(clip(run, 2)).astype(int)
    assert np.abs(np.diff(first, axis=0)).mean() > 0.05
    assert np.abs(first[:15] - second).mean() > 1


@pytest.mark.slow
def test_two_processes_make_the_same_clip(run: Path, suite: Suite, tmp_path: Path) -> None:
    summary = api.generate(suite, [str(adapter(tmp_path, *TORCHRUN))], tmp_path / "run")
    assert summary.failures == ()
    for number in (1, 2):
        difference = np.abs(frames(clip(tmp_path / "run", number)).astype(int) - frames(clip(run, number)))
        assert difference.mean() < 0.5
    assert read_sidecar(clip(tmp_path / "run", 1)).timing.num_devices == 2


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_job_of_the_others_within_seconds(suite: Suite, tmp_path: Path) -> None:
    (spec,) = read(adapter(tmp_path, *TORCHRUN))
    station = Station(spec, Machine(tmp_path, ()), (), log=tmp_path / "log", assets=None)
    item = suite.items[0].model_copy(update={"duration_seconds": 60.0})
    killed_at = []

    def kill(pid: int) -> None:
        killed_at.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    try:
        launcher = station.worker().pid
        folder = Path(os.readlink(f"/proc/{launcher}/cwd"))
        ranks = [pid for pid in carrying_any(b"talkbench_model.worker", folder) if pid != launcher]
        assert len(ranks) == 2
        threading.Timer(3.0, kill, [max(ranks)]).start()
        with pytest.raises(WorkerFailedError, match="crashed|error"):
            station.make(Task(spec.name, item, tmp_path / "a.mp4", "key"))
        assert time.monotonic() - killed_at[0] < 15
        assert not carrying_any(b"talkbench_model.worker", folder)
    finally:
        station.close()


@pytest.mark.parametrize(("processes", "degrees"), [(1, (1, 1)), (2, (2, 1)), (5, (1, 5)), (8, (8, 1)), (12, (4, 3))])
def test_any_number_of_processes_shares_heads_as_far_as_they_divide(processes: int, degrees: tuple[int, int]) -> None:
    from model.recipes import recipe, spread

    parallel = spread(recipe("tiny"), processes).parallel
    assert (parallel.ulysses, parallel.ring) == degrees
