"""Movement: bounded, smooth and aperiodic for any length."""

import dataclasses

import numpy as np
import pytest

from talkbench.mini.identity import sample_identity
from talkbench.mini.pose import Pose, poses

BOUNDS = {
    "x": (-0.06, 0.06), "y": (-0.06, 0.06), "roll": (-6, 6), "yaw": (-1, 1), "pitch": (-1, 1), "blink": (0, 1),
    "brow": (0, 1), "gaze_x": (-1, 1), "gaze_y": (-1, 1), "breath": (0, 1), "left_lift": (0, 1),
    "left_sweep": (-1, 1), "right_lift": (0, 1), "right_sweep": (-1, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def hour():
    return poses(sample_identity(5), 90_000, 25.0, seed=5)


def test_every_channel_stays_within_its_bounds_for_an_hour_and_uses_them(hour):
    assert set(BOUNDS) == {field.name for field in dataclasses.fields(Pose)}
    for name, (low, high) in BOUNDS.items():
        track = getattr(hour, name)
        assert track.min() >= low, name
        assert track.max() <= high, name
        assert np.ptp(track) > 0.25 * (high - low), name


def test_the_head_never_jumps(hour):
    for name, step in (("x", 0.02), ("y", 0.015), ("roll", 1.5), ("yaw", 0.4), ("pitch", 0.45), ("breath", 0.15)):
        assert np.abs(np.diff(getattr(hour, name))).max() < step, name


def test_movement_does_not_repeat(hour):
    track = hour.x - hour.x.mean()
    power = np.abs(np.fft.rfft(track, 2 * len(track))) ** 2
    correlation = np.fft.irfft(power)[: len(track) // 2]
    assert np.abs(correlation[250:]).max() < 0.2 * correlation[0]


def test_people_blink_as_often_as_people_do(hour):
    shut = hour.blink > 0.9
    blinks = np.count_nonzero(shut[1:] & ~shut[:-1])
    assert 12 < blinks / 60 < 35


def test_a_frame_does_not_depend_on_how_many_are_asked_for():
    person = sample_identity(2)
    short, long = poses(person, 50, 25.0, seed=9), poses(person, 5000, 25.0, seed=9)
    assert short[49] == long[49]
    assert short[49] != poses(person, 50, 25.0, seed=10)[49]
    assert len(long) == 5000


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="at 0 per second"):
        poses(sample_identity(0), 10, 0, seed=1)
