"""Which frames of a clip of unknown length are looked at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from talkbench.metrics.sampling import UniformSample


def sampled(times: list[float], per_second: float = 1.0, least: int = 8) -> tuple[list[float], int]:
    """Return the times of the sample, and the most frames that ever waited."""
    sample: UniformSample[float] = UniformSample(per_second, least)
    found, kept, most = [], 0, 0
    for at in times:

        def make(at: float = at) -> float:
            nonlocal kept
            kept += 1
            return at

        found += sample.offer(at, make)
        most = max(most, len(sample._taken))
    found += sample.rest()
    assert [at for at, _ in found] == [item for _, item in found]
    return [at for at, _ in found], most


def clip(seconds: float, rate: float = 25.0) -> list[float]:
    return [i / rate for i in range(round(seconds * rate))]


def test_a_long_clip_gives_one_frame_per_second() -> None:
    times, most = sampled(clip(60))
    assert times == [float(i) for i in range(60)]
    assert most <= 16


@pytest.mark.parametrize(("seconds", "num"), [(0.04, 1), (0.28, 7), (0.64, 16), (1.2, 10), (4, 16), (6, 12), (9, 9)])
def test_a_short_clip_gives_at_least_eight_frames_if_it_has_them(seconds: float, num: int) -> None:
    assert len(sampled(clip(seconds))[0]) == num


@pytest.mark.parametrize("rate", [12.5, 24000 / 1001, 25, 29.97, 30, 60])
@pytest.mark.parametrize("seconds", [3, 7, 8.5, 20])
def test_the_sample_is_even_up_to_one_frame(seconds: float, rate: float) -> None:
    times, _ = sampled(clip(seconds, rate))
    gaps = np.diff(times)
    assert gaps.max() - gaps.min() <= 1 / rate + 1e-9
    assert times[0] == 0.0
    assert seconds - times[-1] <= gaps.max() + 2 / rate


def test_fewer_frames_than_the_rate_are_all_taken() -> None:
    assert sampled(clip(30, rate=0.5))[0] == clip(30, rate=0.5)


def test_times_with_rounding_errors_do_not_move_the_grid() -> None:
    times = np.cumsum([0.0] + [0.04] * 499).tolist()
    assert len(sampled(times)[0]) == 20


@given(
    st.lists(st.floats(0.001, 2.0), min_size=1, max_size=200),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(1, 8),
)
def test_any_frame_times_give_the_promised_number(steps: list[float], per_second: float, least: int) -> None:
    times = np.cumsum(steps).tolist()
    found, most = sampled(times, per_second, least)
    assert found == sorted(set(found))
    assert most <= 2 * least
    assert len(found) >= min(least, len({int(at * per_second * 1024 + 1e-6) for at in times}))
