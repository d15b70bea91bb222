"""Lip sync on our pixels and our sound: SyncNet on the face of whoever speaks. Protocol `direct`, the default.

As the official pipeline (face track, crop, SyncNet; joonson/syncnet_python: run_pipeline.py and run_syncnet.py), but
without its chain of codecs: frames are those every other runner sees, at 25 per second, and the sound is the clip's own
at 16 kHz. The chain (AVI, MP3, JPEG, AVI, JPEG) delays picture and sound unequally and moves the confidence by up to
0.3, so `sync_official` runs it for comparison with published numbers.

If several faces are tracked, the one with the highest confidence counts, with its own distance and offset. Memory does
not grow with the clip but for 124 bytes per frame and track.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch, Frames, Samples
from talkbench.metrics.base import Runner, Scores
from talkbench.metrics.crops import Boxes, crop
from talkbench.metrics.cuts import CutParams, Cuts
from talkbench.metrics.faces import FaceFinder
from talkbench.metrics.lipsync import BATCH_WINDOWS, MIN_WINDOWS, Agreement, Match, Sound, load_syncnet
from talkbench.metrics.regroup import Regroup
from talkbench.metrics.sync_frame import needed, outputs, refuse_brevity, refuse_silence, scores
from talkbench.metrics.tracks import Track, Tracker
from talkbench.nets.batches import Batch

GROUP_FRAMES = 8
MAX_TRACKS_LISTED = 20


@dataclass(frozen=True)
class SyncParams:
    """Parameters of the face track.

    Attributes:
        min_track_frames: A track counts with more frames than this that show a face. Official: 100, which no clip below
            4.04 s can reach; syncnet-python 0.2.3 (as MoChaBench uses it): 50.
        min_face_px: A track counts if its face is wider or higher than this on average. Official: 100, which a
            half-body clip of 720x416 often misses, so that nothing would be scored; 48 is what the unofficial
            evaluator of the FlashTalk training code takes. Crops are enlarged to 224 pixels either way.
        min_score: Least probability of a face (run_pipeline.py, `conf_th`).
        detector_scale: Frames are reduced by this before faces are looked for (`facedet_scale`).
        max_gap_frames: A track survives this many frames without a face (`num_failed_det`).
        crop_margin: Margin around the face (`crop_scale`).
        cut_threshold: Change in 8-bit levels that begins a new scene (PySceneDetect 0.6).
        cut_min_frames: Least length of a scene (PySceneDetect 0.6); as many frames wait before faces are followed.
    """

    min_track_frames: int = 50
    min_face_px: float = 48.0
    min_score: float = 0.9
    detector_scale: float = 0.25
    max_gap_frames: int = 25
    crop_margin: float = 0.4
    cut_threshold: float = 27.0
    cut_min_frames: int = 15

    def __post_init__(self) -> None:
        for name in (
            "min_track_frames", "max_gap_frames", "cut_min_frames", "min_face_px", "crop_margin", "cut_threshold"
        ):  # fmt: skip
            if not getattr(self, name) >= 0:
                raise TalkbenchError(f"{name} is {getattr(self, name)}; it must be at least 0.")
        for name in ("min_score", "detector_scale"):
            if not 0 < getattr(self, name) <= 1:
                raise TalkbenchError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1.")


@dataclass
class _Face:
    """A track with its cut of the clip; its crops wait until it is long enough to be worth the lip network."""

    track: Track
    match: Match
    waiting: list[Frames] = field(default_factory=list)
    looked_at: bool = False

    def show(self, crops: list[Frames], min_crops: int) -> None:
        self.waiting.extend(crops)
        self.looked_at = self.looked_at or len(self.waiting) > min_crops
        if self.looked_at:
            for crop_HWC in self.waiting:
                self.match.push(crop_HWC)
            self.waiting = []


@dataclass(frozen=True)
class Scored:
    """A track that counts, and what SyncNet says of it.

    Attributes:
        agreement: Of its cut.
        face_px: Size of the face.
        first_frame: Of the track in the clip.
    """

    agreement: Agreement
    face_px: float
    first_frame: int

    def summary(self) -> dict[str, object]:
        """Return the track's numbers for the details of a row."""
        found = self.agreement
        return {
            "first_frame": self.first_frame,
            "num_frames": found.num_frames,
            "face_px": round(self.face_px, 1),
            "confidence": round(found.confidence, 4),
            "distance": round(found.distance, 4),
            "offset_frames": found.offset_frames,
        }


class SyncRunner(Runner):
    """`sync.confidence`, `sync.distance`, `sync.offset_frames` of the best-matching face.

    The series has one term per window: five fewer than the track has frames.
    """

    name = "sync"
    version = "3"
    outputs = outputs("sync", "")
    needs = needed("s3fd", "syncnet")
    params_type = SyncParams

    def start(self, clip: ClipFacts) -> None:
        """Forget the previous clip.

        Raises:
            Unscorable: If frames are too small for the face detector.
        """
        params: SyncParams = self.params
        refuse_smallness(clip, params)
        self._net, self._batch = load_syncnet(self.context), Batch(BATCH_WINDOWS)
        self._finder = FaceFinder(self.context, params.min_score, params.detector_scale, GROUP_FRAMES)
        self._sound = Sound(self._net, self._batch)
        self._regroup = Regroup(GROUP_FRAMES)
        self._cuts = Cuts(CutParams(params.cut_threshold, params.cut_min_frames))
        self._starts: set[int] = set()
        self._waiting: deque[tuple[Frames, Boxes]] = deque()
        self._tracker = Tracker(params.max_gap_frames)
        self._frames: dict[int, Frames] = {}
        self._num_frames = 0
        self._faces: dict[int, _Face] = {}
        self._ended: list[_Face] = []
        self._best: Scored | None = None
        self._summaries: list[dict[str, object]] = []
        self._num_tracks = 0
        self._most_faces, self._largest_px = 0, 0.0

    def update(self, batch: FrameBatch) -> None:
        """Find, follow and cut out faces."""
        for frames_THWC, _ in self._regroup.push(batch):
            self._look(frames_THWC)

    def hear(self, samples_N: Samples, first_sample: int) -> None:
        """Listen."""
        del first_sample
        self._sound.hear(samples_N)
        for face in self._faces.values():
            face.match.advance()
        self._settle()

    def end_sound(self) -> None:
        """Settle the tracks that waited for more."""
        self._sound.close()
        self._settle()

    def finish(self) -> Scores:
        """Return the scores of the face that fits the sound best."""
        for frames_THWC, _ in self._regroup.flush():
            self._look(frames_THWC)
        while self._waiting:
            self._follow(*self._waiting.popleft())
        refuse_silence(self._sound.peak)
        self._sound.close()
        self._end(self._tracker.cut())
        self._settle()
        if self._best is None:
            raise why_not(self.params, self._num_frames, self._most_faces, self._largest_px)
        refuse_brevity(self._best.agreement, self._sound)
        details = {
            "num_tracks": self._num_tracks,
            "tracks": self._summaries,
            "face_px": round(self._best.face_px, 1),
            **self._batch.halved(),
            **self._finder.batch.halved("face_batch"),
        }
        return scores("sync", self._best.agreement, details)

    def _look(self, frames_THWC: Frames) -> None:
        """Find faces; follow them once it is known whether their frame begins a scene."""
        for frame_HWC, boxes_F4 in zip(frames_THWC, self._finder.find(frames_THWC), strict=True):
            if (start := self._cuts.look(frame_HWC)) is not None:
                self._starts.add(start)
            self._waiting.append((frame_HWC, boxes_F4))
            if len(self._waiting) > self.params.cut_min_frames:
                self._follow(*self._waiting.popleft())

    def _follow(self, frame_HWC: Frames, boxes_F4: Boxes) -> None:
        number = self._num_frames
        if number in self._starts:
            self._end(self._tracker.cut())
        self._frames[number] = frame_HWC
        took, ended = self._tracker.step(number, boxes_F4)
        self._end(ended)
        for track in took:
            self._show(track)
        self._num_frames += 1
        self._forget()

    def _show(self, track: Track, *, ended: bool = False) -> None:
        if id(track) not in self._faces:
            self._faces[id(track)] = _Face(track, Match(self._net, self._sound, track.first_frame, self._batch))
        crops = [crop(self._frames[number], at, self.params.crop_margin) for number, at in track.squares(ended=ended)]
        self._faces[id(track)].show(crops, self.params.min_track_frames)

    def _end(self, tracks: list[Track]) -> None:
        """Take leave of tracks; those that count wait for the rest of their sound."""
        for track in tracks:
            self._show(track, ended=True)
            face = self._faces.pop(id(track))
            self._most_faces = max(self._most_faces, track.num_faces)
            if track.num_faces <= self.params.min_track_frames:
                continue
            self._largest_px = max(self._largest_px, track.face_px)
            if track.face_px > self.params.min_face_px:
                face.match.end()
                self._ended.append(face)

    def _settle(self) -> None:
        """Turn tracks whose sound is complete into numbers."""
        for face in list(self._ended):
            face.match.advance()
            if face.match.complete:
                self._ended.remove(face)
                self._compare(Scored(face.match.result(), face.track.face_px, face.track.first_frame))

    def _compare(self, scored: Scored) -> None:
        found, best = scored.agreement, self._best
        self._num_tracks += 1
        if found.num_windows >= MIN_WINDOWS and len(self._summaries) < MAX_TRACKS_LISTED:
            self._summaries.append(scored.summary())
        if best is None or _rank(found) > _rank(best.agreement):
            self._best = scored

    def _forget(self) -> None:
        """Drop frames and sound that no live track can ask for."""
        faces = self._faces.values()
        oldest = min((face.track.next_frame for face in faces), default=self._num_frames)
        for number in [number for number in self._frames if number < oldest]:
            del self._frames[number]
        asked = [face.match.oldest_feature for face in [*faces, *self._ended]]
        self._sound.forget(min([*asked, self._num_frames]))


def refuse_smallness(clip: ClipFacts, params: SyncParams) -> None:
    """Raise if the reduced frames leave nothing for the face detector's last scales.

    Raises:
        Unscorable: ``too-small``.
    """
    from talkbench.nets.s3fd import MIN_SIDE_PX

    if round(min(clip.width, clip.height) * params.detector_scale) < MIN_SIDE_PX:
        least_px = math.ceil((MIN_SIDE_PX - 0.5) / params.detector_scale)
        raise Unscorable(
            "too-small",
            f"the face detector needs sides of {least_px} px (detector_scale {params.detector_scale:g}), and the clip "
            f"measures {clip.width}x{clip.height}",
        )


def why_not(params: SyncParams, num_frames: int, most_faces: int, largest_px: float) -> Unscorable:
    """Return why no track counts.

    Args:
        params: The limits.
        num_frames: Frames looked at.
        most_faces: Detections of the longest track.
        largest_px: Size of the largest face among the tracks that are long enough.
    """
    if not most_faces:
        return Unscorable("no-face", f"no face was found in {num_frames} frames")
    if most_faces <= params.min_track_frames:
        return Unscorable(
            "face-too-short",
            f"a face was followed over {most_faces} frames; more than {params.min_track_frames} are needed",
        )
    return Unscorable(
        "face-too-small",
        f"the largest face measures {largest_px:.0f} px; more than {params.min_face_px:g} are needed",
    )


def _rank(found: Agreement) -> tuple[bool, float]:
    """Order tracks: those that can be scored at all first, then by confidence."""
    scorable = found.num_windows >= MIN_WINDOWS
    return scorable, found.confidence if scorable else -np.inf
