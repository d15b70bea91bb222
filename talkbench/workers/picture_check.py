"""What the picture of a clip shows, from one decode in flat memory: nothing, the same again, or the reference picture.

Legend: H W pixels, R C rows and columns of blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from talkbench.media import probe
from talkbench.media.clip import Frames
from talkbench.media.decode import stored_frames

BLANK_DEVIATION = 3.0
"""Standard deviation of brightness (of 255) under which a frame shows nothing; latents of zero decode to grey.
Measured: 59 or more in real talking heads (../shared/data), 30 or more in talkbench-mini."""
BLACK_LEVEL = 20.0
"""Mean brightness (of 255, limited range begins at 16) up to which a frame that shows nothing is black."""
REPEAT_LEVELS = 2.0
"""A frame repeats the one before if no block of 8x8 pixels has changed its mean brightness (of 255) by more: coding a
still picture moves blocks by less, a lip that moves moves them by more."""
CROPS = (1.0, 0.9, 0.8)
"""Shares of the reference picture's largest centred part of the clip's shape that the first frame is compared with."""
GRID = 16

_BLOCK = 8

_Plane = NDArray[np.uint8]
_Blocks = NDArray[np.float32]


class SizeChangesError(Exception):
    """A frame has another size than the ones before."""


class Watcher(Protocol):
    """Whoever wants to see some of the frames that are decoded anyway."""

    def see(self, frame_HWC: Frames) -> None:
        """Take a frame, uint8 RGB."""


@dataclass
class Picture:
    """What decoding has shown.

    Attributes:
        num_frames: Frames decoded.
        num_blank: Frames of one colour, black ones included.
        num_black: Black ones.
        num_repeated: Frames that show what the one before shows.
        repeated_tail: How many of them are the last ones.
        seconds: Time from the first to the end of the last frame, by their time stamps.
        likeness: Of the first frame to the reference picture, -1 to 1; None if not compared.
    """

    num_frames: int = 0
    num_blank: int = 0
    num_black: int = 0
    num_repeated: int = 0
    repeated_tail: int = 0
    seconds: float = 0.0
    likeness: float | None = None


def look(
    path: Path,
    frame_seconds: float,
    *,
    reference: Path | None = None,
    watcher: Watcher | None = None,
    watched: Collection[int] = (),
) -> Picture:
    """Decode every frame.

    Args:
        path: The clip.
        frame_seconds: How long its last frame is shown.
        reference: Picture that its first frame is compared with.
        watcher: Is shown some frames.
        watched: Indices of these.

    Raises:
        Undecodable: If that cannot be done to the end.
        SizeChangesError: If the size changes.
    """
    seen = Picture()
    before: _Blocks | None = None
    shape: tuple[int, ...] = ()
    began: float | None = None
    for frame in _frames(path):
        luma_HW = _luma(frame)
        shape = shape or luma_HW.shape
        if shape != luma_HW.shape:
            found, expected = (f"{width}x{height}" for height, width in (luma_HW.shape, shape))
            raise SizeChangesError(f"frame {seen.num_frames + 1} is {found}, the ones before {expected}")
        if seen.num_frames == 0 and reference is not None:
            seen.likeness = likeness(reference, luma_HW)
        if watcher is not None and seen.num_frames in watched:
            watcher.see(frame.to_ndarray(format="rgb24"))  # type: ignore[arg-type]
        seen.num_frames += 1
        blocks = _blocks(luma_HW)
        repeats = before is not None and bool(np.abs(blocks - before).max() <= REPEAT_LEVELS)
        seen.num_repeated += repeats
        seen.repeated_tail = seen.repeated_tail + 1 if repeats else 0
        some_HW = luma_HW[::8, ::8]
        if some_HW.std() < BLANK_DEVIATION:
            seen.num_blank += 1
            seen.num_black += bool(some_HW.mean() <= BLACK_LEVEL)
        before = blocks
        if frame.time is not None:
            began = frame.time if began is None else began
            seen.seconds = frame.time - began + frame_seconds
    return seen


def likeness(reference: Path, luma_HW: _Plane) -> float:
    """Return how alike a frame and a picture are: the best correlation of their brightness over a grid of 16x16.

    The picture is cut, centred, to the frame's shape, as systems do, whole or to 0.9 or 0.8 of that, or it is squeezed
    into it; the best of these counts. Level and contrast do not matter, so that a change of colour is none of likeness.
    Measured on the real clips of ../shared/data and on talkbench-mini: 0.83 or more between any frame of a clip and its
    reference, 0.12 between real clips of two persons, 0.25 for a test pattern. Two persons in the same scene are
    alike (0.99 in talkbench-mini): it finds a picture that is another one, not a face that is.
    """
    height, width = luma_HW.shape
    frame_RC = _grid(Image.fromarray(luma_HW))
    with Image.open(reference) as file:
        picture = file.convert("L")
    scale = min(picture.width / width, picture.height / height)
    boxes = [_centred(picture.size, (width * scale * share, height * scale * share)) for share in CROPS]
    boxes.append((0.0, 0.0, float(picture.width), float(picture.height)))
    return round(max(_correlation(_grid(picture, box), frame_RC) for box in boxes), 3)


def _centred(size: tuple[int, int], part: tuple[float, float]) -> tuple[float, float, float, float]:
    left, top = ((whole - inner) / 2 for whole, inner in zip(size, part, strict=True))
    return left, top, left + part[0], top + part[1]


def _grid(picture: Image.Image, box: tuple[float, float, float, float] | None = None) -> NDArray[np.float64]:
    return np.asarray(picture.resize((GRID, GRID), Image.Resampling.BOX, box=box), np.float64)


def _correlation(a_RC: NDArray[np.float64], b_RC: NDArray[np.float64]) -> float:
    """Return the correlation of two grids; 0 if one of them is flat."""
    a_RC, b_RC = a_RC - a_RC.mean(), b_RC - b_RC.mean()
    power = float(np.square(a_RC).sum() * np.square(b_RC).sum())
    return float((a_RC * b_RC).sum()) / power**0.5 if power > 0 else 0.0


def _frames(path: Path) -> Iterator[VideoFrame]:
    with probe.open_clip(path) as container:
        yield from stored_frames(container, path)


def _luma(frame: VideoFrame) -> _Plane:
    """Return the brightness of a frame, as it is stored."""
    if not frame.format.name.startswith(("yuv4", "yuvj4", "nv", "gray")) or frame.format.components[0].bits != 8:
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    rows: _Plane = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].copy()


def _blocks(luma_HW: _Plane) -> _Blocks:
    """Return the mean brightness of blocks; a picture smaller than a block is one."""
    height, width = luma_HW.shape
    tall, wide = min(_BLOCK, height), min(_BLOCK, width)
    rows, columns = height // tall, width // wide
    cut = luma_HW[: rows * tall, : columns * wide].reshape(rows, tall, columns * wide)
    sums = cut.sum(1, dtype=np.uint16).reshape(rows, columns, wide).sum(2, dtype=np.uint16)
    means: _Blocks = sums.astype(np.float32) / (tall * wide)
    return means
