"""The runners without weights: definitions, known answers, and what they must not react to."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
import pytest

from talkbench.errors import NotApplicable, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch
from talkbench.metrics import av, drift
from talkbench.metrics.base import Output, Runner, Scores
from talkbench.metrics.flicker import FlickerRunner, mean_absolute_difference
from talkbench.metrics.motion import MotionRunner
from talkbench.metrics.series import Terms
from talkbench.metrics.speed import SpeedRunner, real_time_factor
from talkbench.schema import Chunk, Timing, Truth, Windows
from tests.support import moving_square

RNG = np.random.default_rng(7)


def facts(frames_THWC: np.ndarray, rate: int = 25, **more: object) -> ClipFacts:
    return ClipFacts(frames_THWC.shape[2], frames_THWC.shape[1], Fraction(rate), has_audio=True, **more)  # type: ignore[arg-type]


def run(runner: Runner, frames_THWC: np.ndarray, rate: int = 25, size: int = 16) -> Scores:
    runner.start(facts(frames_THWC, rate))
    for start in range(0, len(frames_THWC), size):
        part = frames_THWC[start : start + size]
        runner.update(FrameBatch(part, start, (start + np.arange(len(part))) / rate))
    return runner.finish()


def official_flicker(frames_THWC: np.ndarray) -> float:
    """The definition in VBench's words: float32 absdiff of neighbours, float32 mean, (255 - mean of means) / 255."""
    terms = [float(np.mean(cv2.absdiff(a.astype(np.float32), b.astype(np.float32)))) for a, b in pairwise(frames_THWC)]
    return (255.0 - float(np.mean(terms))) / 255.0


@pytest.mark.parametrize("shape", [(9, 64, 80, 3), (3, 33, 47, 3), (2, 416, 720, 3)])
def test_flicker_equals_the_official_definition(shape: tuple[int, ...]) -> None:
    frames = RNG.integers(0, 256, shape, dtype=np.uint8)
    assert run(FlickerRunner(), frames).values["vbench.temporal_flickering"] == pytest.approx(
        official_flicker(frames), abs=1e-6
    )


def test_the_difference_of_two_frames_is_exact() -> None:
    a = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    b = RNG.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    assert mean_absolute_difference(a, b) == int(np.abs(a.astype(int) - b).sum()) / a.size
    assert mean_absolute_difference(np.zeros_like(a), np.full_like(a, 255)) == 255


def test_a_still_clip_does_not_flicker_and_does_not_move() -> None:
    still = np.repeat(RNG.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), 5, axis=0)
    assert run(FlickerRunner(), still).values["vbench.temporal_flickering"] == 1.0
    assert run(MotionRunner(), still).values["motion.amount"] == 0.0


@pytest.mark.parametrize("runner", [FlickerRunner, MotionRunner])
def test_one_frame_has_no_neighbour(runner: type[Runner]) -> None:
    with pytest.raises(Unscorable) as error:
        run(runner(), np.zeros((1, 64, 64, 3), np.uint8))
    assert error.value.reason == "one-frame"


def pan(pixels_per_frame: float, num_frames: int = 8, side: int = 128) -> np.ndarray:
    y, x = np.mgrid[0:side, 0:side]
    shots = [120 + 60 * np.sin((x + pixels_per_frame * t) / 11) + 40 * np.cos((y + x) / 17) for t in range(num_frames)]
    return np.repeat(np.stack(shots)[..., None], 3, axis=-1).astype(np.uint8)


def test_motion_grows_with_displacement_and_frame_rate() -> None:
    slow, fast = (run(MotionRunner(), pan(p)).values["motion.amount"] for p in (1.0, 2.0))
    assert fast / slow == pytest.approx(2.0, rel=0.35)
    assert run(MotionRunner(), pan(1.0), rate=50).values["motion.amount"] == pytest.approx(2 * slow, rel=0.01)


def test_global_flicker_is_not_motion() -> None:
    still = pan(0.0)
    gains = np.array([1.0, 1.04, 0.97, 1.02, 0.98, 1.05, 0.96, 1.0])
    flickering = np.clip(still * gains[:, None, None, None], 0, 255).astype(np.uint8)
    assert (
        run(MotionRunner(), flickering).values["motion.amount"]
        < 0.1 * run(MotionRunner(), pan(1.0)).values["motion.amount"]
    )


def test_motion_refuses_frames_too_small_to_have_edges() -> None:
    with pytest.raises(Unscorable, match="too-small|8 pixels"):
        run(MotionRunner(), np.zeros((3, 4, 4, 3), np.uint8))


def test_what_runners_share_is_computed_once() -> None:
    batch, calls = FrameBatch(np.zeros((2, 8, 8, 3), np.uint8), 0, np.zeros(2)), []
    for _ in range(3):
        batch.share("x", lambda frames: calls.append(1) or frames.sum())
    assert len(calls) == 1


# --- av.offset


def speech(num_frames: int, shift: int = 0, seed: int = 1) -> tuple[Truth, np.ndarray]:
    """A mouth, and a sound whose level follows it `shift` frames later."""
    rng = np.random.default_rng(seed)
    mouth = np.clip(np.convolve(rng.random(num_frames + 80) > 0.6, np.ones(4) / 4, "same"), 0, 1)
    heard = mouth[40 - shift : 40 - shift + num_frames]
    sound = np.repeat(heard, 640) * np.sin(np.arange(num_frames * 640) * 0.3)
    shown = mouth[40 : 40 + num_frames]
    return Truth(frame_rate="25", mouth_opening=tuple(shown), audio_offset_frames=shift, identity="x"), sound.astype(
        np.float32
    )


@pytest.mark.parametrize("shift", [-7, -1, 0, 3, 12])
@pytest.mark.parametrize("size", [333, 100_000])
def test_the_offset_of_a_known_mouth_is_found_whatever_the_blocks(shift: int, size: int) -> None:
    truth, sound = speech(120, shift)
    runner = av.AvRunner()
    runner.start(ClipFacts(64, 64, Fraction(25), True, truth=truth))
    for start in range(0, len(sound), size):
        runner.hear(sound[start : start + size], start)
    assert runner.finish().values["av.offset"] == pytest.approx(-shift, abs=0.1)


def test_no_truth_does_not_apply_and_a_still_mouth_or_silence_cannot_be_in_step() -> None:
    runner = av.AvRunner()
    with pytest.raises(NotApplicable) as error:
        runner.start(ClipFacts(64, 64, Fraction(25), True))
    assert error.value.status == "skipped"
    still = Truth(frame_rate="25", mouth_opening=(0.0,) * 100, audio_offset_frames=0, identity="x")
    with pytest.raises(Unscorable, match="never moves"):
        runner.start(ClipFacts(64, 64, Fraction(25), True, truth=still))
    truth, sound = speech(120)
    runner.start(ClipFacts(64, 64, Fraction(25), True, truth=truth))
    runner.hear(np.zeros_like(sound), 0)
    with pytest.raises(Unscorable) as silent:
        runner.finish()
    assert silent.value.reason == "silent"


def test_unrelated_sound_has_no_offset() -> None:
    truth, _ = speech(120, seed=1)
    _, other = speech(120, seed=99)
    runner = av.AvRunner(av.AvParams(min_correlation=0.6))
    runner.start(ClipFacts(64, 64, Fraction(25), True, truth=truth))
    runner.hear(other, 0)
    with pytest.raises(Unscorable) as error:
        runner.finish()
    assert error.value.reason == "no-correlation"


# --- speed


def timing(cycles: list[float], frames: int = 28, scenario: str = "single", first: float = 0.5) -> Timing:
    done = np.cumsum([first, *cycles])
    return Timing(
        scenario=scenario,  # type: ignore[arg-type]
        job_received_ns=1_000_000_000,
        first_frame_ns=1_000_000_000 + int(0.25e9),
        chunks=tuple(Chunk(done_ns=1_000_000_000 + int(t * 1e9), num_frames=frames) for t in done),
        file_closed_ns=1_000_000_000 + int((done[-1] + 0.1) * 1e9),
        device="test",
    )


def speed(events: Timing | None) -> Scores:
    runner = SpeedRunner()
    runner.start(ClipFacts(64, 64, Fraction(25), True, timing=events))
    return runner.finish()


def test_fps_is_new_frames_per_steady_cycle_as_in_the_report() -> None:
    scores = speed(timing([0.876] * 4))
    assert scores.values["speed.fps"] == pytest.approx(31.96, abs=0.01)
    assert scores.values["speed.first_frame_seconds"] == pytest.approx(0.25)
    assert scores.values["speed.real_time_factor"] == pytest.approx(0.876 / 1.12)
    assert scores.values["speed.missed_deadlines"] == 0.0
    assert scores.values["speed.end_to_end_fps"] == pytest.approx(5 * 28 / (0.5 + 4 * 0.876 + 0.1))


def test_a_slow_cycle_is_a_missed_deadline() -> None:
    assert speed(timing([1.0, 1.0, 2.0, 1.0])).values["speed.missed_deadlines"] == 0.25


def test_a_percentile_needs_its_number_of_cycles() -> None:
    few, many = speed(timing([0.5] * 3)), speed(timing([0.5] * 250))
    assert few.missing["speed.cycle_p99_seconds"].reason == "too-few-chunks"
    assert many.values["speed.cycle_p99_seconds"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scenario", "cycles", "valid"),
    [("single", 1, False), ("single", 2, True), ("stream", 60, False), ("stream", 70, True)],
)
def test_a_run_short_of_its_scenario_is_invalid_not_averaged(scenario: str, cycles: int, valid: bool) -> None:
    scores = speed(timing([1.0] * cycles, scenario=scenario))
    assert ("speed.fps" in scores.values) == valid
    assert "speed.end_to_end_fps" in scores.values


def test_speed_without_events_does_not_apply() -> None:
    with pytest.raises(NotApplicable):
        speed(None)
    with pytest.raises(ValueError, match="0 frames"):
        real_time_factor(0, 25.0, 1.0)


# --- windows and drift


def test_windows_follow_time_stamps_and_leave_gaps_empty() -> None:
    terms = Terms()
    terms.add([1.0, 3.0, 10.0, 20.0], [0.0, 0.96, 1.0, 3.5])
    assert terms.windows(1.0).values == (2.0, 10.0, None, 20.0)
    assert terms.mean() == 8.5


OUTPUT = Output("x.y", "X", better="higher", series=True)


def series(
    seconds: float, level: float = 0.99, slope: float = 0.0, jump: float = 0.0, period: int = 28, seed: int = 0
) -> Terms:
    n = int(seconds * 25)
    values = level + slope * np.arange(n) / 1500 + np.random.default_rng(seed).normal(0, 0.001, n)
    values[period::period] -= jump
    terms = Terms()
    terms.add(values, np.arange(n) / 25)
    return terms


def test_drift_tells_a_steady_clip_from_a_decaying_one_and_one_with_seams() -> None:
    (slope, stable, seam) = (output.id for output in drift.outputs(OUTPUT))
    given = series(120), series(120, slope=-0.01), series(120, jump=0.02)
    steady, decaying, seams = (drift.derive(OUTPUT, terms, 120.0) or Scores({}) for terms in given)
    assert abs(steady.values[slope]) < 1e-4
    assert steady.values[stable] == 120.0
    assert steady.details["never_failed"] is True
    assert steady.values[seam] < 2
    assert decaying.values[slope] == pytest.approx(-0.01, rel=0.05)
    assert decaying.values[stable] < 60
    assert decaying.details["never_failed"] is False
    assert seams.values[seam] > 5
    assert seams.details["seam_period_frames"] == 28


@pytest.mark.parametrize("period", [12, 28, 47])
def test_the_period_of_seams_is_found(period: int) -> None:
    assert drift.seam_strength(series(60, jump=0.02, period=period).values_T, "higher")[1] == period


def test_single_events_are_no_seams_and_improvement_is_no_failure() -> None:
    once = series(60)
    values = once.values_T
    values[[100, 333, 700, 901]] -= 0.5
    assert drift.seam_strength(values, "higher")[0] < 2
    improving = series(60, slope=+0.02).windows()
    assert drift.stable_seconds(improving, "higher", 60.0) == 60.0
    assert drift.stable_seconds(improving, None, 60.0) < 60.0


def test_a_constant_series_has_neither_slope_nor_seams() -> None:
    constant = Windows(seconds=1.0, values=(1.0,) * 60)
    assert drift.slope_per_minute(constant) == 0.0
    assert drift.stable_seconds(constant, "higher", 60.0) == 60.0
    assert drift.seam_strength(np.ones(1500), "higher") == (0.0, 0)


def test_moving_square_moves_more_when_it_is_faster() -> None:
    amounts = [
        run(MotionRunner(), np.stack(list(moving_square(20, 128, 128, speed=s)))).values["motion.amount"]
        for s in (0.5, 2.0)
    ]
    assert amounts[1] > 1.5 * amounts[0]
