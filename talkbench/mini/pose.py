"""How a person moves while talking: head, eyes, brows, breath and hands, each frame a function of seed and time.

Every channel is hashed noise over time (see `noise`), so frame t costs the same whatever t is, nothing repeats,
and all values stay within the bounds stated in `Pose` for any length.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.clock import frame_seconds
from talkbench.mini.identity import Identity
from talkbench.mini.noise import smooth, smoothstep, stream_key, uniform

Floats = NDArray[np.float64]

_BLINK_CELL_SECONDS = 3.1
_GAZE_CELL_SECONDS = 1.3
_GESTURE_CELL_SECONDS = 2.4


@dataclass(frozen=True)
class Pose:
    """One frame's pose. Lengths are in head heights; x grows to the right of the picture, y down.

    Attributes:
        x, y: Place of the head against rest, within +-0.06.
        roll: Tilt in degrees, within +-6, positive clockwise.
        yaw, pitch: Turn of the face, -1..1, positive to the right and down.
        blink: 0 open, 1 closed.
        brow: 0 at rest, 1 raised.
        gaze_x, gaze_y: Direction of the eyes, -1..1; 0 looks at the viewer.
        breath: 0 out, 1 in.
        left_lift, right_lift: Hands in the picture's left and right half: 0 down, 1 raised before the chest.
        left_sweep, right_sweep: Sideways sweep of each hand, -1 inwards to 1 outwards.
    """

    x: float
    y: float
    roll: float
    yaw: float
    pitch: float
    blink: float
    brow: float
    gaze_x: float
    gaze_y: float
    breath: float
    left_lift: float
    left_sweep: float
    right_lift: float
    right_sweep: float


REST = Pose(*([0.0] * len(fields(Pose))))


@dataclass(frozen=True)
class Poses:
    """Poses of T frames: the attributes of `Pose`, float64 [T] each."""

    x: Floats
    y: Floats
    roll: Floats
    yaw: Floats
    pitch: Floats
    blink: Floats
    brow: Floats
    gaze_x: Floats
    gaze_y: Floats
    breath: Floats
    left_lift: Floats
    left_sweep: Floats
    right_lift: Floats
    right_sweep: Floats

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, frame: int) -> Pose:
        """Return the pose of one frame."""
        return Pose(*(float(getattr(self, field.name)[frame]) for field in fields(self)))


def _blinks(key: int, seconds: Floats) -> Floats:
    """Lids shut in 80 ms, stay 50 ms, open in 150 ms; about once in three seconds, sometimes twice."""
    cell = np.floor(seconds / _BLINK_CELL_SECONDS).astype(np.int64)
    closed = np.zeros_like(seconds)
    for offset in (-1, 0):
        index = cell + offset
        start = (index + 0.1 + 0.8 * uniform(key, index)) * _BLINK_CELL_SECONDS
        double = np.where(uniform(key + 1, index) < 0.15, 0.38, 0.0)
        for delay in (np.zeros_like(start), double):
            t = seconds - start - delay
            closed = np.maximum(closed, np.minimum(smoothstep(t / 0.08), smoothstep((0.28 - t) / 0.15)))
    return closed


def _gaze(key: int, seconds: Floats, reach: float) -> Floats:
    """Hold a direction, then jump to the next within 60 ms; most of the time near the viewer."""
    cell = np.floor(seconds / _GAZE_CELL_SECONDS).astype(np.int64)
    begin = (cell + 0.8 * uniform(key, cell)) * _GAZE_CELL_SECONDS
    moved = smoothstep((seconds - begin) / 0.06)

    def target(index: NDArray[np.int64]) -> Floats:
        away = np.where(uniform(key + 1, index) < 0.25, 1.0, 0.22)
        return reach * away * (2.0 * uniform(key + 2, index) - 1.0)

    return target(cell - 1) + (target(cell) - target(cell - 1)) * moved


def _gesture(key: int, seconds: Floats, liveliness: float) -> Floats:
    """Raise the hand for some stretches of time, half-way or fully, and let it beat while raised."""
    position = seconds / _GESTURE_CELL_SECONDS
    cell = np.floor(position).astype(np.int64)

    def level(index: NDArray[np.int64]) -> Floats:
        return np.where(uniform(key, index) < 0.62 * liveliness, 0.55 + 0.36 * uniform(key + 1, index), 0.0)

    raised = level(cell) + (level(cell + 1) - level(cell)) * smoothstep((position - cell - 0.55) / 0.35)
    return raised * (1.0 + 0.09 * smooth(key + 2, seconds, 0.30))


def poses_at(identity: Identity, seconds: Floats, seed: int) -> Poses:
    """Return poses at the given times."""
    key = stream_key(seed, 31)
    motion = identity.motion

    def drift(label: int, period_seconds: float, fast: float = 0.35) -> Floats:
        slow = smooth(key + label, seconds, period_seconds)
        return (1.0 - fast) * slow + fast * smooth(key + label + 1, seconds, period_seconds * 0.37)

    breath_phase = seconds / 3.9 + 0.35 * smooth(key + 90, seconds, 5.3)
    return Poses(
        x=0.042 * motion * drift(10, 1.9),
        y=0.020 * motion * drift(20, 1.3),
        roll=4.2 * motion * drift(30, 1.7),
        yaw=0.80 * motion * drift(40, 1.5),
        pitch=0.75 * motion * drift(50, 1.1, fast=0.5),
        blink=_blinks(key + 100, seconds),
        brow=smoothstep(0.1 + 1.1 * smooth(key + 60, seconds, 0.9)),
        gaze_x=_gaze(key + 110, seconds, 1.0),
        gaze_y=_gaze(key + 120, seconds, 0.7),
        breath=0.5 - 0.5 * np.cos(2.0 * np.pi * breath_phase),
        left_lift=_gesture(key + 130, seconds, motion),
        left_sweep=smooth(key + 140, seconds, 0.75),
        right_lift=_gesture(key + 150, seconds, motion),
        right_sweep=smooth(key + 160, seconds, 0.75),
    )


def poses(identity: Identity, num_frames: int, frame_rate: float, seed: int) -> Poses:
    """Return the poses of a clip; frame t, at time (t + 0.5) / frame_rate, depends on seed and time only.

    Raises:
        ValueError: If `num_frames` is negative or `frame_rate` not positive.
    """
    return poses_at(identity, frame_seconds(0, num_frames, frame_rate), seed)
