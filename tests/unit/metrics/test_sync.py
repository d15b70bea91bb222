"""Lip sync: the definition in its own words, streams, several faces, and every way in which a clip cannot be scored."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media import mfcc
from talkbench.media.clip import ClipFacts, FrameBatch
from talkbench.media.encode import Encoding, write_clip
from talkbench.metrics import sync, sync_frame, sync_official
from talkbench.metrics.base import Runner, Scores
from talkbench.metrics.crops import resize
from talkbench.metrics.lipsync import BATCH_WINDOWS, Match, Sound
from talkbench.metrics.sync import SyncParams, SyncRunner
from talkbench.metrics.sync_frame import SyncFrameRunner
from talkbench.metrics.sync_official import OfficialParams, SyncOfficialRunner
from talkbench.nets.batches import Batch
from talkbench.nets.syncnet import SyncNet

RNG = np.random.default_rng(5)
NUM_FRAMES = 76
SOUND = (RNG.normal(0, 0.1, NUM_FRAMES * 640) * RNG.random(NUM_FRAMES).repeat(640)).astype(np.float32)
FACE = (225, 180, 150)


@pytest.fixture(scope="module")
def net() -> SyncNet:
    """A small net whose batch statistics fit its inputs, so that features differ from window to window."""
    torch.manual_seed(1)
    made = SyncNet(channel_divisor=16, num_features=32)
    for module in made.modules():
        if hasattr(module, "momentum"):
            module.momentum = 1.0
    with torch.inference_mode():
        made.train()(torch.rand(20, 3, 224, 224) * 255, torch.randn(16, 13, 20) * 15)
    return made.eval()


class DrawnFaces:
    """Stands for S3FD: a face is a connected block of `FACE` pixels in one of the frame's halves."""

    def __init__(self, *_: Any) -> None:
        self.batch = Batch(8)

    def find(self, frames_THWC: np.ndarray) -> list[np.ndarray]:
        return [self._boxes(frame) for frame in frames_THWC]

    def _boxes(self, frame: np.ndarray) -> np.ndarray:
        shown, half, found = (frame[..., 0] == FACE[0]) & (frame[..., 2] == FACE[2]), frame.shape[1] // 2, []
        for start in (0, half):
            y, x = np.nonzero(shown[:, start : start + half])
            if len(x):
                found.append([start + x.min(), y.min(), start + x.max() + 1, y.max() + 1])
        return np.array(found, float).reshape(-1, 4)


@pytest.fixture
def stubs(net: SyncNet, monkeypatch: pytest.MonkeyPatch) -> SyncNet:
    for module in (sync, sync_frame, sync_official):
        monkeypatch.setattr(module, "load_syncnet", lambda _context: net)
    for module in (sync, sync_official):
        monkeypatch.setattr(module, "FaceFinder", DrawnFaces)
    return net


def talking(num_frames: int = NUM_FRAMES, faces: int = 1, side: int = 56, seed: int = 0) -> np.ndarray:
    """Frames of one or two blocks with a noisy lower half, that wander a little. [T, 120, 240, 3]."""
    rng = np.random.default_rng(seed)
    frames = np.full((num_frames, 120, 240, 3), 40, np.uint8)
    for t in range(num_frames):
        for face in range(faces):
            x, y = 20 + 120 * face + int(6 * np.sin(t / 7 + face)), 20 + int(4 * np.cos(t / 9))
            frames[t, y : y + side, x : x + side] = FACE
            mouth = rng.integers(0, 140, (3, 4, 3), dtype=np.uint8).repeat(6, axis=0).repeat(6, axis=1)
            frames[t, y + side // 2 : y + side // 2 + 18, x + 12 : x + 36] = mouth
    return frames


def score(
    runner: Runner, frames: np.ndarray, sound: np.ndarray = SOUND, size: int = 16, *, sound_first: bool = False
) -> Scores:
    runner.start(ClipFacts(frames.shape[2], frames.shape[1], Fraction(25), has_audio=True))
    if sound_first:
        runner.hear(sound, 0)
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        runner.update(FrameBatch(part, start, (start + np.arange(len(part))) / 25))
        if not sound_first:
            runner.hear(sound[start * 640 : (start + size) * 640], start * 640)
    if not sound_first:
        runner.hear(sound[-(-len(frames) // size) * size * 640 :], 0)
    return runner.finish()


def official(net: SyncNet, crops: list[np.ndarray], sound: np.ndarray) -> tuple[float, float, int, np.ndarray]:
    """The definition, with everything in memory: confidence, distance, offset, d[i][k]."""
    frames = torch.from_numpy(np.stack(crops)[..., ::-1].transpose(0, 3, 1, 2).copy()).float()
    columns, n = torch.from_numpy(mfcc.mfcc(sound)), min(len(crops), len(sound) // 640) - 5
    with torch.inference_mode():
        lips = torch.cat([net.lip_features(frames[i : i + 5]) for i in range(n)])
        sounds = functional.pad(
            net.audio_features(torch.stack([columns[4 * i : 4 * i + 20].T for i in range(n)])), (0, 0, 15, 15)
        )
        d = torch.stack([functional.pairwise_distance(lips[[i]].repeat(31, 1), sounds[i : i + 31]) for i in range(n)])
    m = d.mean(dim=0)
    return float(m.median() - m.min()), float(m.min()), 15 - int(m.argmin()), d.numpy()


# --- the definition


@pytest.mark.parametrize(
    ("num_frames", "num_samples"), [(76, 76 * 640), (76, 40 * 640 + 639), (30, 76 * 640), (11, 9999)]
)
def test_whole_frames_score_as_the_definition_says(stubs: SyncNet, num_frames: int, num_samples: int) -> None:
    frames, sound = talking(num_frames), SOUND[:num_samples]
    confidence, distance, offset, d = official(stubs, [resize(frame, 224, 224) for frame in frames], sound)
    found = score(SyncFrameRunner(), frames, sound, 7)
    assert found.values["sync.frame.confidence"] == pytest.approx(confidence, abs=1e-5)
    assert found.values["sync.frame.distance"] == pytest.approx(distance, abs=1e-5)
    assert found.values["sync.frame.offset_frames"] == offset
    assert found.details["num_windows"] == len(d)


def test_the_series_is_the_official_framewise_confidence_and_its_mean_the_score(stubs: SyncNet) -> None:
    frames = talking()
    _, _, offset, d = official(stubs, [resize(frame, 224, 224) for frame in frames], SOUND)
    found = score(SyncFrameRunner(), frames)
    terms = found.series["sync.frame.confidence"]
    np.testing.assert_allclose(terms.values_T, np.median(d.mean(axis=0)) - d[:, 15 - offset], atol=1e-5)
    assert terms.mean() == pytest.approx(found.values["sync.frame.confidence"], abs=1e-6)
    np.testing.assert_allclose(terms.seconds_T, (np.arange(NUM_FRAMES - 5) + 2) / 25)


def test_sound_that_comes_later_moves_the_offset_and_not_the_distance(stubs: SyncNet) -> None:
    """A net that hears what it sees: audio features are copied from the lips of the same time."""
    features = RNG.normal(0, 1, (200, 8)).astype(np.float32)

    class Known(Sound):
        def feature(self, number: int) -> np.ndarray:
            return features[number + 8]

    for shift in (-3, 0, 5):
        sound = Known(stubs, Batch(BATCH_WINDOWS))
        sound.hear(np.zeros(200 * 640, np.float32))
        sound.close()
        match = Match(stubs, sound, 0, Batch(BATCH_WINDOWS))
        match.num_frames, match.ended = 105, True
        match._lips.extend(features[8 - shift : 108 - shift])
        match.advance()
        found = match.result()
        assert found.offset_frames == shift
        assert found.distance < 0.2 * found.confidence
        assert (found.confidence_at_zero > 1) == (shift == 0)


def test_crops_of_a_track_score_as_the_official_crops_do(stubs: SyncNet) -> None:
    from scipy.signal import medfilt

    frames = talking()
    boxes = np.concatenate(DrawnFaces().find(frames))
    half = medfilt(np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) / 2, 13)
    x, y = medfilt(boxes[:, [0, 2]].mean(axis=1), 13), medfilt(boxes[:, [1, 3]].mean(axis=1), 13)
    crops = []
    for t, frame in enumerate(frames):
        s, pad = half[t], int(half[t] * 1.8)
        padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), constant_values=110)
        my, mx = y[t] + pad, x[t] + pad
        cut = padded[int(my - s) : int(my + s * 1.8), int(mx - s * 1.4) : int(mx + s * 1.4)]
        crops.append(resize(cut, 224, 224))
    confidence, distance, offset, _ = official(stubs, crops, SOUND)
    found = score(SyncRunner(), frames)
    assert found.values == pytest.approx(
        {"sync.confidence": confidence, "sync.distance": distance, "sync.offset_frames": offset}, abs=1e-5
    )
    assert found.details["face_px"] == pytest.approx(56.0)


@pytest.mark.parametrize("runner_type", [SyncRunner, SyncFrameRunner])
def test_how_frames_and_sound_arrive_never_matters(stubs: SyncNet, runner_type: type[Runner]) -> None:
    frames = talking()
    whole = score(runner_type(), frames, size=NUM_FRAMES)
    runner = runner_type()
    for size, sound_first in ((1, False), (7, False), (64, False), (7, True)):
        again = score(runner, frames, size=size, sound_first=sound_first)
        assert again.values == whole.values
        assert again.details == whole.details
        for name, terms in whole.series.items():
            np.testing.assert_array_equal(again.series[name].values_T, terms.values_T)


# --- several faces, gaps, cuts


def test_of_two_faces_the_one_that_fits_the_sound_counts_with_its_own_numbers(stubs: SyncNet) -> None:
    frames = talking(faces=2)
    left, right = frames.copy(), frames.copy()
    left[:, :, 120:], right[:, :, :120] = 40, 40
    alone = [score(SyncRunner(), half).values for half in (left, right)]
    both = score(SyncRunner(), frames)
    best = max(alone, key=lambda values: values["sync.confidence"])
    # A neighbour shows at the edge of a crop.
    assert both.details["num_tracks"] == 2
    assert {track["num_frames"] for track in both.details["tracks"]} == {NUM_FRAMES}
    assert both.values["sync.confidence"] == pytest.approx(
        max(t["confidence"] for t in both.details["tracks"]), abs=1e-4
    )
    chosen = max(both.details["tracks"], key=lambda track: track["confidence"])
    assert both.values["sync.distance"] == pytest.approx(chosen["distance"], abs=1e-4)
    assert both.values["sync.offset_frames"] == chosen["offset_frames"]
    assert both.values["sync.confidence"] == pytest.approx(best["sync.confidence"], rel=0.5)


def test_a_face_hidden_for_a_second_is_one_track_and_the_gap_is_filled(stubs: SyncNet) -> None:
    frames = talking()
    frames[30:54] = 40
    found = score(SyncRunner(SyncParams(cut_threshold=255)), frames)
    assert found.details["num_tracks"] == 1
    assert found.details["num_windows"] == NUM_FRAMES - 5


def test_a_cut_ends_a_track(stubs: SyncNet) -> None:
    frames = talking(140)
    frames[70:, :, 120:] = 255
    sound = np.tile(SOUND, 2)[: 140 * 640]
    found = score(SyncRunner(), frames, sound)
    assert [track["first_frame"] for track in found.details["tracks"]] == [0, 70]
    assert [track["num_frames"] for track in found.details["tracks"]] == [70, 70]


def test_a_cut_after_a_flash_ends_a_track_though_it_is_known_late(stubs: SyncNet) -> None:
    frames = talking(140)
    frames[20:60, :, 120:] = 255
    frames[25, :, 120:] = 40
    sound = np.tile(SOUND, 2)[: 140 * 640]
    for size in (1, 64):
        found = score(SyncRunner(SyncParams(min_track_frames=15)), frames, sound, size)
        assert [track["first_frame"] for track in found.details["tracks"]] == [0, 20, 60]
        assert [track["num_frames"] for track in found.details["tracks"]] == [20, 40, 80]


def test_frames_and_sound_are_let_go_of(stubs: SyncNet) -> None:
    runner = SyncRunner()
    runner.start(ClipFacts(240, 120, Fraction(25), has_audio=True))
    frames, most = talking(), [0, 0, 0]
    for turn in range(4):
        start = turn * NUM_FRAMES
        for at in range(0, NUM_FRAMES, 19):
            part = frames[at : at + 19]
            runner.update(FrameBatch(part, start + at, (start + at + np.arange(len(part))) / 25))
            runner.hear(SOUND[at * 640 : (at + 19) * 640], (start + at) * 640)
            face = next(iter(runner._faces.values()))
            held = (
                len(runner._frames) + len(runner._waiting),
                len(runner._sound._groups) + len(runner._sound._columns),
                len(face.match._lips),
            )
            most = [max(pair) for pair in zip(most, held, strict=True)]
    assert most[0] <= 25 + 6 + 8 + 15
    assert most[1] <= 12
    assert most[2] <= 80


# --- what cannot be scored


def refused(runner: Runner, frames: np.ndarray, sound: np.ndarray = SOUND) -> Unscorable:
    with pytest.raises(Unscorable) as caught:
        score(runner, frames, sound)
    return caught.value


def test_a_clip_without_a_face_is_unscorable_and_not_zero(stubs: SyncNet) -> None:
    error = refused(SyncRunner(), np.zeros((NUM_FRAMES, 120, 240, 3), np.uint8))
    assert (error.reason, error.message) == ("no-face", "no face was found in 76 frames")


def test_a_face_that_leaves_early_is_too_short_and_the_message_says_by_how_much(stubs: SyncNet) -> None:
    frames = talking()
    frames[30:] = 40
    error = refused(SyncRunner(SyncParams(cut_threshold=255)), frames)
    assert error.reason == "face-too-short"
    assert "30 frames" in error.message
    assert "50" in error.message


def test_exactly_as_many_frames_as_the_limit_are_too_few(stubs: SyncNet) -> None:
    assert refused(SyncRunner(), talking(50)).reason == "face-too-short"
    assert score(SyncRunner(), talking(51)).details["num_windows"] == 46


def test_a_small_face_is_reported_with_its_size(stubs: SyncNet) -> None:
    error = refused(SyncRunner(SyncParams(min_face_px=100.0)), talking())
    assert error.reason == "face-too-small"
    assert "56 px" in error.message


@pytest.mark.parametrize("runner_type", [SyncRunner, SyncFrameRunner])
def test_silence_and_brevity_are_reasons(stubs: SyncNet, runner_type: type[Runner]) -> None:
    assert refused(runner_type(), talking(), SOUND * 0).reason == "silent"
    assert refused(runner_type(), talking(), SOUND[:0]).reason == "silent"
    error = refused(runner_type(), talking(), SOUND[: 10 * 640 + 639])
    assert (error.reason, error.message) == ("too-short", "sync needs 11 frames with sound, and there are 10")


def test_weights_that_give_nan_are_an_error_and_not_a_property_of_the_clip(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SyncNet, "lip_features", lambda _self, frames: torch.full((len(frames) - 4, 32), torch.nan))
    with pytest.raises(FloatingPointError, match="SyncNet"):
        score(SyncFrameRunner(), talking())


@pytest.mark.parametrize("part", ["lip_features", "audio_features"])
@pytest.mark.parametrize("runner_type", [SyncRunner, SyncFrameRunner])
def test_a_device_without_memory_gets_smaller_batches_and_the_row_says_so(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch, runner_type: type[Runner], part: str
) -> None:
    runner = runner_type()
    whole = score(runner, talking())
    compute, sizes = getattr(SyncNet, part), []

    def limited(self: SyncNet, given: torch.Tensor) -> torch.Tensor:
        sizes.append(len(given))
        # Eight windows of lips are twelve frames; of sound, twice as many windows go at a time.
        if len(given) > (12 if part == "lip_features" else 16):
            raise torch.cuda.OutOfMemoryError
        return compute(self, given)

    with monkeypatch.context() as patch:
        patch.setattr(SyncNet, part, limited)
        halved = score(runner, talking())
    assert sizes[:2] == ([20, 12] if part == "lip_features" else [32, 16])
    assert ("batch" in whole.details, halved.details["batch"]) == (False, 8)
    assert halved.values == pytest.approx(whole.values, abs=1e-5)
    assert score(runner, talking()).values == whole.values, "the next clip is none the worse for it"


class CrampedFaces(DrawnFaces):
    """Faces of two frames at a time."""

    def find(self, frames_THWC: np.ndarray) -> list[np.ndarray]:
        self.batch.size = 2
        return super().find(frames_THWC)


def test_smaller_batches_of_the_face_detector_are_told_apart(stubs: SyncNet, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score(SyncRunner(), talking())
    monkeypatch.setattr(sync, "FaceFinder", CrampedFaces)
    assert score(SyncRunner(), talking()).details == whole.details | {"face_batch": 2}


# --- the official chain


def written(path: Path, frames: np.ndarray, sound: np.ndarray | None = SOUND) -> Path:
    write_clip(path, iter(frames), frame_rate=Fraction(25), audio_N=sound, encoding=Encoding(crf=4))
    return path


def through_the_chain(path: Path | None, params: OfficialParams, *, has_audio: bool = True) -> Scores:
    runner = SyncOfficialRunner(params)
    runner.start(ClipFacts(240, 120, Fraction(25), has_audio=has_audio, path=path))
    return runner.finish()


class LooseFaces(DrawnFaces):
    """Blocks survive codecs only roughly."""

    def _boxes(self, frame: np.ndarray) -> np.ndarray:
        near = np.abs(frame.astype(int) - FACE).max(axis=-1, keepdims=True) < 25
        return super()._boxes(np.where(near, np.array(FACE, np.uint8), np.uint8(0)))


needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


@needs_ffmpeg
def test_the_official_chain_agrees_with_the_direct_protocol_but_for_the_codecs(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sync_official, "FaceFinder", LooseFaces)
    path = written(tmp_path / "-odd: name.mp4", talking())
    found = through_the_chain(path, OfficialParams(min_track_frames=50, min_face_px=48.0))
    direct = score(SyncRunner(), talking())
    assert found.values["sync.official.distance"] == pytest.approx(direct.values["sync.distance"], rel=0.1)
    assert abs(found.details["num_windows"] - direct.details["num_windows"]) <= 3
    assert found.details["ffmpeg"]
    assert len(found.series["sync.official.confidence"]) == found.details["num_windows"]


@needs_ffmpeg
def test_the_official_limits_refuse_short_clips(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sync_official, "FaceFinder", LooseFaces)
    path = written(tmp_path / "clip.mp4", talking())
    with pytest.raises(Unscorable) as caught:
        through_the_chain(path, OfficialParams())
    assert caught.value.reason == "face-too-short"
    with pytest.raises(sync_official.ChainError, match="ffmpeg"):
        through_the_chain(tmp_path / "absent.mp4", OfficialParams())


def test_a_machine_without_ffmpeg_skips_the_official_protocol(
    stubs: SyncNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotApplicable, match="install ffmpeg"):
        through_the_chain(tmp_path / "clip.mp4", OfficialParams())


@needs_ffmpeg
def test_a_clip_without_sound_is_refused_before_anything_is_converted(stubs: SyncNet) -> None:
    with pytest.raises(Unscorable) as caught:
        through_the_chain(Path("clip.mp4"), OfficialParams(), has_audio=False)
    assert caught.value.reason == "no-audio"


def test_the_lip_network_does_not_run_beyond_the_end_of_the_sound(
    net: SyncNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, crops, seen = Batch(BATCH_WINDOWS), [resize(frame, 224, 224) for frame in talking(44)], []
    lip_features = net.lip_features
    monkeypatch.setattr(net, "lip_features", lambda frames: seen.append(len(frames)) or lip_features(frames))

    def agreement(close_at: int) -> np.ndarray:
        sound = Sound(net, batch)
        match = Match(net, sound, 0, batch)
        sound.hear(SOUND[: 20 * 640])
        for number, crop in enumerate(crops):
            if number == close_at:
                sound.close()
            match.push(crop)
        sound.close()
        match.end()
        assert match.complete
        return match.result().distances_NK

    at_the_end = agreement(len(crops))
    assert seen == [20, 20]
    seen.clear()
    assert np.array_equal(agreement(22), at_the_end)
    assert seen == [20]
