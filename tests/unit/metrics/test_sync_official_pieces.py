"""The official chain, piece by piece: tracks beside silence, frames too small for the detector, one encoding thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts
from talkbench.metrics import sync_official
from talkbench.metrics.sync import SyncParams, SyncRunner
from talkbench.metrics.sync_official import OfficialParams, SyncOfficialRunner
from talkbench.nets.syncnet import SyncNet
from tests.support import make_clip
from tests.unit.metrics import test_sync
from tests.unit.metrics.test_sync import SOUND, LooseFaces, needs_ffmpeg, talking, through_the_chain, written

net, stubs = test_sync.net, test_sync.stubs


@needs_ffmpeg
def test_a_scene_in_silence_costs_its_track_and_not_the_clip(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sync_official, "FaceFinder", LooseFaces)
    frames, sound = talking(40), SOUND[: 40 * 640].copy()
    frames[20:, :, 120:], sound[: 23 * 640] = 255, 0
    path = written(tmp_path / "clip.mp4", frames, sound)
    found = through_the_chain(path, OfficialParams(min_track_frames=12, min_face_px=48.0)).details
    assert found["num_tracks"] == 2
    assert [track["first_frame"] for track in found["tracks"]] == [20]


@needs_ffmpeg
def test_a_clip_without_any_sound_is_silent_whatever_it_shows(stubs: SyncNet, tmp_path: Path) -> None:
    with pytest.raises(Unscorable, match="the sound track is silent"):
        through_the_chain(written(tmp_path / "clip.mp4", talking(5), 0 * SOUND[:3200]), OfficialParams())


@needs_ffmpeg
@pytest.mark.parametrize("runner_type", [SyncRunner, SyncOfficialRunner])
def test_frames_too_small_for_the_detector_are_a_reason(
    stubs: SyncNet, runner_type: type[SyncRunner | SyncOfficialRunner]
) -> None:
    def start(side: int) -> None:
        runner_type().start(ClipFacts(200, side, Fraction(25), has_audio=True, path=Path("clip.mp4")))

    start(110)
    with pytest.raises(Unscorable, match="sides of 110 px") as caught:
        start(109)
    assert caught.value.reason == "too-small"


def unpacked(clip: Path, folder: Path) -> bytes:
    runner = SyncOfficialRunner()
    runner._path = clip
    folder.mkdir()
    runner._unpack(folder)
    return (folder / "video.avi").read_bytes()


def cropped(_clip: Path, folder: Path) -> bytes:
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    sync_official.write_xvid(folder / "crop.avi", iter(noise))
    return (folder / "crop.avi").read_bytes()


@needs_ffmpeg
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be taken away on Linux only")
@pytest.mark.parametrize("made", [unpacked, cropped])
def test_the_number_of_cores_changes_no_pixel(made: Callable[[Path, Path], bytes], tmp_path: Path) -> None:
    clip, cores = make_clip(tmp_path / "clip.mp4", seconds=0.2), os.sched_getaffinity(0)
    every = made(clip, tmp_path / "every")
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert made(clip, tmp_path / "one") == every
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    "wrong", [{"detector_scale": 0}, {"detector_scale": 1.5}, {"min_score": 0}, {"crop_margin": -1}]
)
@pytest.mark.parametrize("params_type", [SyncParams, OfficialParams])
def test_parameters_without_meaning_are_refused_by_name(params_type: type[SyncParams], wrong: dict[str, float]) -> None:
    with pytest.raises(TalkbenchError, match=next(iter(wrong))):
        params_type(**wrong)
