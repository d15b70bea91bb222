"""The picture a system starts from: one frame of a clip, chosen by fixed rules, whole and cropped.

What is checked here needs no network: sharpness above the clip's median and distance from transitions. That there is
one face, and how large, is checked by `talkbench data check`. Whether it is frontal, with open eyes and a closed mouth,
is not checked: no network of ours says so. Every sample lists its checks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.errors import Unscorable
from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import VideoReader

CHECKS = ("sharpness-above-median", "no-transition-within-0.5s")
BY_NETWORKS = ("one-face", "face-size")
"""What `talkbench data check` adds."""
RATE_HZ = 5.0
TRANSITION_SECONDS = 0.5
TRANSITION_LEVELS = 40.0
"""Mean difference, of 255, between neighbours a fifth of a second apart from which on it counts as a cut."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
EYE_LINE = 0.38
"""Height of the eyes in a crop, from its top."""
EYES_IN_FACE = 0.4
"""Height of the eyes in the box of a detector, from its top."""
SIZES = {"portrait": (480, 832), "landscape": (832, 480), "square": (640, 640)}
MAX_UPSCALING = 1.25
_SMALL = (96, 54)


@dataclass(frozen=True)
class Chosen:
    """A frame and where it comes from.

    Attributes:
        frame_HWC: uint8 RGB.
        seconds: Time in the file.
    """

    frame_HWC: Frames
    seconds: float


def choose(path: Path) -> Chosen:
    """Return the sharpest admissible frame of a file at five frames a second; ties go to the earliest.

    Two passes, so that one frame is in memory and not all.

    Raises:
        Unscorable: `no-frame` if every frame is near a transition, or what decoding says.
    """
    seconds, sharpness, thumbs = [], [], []
    for at, frame in _sampled(path):
        seconds.append(at)
        sharpness.append(_sharpness(frame))
        thumbs.append(np.asarray(Image.fromarray(frame).resize(_SMALL, Image.Resampling.BOX), np.int16))
    at_T, sharp_T = np.array(seconds), np.array(sharpness)
    steps = np.array([np.abs(b - a).mean() for a, b in pairwise(thumbs)])
    free = _away_from_cuts(at_T, steps) & (sharp_T >= np.median(sharp_T))
    if not free.any():
        raise Unscorable("no-frame", "every sharp frame of the reference clip is near a transition")
    best = int(np.argmax(np.where(free, sharp_T, -1.0)))
    frame = next(frame for number, (_, frame) in enumerate(_sampled(path)) if number == best)
    return Chosen(frame, seconds[best])


def crop(frame_HWC: Frames, orientation: str, face: Box | None = None) -> Image.Image:
    """Return a crop of a canonical aspect, scaled to its canonical size.

    Without a face the largest centred one. With a face it is centred on the face, and the eyes lie at 0.38 of the
    height where the frame allows that without enlarging the crop more than 1.25 times.

    Args:
        frame_HWC: uint8 RGB.
        orientation: portrait, landscape or square.
        face: Left, top, right, bottom in parts of the frame.

    Raises:
        Unscorable: `too-small` if even the largest crop would be enlarged more than 1.25 times.
    """
    rows, columns = frame_HWC.shape[:2]
    box = crop_box(columns, rows, orientation, face)
    return Image.fromarray(frame_HWC).resize(SIZES[orientation], Image.Resampling.LANCZOS, box=box)


def crop_box(columns: int, rows: int, orientation: str, face: Box | None) -> Box:
    """Return left, top, right and bottom of the crop in pixels of a frame; see `crop`.

    Raises:
        Unscorable: `too-small`.
    """
    width, height = SIZES[orientation]
    scale = max(width / columns, height / rows)
    if scale > MAX_UPSCALING:
        raise Unscorable("too-small", f"{columns}x{rows} would be enlarged {scale:.2f} times to {width}x{height}")
    high = height / scale
    middle, top = columns / 2, (rows - high) / 2
    if face is not None:
        eyes = rows * (face[1] + EYES_IN_FACE * (face[3] - face[1]))
        fitting = min(high, eyes / EYE_LINE, (rows - eyes) / (1 - EYE_LINE))
        high = min(high, max(fitting, height / MAX_UPSCALING))
        middle, top = columns * (face[0] + face[2]) / 2, eyes - EYE_LINE * high
    wide = high * width / height
    # Rounding may put an edge a hair outside the picture.
    left, top = min(max(0.0, middle - wide / 2), columns - wide), min(max(0.0, top), rows - high)
    left, top = max(0.0, left), max(0.0, top)
    return left, top, min(float(columns), left + wide), min(float(rows), top + high)


def in_crop(face: Box, columns: int, rows: int, orientation: str) -> Box:
    """Return where the face lies in the crop that was made for it, in parts of the crop."""
    left, top, right, bottom = crop_box(columns, rows, orientation, face)
    wide, high = right - left, bottom - top
    x, y = ((face[0] * columns - left) / wide, (face[2] * columns - left) / wide), (
        (face[1] * rows - top) / high, (face[3] * rows - top) / high,
    )  # fmt: skip
    inside = (min(max(value, 0.0), 1.0) for value in (x[0], y[0], x[1], y[1]))
    return tuple(round(value, 4) for value in inside)  # type: ignore[return-value]  # four of them


def png(picture: Image.Image) -> bytes:
    """Return the bytes of a PNG without metadata."""
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6)
    return file.getvalue()


def _away_from_cuts(at_T: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.bool_]:
    free = np.ones(at_T.size, bool)
    for cut in np.flatnonzero(steps > TRANSITION_LEVELS):
        free &= (at_T <= at_T[cut] - TRANSITION_SECONDS) | (at_T >= at_T[cut + 1] + TRANSITION_SECONDS)
    return free


def _sampled(path: Path) -> Iterator[tuple[float, Frames]]:
    """Yield the first frame at or after every fifth of a second, with its time."""
    facts = probe.probe(path).video
    due = 0
    with probe.open_clip(path) as container:
        for batch in VideoReader(container, path, facts).batches():
            for at, frame in zip(batch.seconds_T.tolist(), batch.frames_THWC, strict=True):
                if at * RATE_HZ >= due - 1e-6:
                    due = int(at * RATE_HZ + 1e-6) + 1
                    yield at, frame


def _sharpness(frame_HWC: Frames) -> float:
    """Return the variance of the Laplacian of the grey picture."""
    grey = frame_HWC.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return round(float(laplacian.var(dtype=np.float64)), 6)
