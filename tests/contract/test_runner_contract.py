"""What every registered runner must obey, plug-ins included.

Runners with networks are put through the same with networks of their own in `tests/unit/metrics`: the way frames arrive
never matters, a new clip starts afresh, too few frames are a reason.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from talkbench.errors import Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch
from talkbench.metrics.base import RUNNERS, Runner, Scores, params_digest
from talkbench.schema import Chunk, Timing, Truth
from tests.support import moving_square, tone

NUM_FRAMES = 150
FRAMES = np.stack(list(moving_square(NUM_FRAMES, 128, 160)))
MOUTH = np.abs(np.sin(np.arange(NUM_FRAMES) * 0.7)) * (np.arange(NUM_FRAMES) % 37 > 9)
SOUND = (np.repeat(MOUTH, 640) * tone(NUM_FRAMES / 25)).astype(np.float32)
FACTS = ClipFacts(
    160,
    128,
    Fraction(25),
    has_audio=True,
    truth=Truth(frame_rate="25", mouth_opening=tuple(MOUTH), audio_offset_frames=0.0, identity="x"),
    timing=Timing(
        job_received_ns=1,
        first_frame_ns=10**8,
        chunks=tuple(Chunk(done_ns=10**9 * (i + 1), num_frames=28) for i in range(5)),
        file_closed_ns=10**10,
        device="x",
    ),
)


def score(runner: Runner, size: int, num_frames: int = NUM_FRAMES) -> Scores:
    runner.start(FACTS)
    rate = runner.needs.audio_rate_hz
    for start in range(0, num_frames, size):
        part = FRAMES[start : start + size]
        if runner.needs.frames:
            runner.update(FrameBatch(part, start, (start + np.arange(len(part))) / 25))
        if rate == 16_000:
            runner.hear(SOUND[start * 640 : (start + size) * 640], start * 640)
    return runner.finish()


WITHOUT_NETWORK = [name for name in RUNNERS.names() if not RUNNERS.get(name).needs.weights]


@pytest.fixture(params=WITHOUT_NETWORK)
def runner_type(request: pytest.FixtureRequest) -> type[Runner]:
    return RUNNERS.get(request.param)


def test_the_batch_size_never_matters(runner_type: type[Runner]) -> None:
    whole = score(runner_type(), NUM_FRAMES)
    for size in (1, 7, 64):
        part = score(runner_type(), size)
        assert part.values == whole.values
        assert {k: v.values_T.tolist() for k, v in part.series.items()} == {
            k: v.values_T.tolist() for k, v in whole.series.items()
        }


def test_a_runner_starts_afresh_with_every_clip(runner_type: type[Runner]) -> None:
    runner = runner_type()
    first = score(runner, 16).values
    score(runner, 16, num_frames=90)
    assert score(runner, 16).values == first


def test_what_it_returns_is_what_it_declares(runner_type: type[Runner]) -> None:
    scores = score(runner_type(), 32)
    declared = {output.id: output for output in runner_type.outputs}
    assert scores.values.keys() | scores.missing.keys() == declared.keys()
    for name, value in scores.values.items():
        least, most = declared[name].bounds
        assert math.isfinite(value)
        assert (least is None or value >= least) and (most is None or value <= most)
    assert {name for name, output in declared.items() if output.series} == scores.series.keys()
    for terms in scores.series.values():
        assert NUM_FRAMES - 1 <= len(terms) <= NUM_FRAMES


@pytest.mark.parametrize("name", RUNNERS.names())
def test_it_is_described_for_tables(name: str) -> None:
    runner_type = RUNNERS.get(name)
    assert runner_type.name == name
    for output in runner_type.outputs:
        assert output.label
        assert output.description.endswith(".")
        assert output.id == output.id.lower()
    assert dataclasses.is_dataclass(runner_type.params_type)
    assert params_digest(runner_type.params_type()) == params_digest(runner_type.params_type())


def test_two_frames_or_none_at_all_are_no_crash(runner_type: type[Runner]) -> None:
    for num_frames in (0, 1, 2):
        runner = runner_type()
        try:
            scores = score(runner, 1, num_frames)
        except Unscorable as reason:
            assert reason.reason
        else:
            assert all(math.isfinite(value) for value in scores.values.values())
