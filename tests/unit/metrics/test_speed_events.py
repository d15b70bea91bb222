"""Rates from stages: each has its own beginning and end, and is missing, with the reason, where one is not known."""

from __future__ import annotations

from fractions import Fraction

import pytest

from talkbench.errors import NotApplicable
from talkbench.media.clip import ClipFacts
from talkbench.metrics.base import Scores
from talkbench.metrics.speed import SpeedRunner
from talkbench.schema import Chunk, Sidecar, Timing

SECOND = 1_000_000_000
STAGES = {
    "spawn": 2, "import_end": 5, "load_end": 10, "cond_end": 12, "first_frames": 14, "gen_end": 32, "encode_end": 35,
    "exit": 42,
}  # fmt: skip


def timing(events: dict[str, float], chunks: tuple[tuple[float, int], ...] = (), **changes) -> Timing:
    first = events.get("first_frames")
    given = {
        "job_received_ns": SECOND,
        "first_frame_ns": None if first is None else int(first * SECOND),
        "chunks": tuple(Chunk(done_ns=int(at * SECOND), num_frames=count) for at, count in chunks),
        "file_closed_ns": 45 * SECOND,
        "device": "test",
        "events": {name: int(at * SECOND) for name, at in events.items()},
        "num_frames": 100,
        "audio_seconds": 4.0,
        "num_gpus": 2,
    }
    return Timing(**(given | changes))


def speed(events: Timing) -> Scores:
    runner = SpeedRunner()
    runner.start(ClipFacts(64, 64, Fraction(25), True, timing=events))
    return runner.finish()


def test_every_rate_has_its_own_beginning_and_end() -> None:
    values = speed(timing(STAGES)).values
    assert values == pytest.approx({
        "speed.generate_fps": 100 / 20,
        "speed.end_to_end_fps": 100 / 25,
        "speed.cold_fps": 100 / 40,
        "speed.gpu_seconds_per_second": 2 * 25 / 4,
        "speed.first_frame_seconds": 4.0,
        "speed.generate_real_time_factor": 20 / 4,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("unknown", "missing"),
    [
        ("gen_end", {"speed.generate_fps", "speed.generate_real_time_factor"}),
        ("load_end", {"speed.end_to_end_fps", "speed.first_frame_seconds", "speed.gpu_seconds_per_second"}),
        ("exit", {"speed.cold_fps"}),
        ("first_frames", {"speed.first_frame_seconds"}),
    ],
)
def test_what_no_event_tells_of_is_missing_with_the_events_name(unknown: str, missing: set[str]) -> None:
    found = speed(timing({name: at for name, at in STAGES.items() if name != unknown}))
    told = {name: reason for name, reason in found.missing.items() if reason.reason == "no-event"}
    assert set(told) == missing
    assert all(unknown in reason.message for reason in told.values())
    assert not missing & found.values.keys()


def test_a_system_whose_model_stays_loaded_is_timed_from_its_job_to_its_file() -> None:
    found = speed(timing({"cond_end": 2.0, "gen_end": 22.0}, first_frame_ns=3 * SECOND))
    assert found.values["speed.end_to_end_fps"] == pytest.approx(100 / 44)
    assert found.values["speed.first_frame_seconds"] == pytest.approx(2.0)
    assert found.values["speed.generate_fps"] == pytest.approx(5.0)
    assert found.missing["speed.cold_fps"].message == "nothing tells of spawn or exit"


def test_cycles_that_a_program_prints_give_a_steady_rate_and_its_quartiles() -> None:
    chunks = ((12, 81), (16, 72), (20, 72), (28, 72))
    found = speed(timing(STAGES, chunks, num_frames=300))
    assert found.values["speed.fps"] == pytest.approx(18.0)
    assert found.details["fps_quartiles"] == [13.5, 18.0]


def test_more_cycles_than_frames_are_a_contradiction_not_a_rate() -> None:
    found = speed(timing(STAGES, ((12, 81), (16, 72), (20, 72), (28, 72))))
    assert found.missing["speed.fps"].reason == "contradictory-events"
    assert "297 frames, the system made 100" in found.missing["speed.fps"].message
    backwards = speed(timing(STAGES | {"gen_end": 11}))
    assert backwards.missing["speed.generate_fps"].reason == "contradictory-events"


def test_gpu_seconds_need_gpus() -> None:
    assert speed(timing(STAGES, num_gpus=0)).missing["speed.gpu_seconds_per_second"].message == "it ran without a GPU"
    assert "nobody noted" in speed(timing(STAGES, num_gpus=None)).missing["speed.gpu_seconds_per_second"].message


def test_every_output_has_a_value_or_a_reason_and_a_sentence_that_says_what_is_inside() -> None:
    found = speed(timing({"spawn": 2, "exit": 42}))
    assert found.values.keys() | found.missing.keys() == {output.id for output in SpeedRunner.outputs}
    assert not found.values.keys() & found.missing.keys()
    assert all(output.description.endswith(".") for output in SpeedRunner.outputs)


def test_timing_of_older_clips_is_read_and_gives_what_it_gave() -> None:
    old = Sidecar.model_validate_json(
        '{"schema_version": 1, "timing": {"scenario": "single", "job_received_ns": 0, "first_frame_ns": 1000000000,'
        '"chunks": [{"done_ns": 2000000000, "num_frames": 28}], "file_closed_ns": 4000000000, "device": "GPU"}}'
    ).timing
    values = speed(old).values
    assert values == {"speed.end_to_end_fps": 7.0, "speed.first_frame_seconds": 1.0}
    with pytest.raises(NotApplicable):
        speed(Timing(job_received_ns=0, file_closed_ns=1, device="x"))
