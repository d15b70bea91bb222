"""Following faces from frame to frame, as they arrive, with the result of the official passes over a whole scene.

The official code goes over the scene again and again: it takes the first unused face, then in each later frame the
first unused face that overlaps the last box by more than half, until more than 25 frames bring none; then the next pass
(joonson/syncnet_python: run_pipeline.py, `track_shot`). A pass only sees what earlier passes left, so the same comes
out if in every frame the live tracks choose in the order in which they started, and what is left starts new tracks.
The official code also removes faces from the list it is iterating over, which skips the face after a taken one: no
track could have taken that one too, because faces of one frame overlap each other by at most a tenth.

Legend: F faces of a frame; boxes are left, top, right, bottom in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from talkbench.metrics.crops import Boxes, Square, median, square
from talkbench.metrics.faces import overlaps

MIN_OVERLAP = 0.5
MEDIAN_FRAMES = 13
"""Boxes are smoothed by a running median of this many frames (`scipy.signal.medfilt` in `crop_video`)."""
LAG_FRAMES = MEDIAN_FRAMES // 2


@dataclass
class Track:
    """One face over consecutive frames, gaps filled.

    Attributes:
        first_frame: Of the first detection.
        last_frame: Of the last detection so far.
        num_faces: Detections so far.
        box_4: The last one.
    """

    first_frame: int
    last_frame: int
    num_faces: int
    box_4: Boxes
    _squares: list[Square | None] = field(default_factory=lambda: [None] * LAG_FRAMES)
    _sides: Boxes = field(default_factory=lambda: np.zeros(2))
    _num_cut: int = 0

    @classmethod
    def begin(cls, frame: int, box_4: Boxes) -> Track:
        """Return a new track."""
        track = cls(frame, frame, 1, box_4)
        track._add(box_4)
        return track

    def take(self, frame: int, box_4: Boxes) -> None:
        """Go on with a box; boxes of frames in between are interpolated linearly."""
        gap = frame - self.last_frame
        for step in range(1, gap):
            self._add(self.box_4 + (box_4 - self.box_4) * (step / gap))
        self._add(box_4)
        self.last_frame, self.box_4 = frame, box_4
        self.num_faces += 1

    @property
    def num_frames(self) -> int:
        """Frames from the first to the last detection."""
        return self.last_frame - self.first_frame + 1

    @property
    def next_frame(self) -> int:
        """The first frame whose smoothed square has not been handed out."""
        return self.first_frame + self._num_cut

    @property
    def face_px(self) -> float:
        """Larger of mean width and mean height over all frames."""
        return float(self._sides.max()) / self.num_frames

    def squares(self, *, ended: bool = False) -> list[tuple[int, Square]]:
        """Return frames whose smoothed squares are now certain, each once: six frames late, or all at the end."""
        if ended:
            self._squares.extend([None] * LAG_FRAMES)
        certain = []
        while len(self._squares) >= MEDIAN_FRAMES:
            certain.append((self.next_frame, median(self._squares[:MEDIAN_FRAMES])))
            self._squares.pop(0)
            self._num_cut += 1
        return certain

    def _add(self, box_4: Boxes) -> None:
        self._squares.append(square(box_4))
        self._sides += (box_4[2] - box_4[0], box_4[3] - box_4[1])


class Tracker:
    """The live tracks of a scene.

    Args:
        max_gap_frames: A track may go on this many frames after its last face, no later.
    """

    def __init__(self, max_gap_frames: int = 25) -> None:
        self._max_gap = max_gap_frames
        self.live: list[Track] = []

    def step(self, frame: int, boxes_F4: Boxes) -> tuple[list[Track], list[Track]]:
        """Take a frame's faces, best first.

        Returns:
            The tracks that took one (new ones last), and those that can take none any more.
        """
        ended = [track for track in self.live if frame - track.last_frame > self._max_gap]
        self.live = [track for track in self.live if frame - track.last_frame <= self._max_gap]
        free = list(range(len(boxes_F4)))
        took = []
        for track in self.live:
            matching = [f for f in free if overlaps(track.box_4, boxes_F4[f : f + 1])[0] > MIN_OVERLAP]
            if matching:
                track.take(frame, boxes_F4[matching[0]])
                free.remove(matching[0])
                took.append(track)
        new = [Track.begin(frame, boxes_F4[f]) for f in free]
        self.live += new
        return took + new, ended

    def cut(self) -> list[Track]:
        """End every track and return those that lived."""
        ended, self.live = self.live, []
        return ended
