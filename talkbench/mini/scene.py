"""Frames of a talking person: still layers painted once, then moved, with eyes, mouth and hands drawn on top.

A frame is a pure function of the identity, its viseme, its pose and the picture's size; frames can be asked for
one at a time, and memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.mini.arms import draw_forearms, paint_upper_arms
from talkbench.mini.articulation import Visemes
from talkbench.mini.background import paint_background
from talkbench.mini.body import paint_body
from talkbench.mini.canvas import Canvas
from talkbench.mini.clock import frame_seconds
from talkbench.mini.eyes import Eyes, paint_eye_surroundings
from talkbench.mini.face import paint_head
from talkbench.mini.hair import has_back_hair, paint_back_hair, paint_front_hair
from talkbench.mini.identity import Identity
from talkbench.mini.layers import Layer, paste_back, paste_body, paste_head
from talkbench.mini.mouth import Shape, draw_mouth
from talkbench.mini.pose import Pose, Poses, poses, poses_at
from talkbench.mini.rig import BODY_RISE, HIDDEN_BOX, Layout, Rig, mouth_box

__all__ = ["Pose", "Poses", "Stage", "mouth_box", "poses", "render"]

MIN_SIZE = 64
_CHUNK_FRAMES = 512  # poses are computed this many at a time
_TEXTURE = 1.5  # texture pixels per picture pixel: layers stay sharp when moved by fractions of a pixel
_SWAY = 0.35  # how much of the head's sideways move the shoulders follow
_BREATH = 0.010  # rise of the shoulders, head heights


class Stage:
    """One person in one room at one size: the painted layers, and the frame for any viseme and pose.

    Args:
        identity: Who and where.
        height: Picture height in pixels, 64 or more.
        width: Picture width in pixels, 64 or more.

    Raises:
        ValueError: If the picture is too small.
    """

    def __init__(self, identity: Identity, height: int, width: int) -> None:
        if min(height, width) < MIN_SIZE:
            raise ValueError(f"picture is {height} x {width} pixels; expected at least {MIN_SIZE} x {MIN_SIZE}.")
        self.identity = identity
        self.height, self.width = height, width
        self.layout = Layout.of(identity, height, width)
        self._background = Image.fromarray(paint_background(identity, height, width))
        head = self._paint_head()
        self._head = Layer.of(head)
        self._back = self._paint_back(head) if has_back_hair(identity) else None
        self._body = self._paint_body()
        self._eyes = Eyes(identity)

    def _paint_head(self) -> Canvas:
        canvas = Canvas((-0.70, -0.85, 0.70, 1.15), self.layout.scale * _TEXTURE)
        paint_head(canvas, self.identity)
        paint_eye_surroundings(canvas, self.identity)
        paint_front_hair(canvas, self.identity)
        return canvas

    def _paint_back(self, head: Canvas) -> Layer | None:
        """Paint the hair behind, less what the head always hides because both move together."""
        canvas = Canvas(head.box, head.scale)
        paint_back_hair(canvas, self.identity)
        left, top, right, bottom = HIDDEN_BOX
        above = canvas.fill([(-0.7, -0.85), (0.7, -0.85), (0.7, top), (-0.7, top)])
        canvas.erase(head.solid(margin=0.03) * above)
        canvas.erase(canvas.fill([(left, top - 0.05), (right, top - 0.05), (right, bottom), (left, bottom)]))
        return Layer.of(canvas) if canvas.pixels[..., 3].any() else None

    def _paint_body(self) -> Layer:
        """Paint what of the body can be seen, plus a margin for sway and breath."""
        layout, margin = self.layout, 0.08
        left, right = -layout.x / layout.scale - margin, (self.width - layout.x) / layout.scale + margin
        bottom = (self.height - layout.y) / layout.scale + BODY_RISE + margin
        canvas = Canvas((left, 0.20, right, max(bottom, 0.5)), layout.scale)
        paint_body(canvas, self.identity)
        paint_upper_arms(canvas, self.identity)
        return Layer.of(canvas)

    def frame(self, shape: Shape, pose: Pose) -> NDArray[np.uint8]:
        """Return one picture, uint8 RGB [height, width, 3]."""
        rig, layout = Rig(self.layout, pose), self.layout
        picture = self._background.copy()
        if self._back:
            paste_back(picture, self._back, rig)
        shift_x, shift_y = _SWAY * pose.x, -BODY_RISE - _BREATH * pose.breath
        paste_body(picture, self._body, layout, shift_x, shift_y)
        paste_head(picture, self._head, rig, shape.opening)
        frame_HW3 = np.array(picture)
        self._eyes.draw(frame_HW3, rig, pose)
        draw_mouth(frame_HW3, rig, self.identity, shape)
        origin = np.array([layout.x + shift_x * layout.scale, layout.y + shift_y * layout.scale])
        draw_forearms(frame_HW3, layout, origin, self.identity, pose)
        return frame_HW3


def render(
    identity: Identity, visemes: Visemes, *, height: int, width: int, frame_rate: float, seed: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield one frame per viseme, uint8 RGB [height, width, 3].

    Frame t depends on the identity, viseme t, the size, and `poses(..., seed)[t]`; not on other frames.

    Args:
        identity: Who and where.
        visemes: Mouth shapes, T frames.
        height: Picture height in pixels, 64 or more.
        width: Picture width in pixels, 64 or more.
        frame_rate: Frames per second; frame t shows time (t + 0.5) / frame_rate.
        seed: Chooses the movement.

    Raises:
        ValueError: If the picture is too small or the frame rate not positive.
    """
    stage = Stage(identity, height, width)
    for first in range(0, len(visemes), _CHUNK_FRAMES):
        seconds = frame_seconds(first, min(first + _CHUNK_FRAMES, len(visemes)), frame_rate)
        chunk = poses_at(identity, seconds, seed)
        for row in range(len(chunk)):
            yield stage.frame(shape_at(visemes, first + row), chunk[row])


def shape_at(visemes: Visemes, frame: int) -> Shape:
    """Return the viseme of one frame."""
    tracks = (visemes.opening, visemes.width, visemes.rounding, visemes.teeth, visemes.tongue)
    return Shape(*(float(track[frame]) for track in tracks))
