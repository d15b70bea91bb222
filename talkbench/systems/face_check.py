"""Whether a clip shows the face of the reference picture: found in most frames, and about as large.

Needs S3FD's weights (`talkbench weights fetch s3fd`); without them nothing is checked, and the clip's record says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from talkbench.media.clip import Frames
from talkbench.metrics.base import Context
from talkbench.metrics.crops import Boxes
from talkbench.metrics.faces import FaceFinder
from talkbench.weights import store
from talkbench.workers.accept import RefusedClipError

MIN_SHARE = 0.9
SIZES = (0.5, 2.0)
"""Least and greatest size of a face, as a multiple of the reference's. Source: the benchmark's acceptance rules, as is
`MIN_SHARE`."""
DETECTION_SIDE = 320
"""Longer side of the picture that the detector sees: what the official sync pipeline gives it of 1280x720."""

Find = Callable[[Frames], Sequence[Boxes]]
"""Faces of each of some frames, best first, in pixels: [F, 4] left, top, right, bottom."""


@dataclass(frozen=True)
class FaceFacts:
    """What was found of the face.

    Attributes:
        checked: Whether it was; else why not.
        num_frames: Frames looked at.
        num_found: Those with a face.
        num_fitting: Those with a face of the reference's size.
        sizes: Least, median and greatest size, as multiples of the reference's; None without a face.
    """

    checked: bool | str
    num_frames: int = 0
    num_found: int = 0
    num_fitting: int = 0
    sizes: tuple[float, float, float] | None = None


class FaceCheck:
    """Watches the sampled frames of one clip.

    Sizes are compared after the system's crop: the reference is thought of as scaled until it covers the clip's frame.

    Args:
        find: Finds faces.
        reference: The picture that the clip is made from.
    """

    def __init__(self, find: Find, reference: Path) -> None:
        self._find = find
        with Image.open(reference) as file:
            picture_HWC: Frames = np.asarray(file.convert("RGB"))
        self._reference_size = picture_HWC.shape[:2]
        self._reference_side = _side(find(picture_HWC[None])[0])
        self._sides: list[float | None] = []

    def see(self, frame_HWC: Frames) -> None:
        """Look for faces in a frame, uint8 RGB."""
        if self._reference_side is None:
            return
        scale = max(has / had for has, had in zip(frame_HWC.shape[:2], self._reference_size, strict=True))
        side = _side(self._find(frame_HWC[None])[0])
        self._sides.append(None if side is None else side / (scale * self._reference_side))

    def finish(self, *, refuse: bool) -> FaceFacts:
        """Return what was found.

        Args:
            refuse: Whether a clip that does not show the reference's face is at fault.

        Raises:
            RefusedClipError: ``no-face`` or ``face-size``.
        """
        if self._reference_side is None:
            return FaceFacts("no face was found in the reference picture")
        found = [side for side in self._sides if side is not None]
        fitting = [side for side in found if SIZES[0] <= side <= SIZES[1]]
        num_frames, least = len(self._sides), MIN_SHARE * len(self._sides)
        if refuse and len(found) < least:
            raise RefusedClipError(
                "no-face", f"{len(found)} of {num_frames} sampled frames show a face, {MIN_SHARE:.0%} expected"
            )
        if refuse and len(fitting) < least:
            raise RefusedClipError(
                "face-size",
                f"{len(fitting)} of {num_frames} sampled frames show a face of {SIZES[0]:g} to {SIZES[1]:g} times the "
                f"reference's size, {MIN_SHARE:.0%} expected; the median is {np.median(found):.2f} times",
            )
        sizes = (min(found), float(np.median(found)), max(found)) if found else None
        return FaceFacts(
            checked=True,
            num_frames=num_frames,
            num_found=len(found),
            num_fitting=len(fitting),
            sizes=None if sizes is None else tuple(round(size, 3) for size in sizes),  # type: ignore[arg-type]
        )


class Unchecked:
    """Takes the place of a check that cannot be made.

    Args:
        why: In words.
    """

    def __init__(self, why: str) -> None:
        self._why = why

    def see(self, frame_HWC: Frames) -> None:
        """Take a frame, and leave it."""

    def finish(self, *, refuse: bool) -> FaceFacts:  # noqa: ARG002 - nothing is known, so nothing is refused
        """Return that nothing was checked, and why."""
        return FaceFacts(self._why)


def begin(reference: Path, weights_dir: Path | None) -> FaceCheck | Unchecked:
    """Return what watches the frames of a clip.

    Args:
        reference: The picture that the clip is made from.
        weights_dir: Where S3FD's weights may lie, besides the usual places.
    """
    find = _finder(weights_dir)
    return Unchecked(find) if isinstance(find, str) else FaceCheck(find, reference)


def facts(found: FaceFacts) -> dict[str, Any]:
    """Return what was found as plain data, to be kept beside the clip."""
    return {"checked": f"not checked: {found.checked}"} if isinstance(found.checked, str) else asdict(found)


@cache
def _finder(weights_dir: Path | None) -> Find | str:
    """Return the detector, on the processor: the GPUs are the systems'; or why there is none."""
    if find_spec("torch") is None:
        return "torch is not installed: pip install 'talkbench[metrics]'"
    located = store.locate(["s3fd"], weights_dir=weights_dir, allow_unverified=True)
    if "s3fd" not in located.files:
        return located.damaged.get("s3fd", "no sfd_face.pth (talkbench weights fetch s3fd)")
    one_at_a_time = threading.Lock()
    finders: dict[float, FaceFinder] = {}

    def find(frames_THWC: Frames) -> Sequence[Boxes]:
        scale = min(1.0, DETECTION_SIDE / max(frames_THWC.shape[1:3]))
        with one_at_a_time:
            if scale not in finders:
                finders[scale] = FaceFinder(Context(weights=located.files), scale=scale)
            return finders[scale].find(frames_THWC)

    return find


def _side(boxes_F4: Boxes) -> float | None:
    """Return the side of a square as large as the largest face; None if there is none."""
    if not len(boxes_F4):
        return None
    sides_F = np.sqrt((boxes_F4[:, 2] - boxes_F4[:, 0]) * (boxes_F4[:, 3] - boxes_F4[:, 1]))
    return float(sides_F.max())
