"""Where things are: layout of the picture, how a pose moves the head, how mouth and brows move the face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from talkbench.mini.identity import Identity
from talkbench.mini.noise import smoothstep
from talkbench.mini.pose import Pose

Floats = NDArray[np.float64]

# framing -> head height and crown position, as shares of the picture's height
_FRAMINGS = {"close": (0.60, 0.170), "medium": (0.45, 0.175), "wide": (0.30, 0.140)}
_NECK = (0.0, 0.42)  # what the head rolls about
_YAW_SHIFT, _PITCH_SHIFT = 0.036, 0.020  # how far the nearest part of the face moves at yaw or pitch 1
_JAW_DROP = 0.065  # of the chin at opening 1
_BROW_RISE = 0.026  # at brow 1
BODY_RISE = 0.055  # the body layer sits this much higher than its own coordinates say

# Mesh lines of the head in head heights. The first and last of the jaw's lines bound what the jaw can move: the
# shift vanishes far enough inside them that no roll, yaw or pitch within the bounds of `Pose` brings it across.
JAW_COLUMNS = (-0.325, -0.210, 0.210, 0.325)
JAW_ROWS = (0.170, 0.265, 0.430, 0.575, 0.690)
HIDDEN_BOX = (-0.140, 0.150, 0.140, 0.560)  # the neck covers this part of what is behind the head
BROW_ROWS = (-0.210, -0.085, -0.020)


@dataclass(frozen=True)
class Layout:
    """Scale and place of the head at rest: pixels per head height, and pixels of the head's middle."""

    scale: float
    x: float
    y: float

    @classmethod
    def of(cls, identity: Identity, height: int, width: int) -> Layout:
        """Compose the picture; a narrow one shrinks the head so that it fits."""
        share, crown = _FRAMINGS[identity.framing]
        scale = min(share * height, 1.05 * width)
        return cls(scale, 0.5 * width + identity.shift * scale, crown * height + 0.5 * scale)


def _nearness(x: Floats, y: Floats) -> Floats:
    """How much a point of the head stands out towards the viewer, 0..1."""
    return np.exp(-((x / 0.34) ** 2) - ((y - 0.08) / 0.52) ** 2)


def _turn(y: Floats, pose: Pose) -> tuple[Floats, Floats]:
    """Cosine and sine of the roll at height y; hair that hangs below the chin follows less."""
    angle = np.radians(pose.roll) * (1.0 - 0.7 * smoothstep((y - 0.64) / 0.6))
    return np.cos(angle), np.sin(angle)


class Rig:
    """Maps head coordinates to pixels, and back, for one pose."""

    def __init__(self, layout: Layout, pose: Pose) -> None:
        self.layout = layout
        self.pose = pose

    def to_pixels(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return where points of the head appear."""
        near = _nearness(x, y)
        for _ in range(2):  # to_head uses the nearness at the moved place; a short fixed-point iteration inverts it
            moved_x = x + self.pose.yaw * _YAW_SHIFT * near
            moved_y = y + self.pose.pitch * _PITCH_SHIFT * near
            near = _nearness(moved_x, moved_y)
        c, s = _turn(moved_y, self.pose)
        u, v = moved_x - _NECK[0], moved_y - _NECK[1]
        head_x, head_y = c * u - s * v + _NECK[0] + self.pose.x, s * u + c * v + _NECK[1] + self.pose.y
        return head_x * self.layout.scale + self.layout.x, head_y * self.layout.scale + self.layout.y

    def to_head(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return which point of the head appears at the given pixels."""
        u = (x - self.layout.x) / self.layout.scale - _NECK[0] - self.pose.x
        v = (y - self.layout.y) / self.layout.scale - _NECK[1] - self.pose.y
        c, s = _turn(v + _NECK[1], self.pose)
        moved_x, moved_y = c * u + s * v + _NECK[0], c * v - s * u + _NECK[1]
        near = _nearness(moved_x, moved_y)
        return moved_x - self.pose.yaw * _YAW_SHIFT * near, moved_y - self.pose.pitch * _PITCH_SHIFT * near

    def frame_at(self, y: float, reach: float) -> tuple[Floats, Floats]:
        """Return the pixel position of a point on the head's middle line, and the map around it.

        Args:
            y: Height of the point.
            reach: Distance to both sides at which the map is exact, in head heights.

        Returns:
            Pixel position [2], and the 2 x 2 map from offsets in head heights to pixels.
        """
        xs, ys = self.to_pixels(np.array([reach, -reach, 0.0, 0.0]), np.array([y, y, y + 0.02, y - 0.02]))
        right = np.array([xs[0] - xs[1], ys[0] - ys[1]]) / (2 * reach)
        down = np.array([xs[2] - xs[3], ys[2] - ys[3]]) / 0.04
        return np.array([xs[0] + xs[1], ys[0] + ys[1]]) / 2, np.stack((right, down), axis=1)

    def columns(self, x: tuple[float, ...]) -> NDArray[np.int64]:
        """Return pixel columns of vertical lines that move with the head but do not roll or turn."""
        return np.rint((np.array(x) + self.pose.x) * self.layout.scale + self.layout.x).astype(np.int64)

    def rows(self, y: tuple[float, ...]) -> NDArray[np.int64]:
        """Return pixel rows of horizontal lines that move with the head but do not roll or turn."""
        return np.rint((np.array(y) + self.pose.y) * self.layout.scale + self.layout.y).astype(np.int64)


def face_shift(x: Floats, y: Floats, opening: float, brow: float) -> Floats:
    """Return how far down the jaw (and up the brows) move a point of the face, in head heights.

    Written for the moved point, as a renderer needs it: what appears at y was at y - shift.
    """
    down = smoothstep((y - 0.230) / 0.20) * smoothstep((0.630 - y) / 0.055)
    jaw = down * smoothstep((0.282 - np.abs(x)) / 0.072)
    up = smoothstep((y + 0.205) / 0.115) * smoothstep((-0.022 - y) / 0.060)
    return _JAW_DROP * opening * jaw - _BROW_RISE * brow * up * smoothstep((0.32 - np.abs(x)) / 0.10)


def mouth_box(identity: Identity, pose: Pose, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the pixels that the mouth can change: lips, chin and lower cheeks, for any viseme.

    Args:
        identity: Who is drawn.
        pose: Pose of the frame, `poses(...)[t]`.
        height: Picture height in pixels.
        width: Picture width in pixels.

    Returns:
        (x0, y0, x1, y1), x1 and y1 exclusive, within the picture.
    """
    rig = Rig(Layout.of(identity, height, width), pose)
    x0, x1 = rig.columns(JAW_COLUMNS[:: len(JAW_COLUMNS) - 1]).tolist()
    y0, y1 = rig.rows(JAW_ROWS[:: len(JAW_ROWS) - 1]).tolist()
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
