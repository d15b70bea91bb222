"""The frames of Figures 3, 4 and 5: the same moments of one item across systems, as rows of panels.

Figure 3 spreads them over a clip, Figure 4 over a long one (10 s, 20 s, 50 s, 100 s ...), Figure 5 takes the moments of
chosen phones and cuts out the mouth. A panel without a picture says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from talkbench.errors import TalkbenchError, Undecodable
from talkbench.media.clip import Frames
from talkbench.media.stills import PastEnd, stills
from talkbench.mini.face import MOUTH_Y
from talkbench.mini.rig import Layout
from talkbench.mini.suite import FRAME_RATE, Performance
from talkbench.schema import Item
from talkbench.store.run import Run

from .clips import Clips, sidecar

NUM_STRIP = 6
LONG_SECONDS = 20.0
PHONE_GROUPS = {
    "closed": ("m", "b", "p"),
    "wide open": ("aa", "ae"),
    "rounded": ("uw", "w", "ao"),
    "teeth": ("f", "v", "s", "z"),
}
"""What Figure 5 shows of a timeline: the longest phone of the first kind that the item has, in each group."""
_MOUTH_HALF_WIDTH, _MOUTH_HALF_HEIGHT, _MOUTH_DROP = 0.27, 0.20, 0.04
"""Of the crop in head heights: any viseme and any turn of the head of talkbench-mini fits in it."""

_SAME_SHAPE = 0.05
"""How far a clip's shape may be from the item's: sizes are rounded to what a network takes."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Wanted:
    """What a figure is asked to show; what is left out is chosen.

    Attributes:
        systems: In order; all by default.
        item: Whose clips.
        times: Seconds from the first frame.
        box: Figure 5: left, top, right and bottom of the mouth in shares of the picture.
    """

    systems: tuple[str, ...] = ()
    item: str | None = None
    times: tuple[float, ...] = ()
    box: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """A picture, or why there is none.

    Attributes:
        picture_HWC: uint8 RGB, the pixels of the clip.
        reason: In a few words.
    """

    picture_HWC: Frames | None = None
    reason: str = ""


@dataclass(frozen=True)
class Grid:
    """Panels of a figure.

    Attributes:
        title: What is shown.
        heads: Of the columns.
        labels: Of the rows.
        rows: As many panels as heads in each; a single one if the whole row has one reason.
    """

    title: str
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[tuple[Panel, ...], ...]


def strip(run: Run, wanted: Wanted) -> Grid:
    """Return frames spread over a clip: Figure 3.

    Raises:
        TalkbenchError: If there is nothing to show, or a time is negative.
    """
    clips = Clips.of(run, wanted.systems)
    item = clips.item(wanted.item)
    seconds = clips.seconds(item)
    times = _checked(wanted.times) or tuple(round(seconds * (n + 0.5) / NUM_STRIP, 2) for n in range(NUM_STRIP))
    return _grid(clips, item, times, tuple(map(_told, times)), f"{item}: the same moments across systems")


def long(run: Run, wanted: Wanted) -> Grid:
    """Return frames of a long clip, ever further apart: Figure 4.

    Raises:
        TalkbenchError: If there is nothing to show, or nothing as long as the times need.
    """
    clips = Clips.of(run, wanted.systems)
    longest = max(map(clips.seconds, clips.files))
    item = clips.item(wanted.item, min(max(_checked(wanted.times)), longest) if wanted.times else LONG_SECONDS)
    times = wanted.times or _growing(clips.seconds(item))
    if not times:
        raise TalkbenchError(
            f"item {item} lasts {clips.seconds(item):.1f} s, and Figure 4 starts at 10 s. Name times: --times 1,2,3."
        )
    return _grid(clips, item, times, tuple(map(_told, times)), f"{item}: long-term stability")


def mouths(run: Run, wanted: Wanted) -> Grid:
    """Return mouths at chosen phones: Figure 5.

    The crop is one region of the picture for all systems and times: where the mouth is while the head is at rest.

    Raises:
        TalkbenchError: If there is nothing to show, or nobody knows where the mouth is or when the phones are.
    """
    clips = Clips.of(run, wanted.systems)
    item = clips.item(wanted.item, better=lambda item: _mouth_height(clips.listed(item)))
    drawn = _drawn(clips.listed(item))
    box, times, heads = _box(wanted.box), _checked(wanted.times), tuple(map(_told, wanted.times))
    crop = _Crop(box) if box is not None else _Crop(_mouth_box(drawn), _shape(drawn)) if drawn is not None else None
    if crop is None or (drawn is None and not times):
        raise TalkbenchError(
            f"nothing in {run.path} says where the mouth of {item} is and when its phones are. Say it: "
            f"`talkbench report figure5 --run {run.path} --item {item} --times 1.2,3.4 --box 0.4,0.55,0.6,0.7`."
        )
    if drawn is not None and not times:
        chosen = _phones(drawn)
        if not chosen:
            raise TalkbenchError(f"item {item} has none of the phones shown. Name times: --times 1,2,3.")
        times = tuple(at for _, _, at in chosen)
        heads = tuple(f"{group}\n/{symbol}/ {_told(at)}" for group, symbol, at in chosen)
    return _grid(clips, item, times, heads, f"{item}: the mouth while a phone is heard", crop)


def _grid(
    clips: Clips, item: str, times: Sequence[float], heads: tuple[str, ...], title: str, crop: _Crop | None = None
) -> Grid:
    rows = []
    for system in clips.systems:
        file = clips.shown(system, item)
        rows.append(_row(file, times, crop) if isinstance(file, Path) else (Panel(reason=file),))
    return Grid(title, heads, tuple(map(clips.label, clips.systems)), tuple(rows))


def _row(file: Path, times: Sequence[float], crop: _Crop | None) -> tuple[Panel, ...]:
    """Return the panels of a clip; a mouth is shown when its phone is heard, however late the clip's sound is."""
    late = 0.0
    if crop is not None and (beside := sidecar(file)) is not None and beside.truth is not None:
        late = beside.truth.audio_offset_frames / float(FRAME_RATE)
    try:
        found = stills(file, [max(0.0, at + late) for at in times])
    except Undecodable as error:
        return (Panel(reason=f"unusable: {error.reason}"),)
    return tuple(
        Panel(reason=f"ends at {_told(still.duration_seconds)}")
        if isinstance(still, PastEnd)
        else Panel(still.frame_HWC)
        if crop is None
        else crop.of(still.frame_HWC)
        for still in found
    )


@dataclass(frozen=True)
class _Crop:
    """Where the mouth is.

    Attributes:
        box: In shares of the picture.
        shape: Width over height of the picture that they are shares of; None for any.
    """

    box: Box
    shape: float | None = None

    def of(self, frame_HWC: Frames) -> Panel:
        """Cut the mouth out of a frame, unless the system has cut or stretched the picture."""
        height, width = frame_HWC.shape[:2]
        if self.shape is not None and abs(width / height / self.shape - 1) > _SAME_SHAPE:
            return Panel(reason="another shape than the item's picture: give --box")
        left, right = round(self.box[0] * width), max(round(self.box[2] * width), round(self.box[0] * width) + 1)
        top, bottom = round(self.box[1] * height), max(round(self.box[3] * height), round(self.box[1] * height) + 1)
        return Panel(np.ascontiguousarray(frame_HWC[top:bottom, left:right]))


def _phones(item: Item) -> list[tuple[str, str, float]]:
    """Return group, phone and the middle of its longest stay, of every group that the item has."""
    timeline = Performance(item).phones
    found = []
    for group, symbols in PHONE_GROUPS.items():
        for symbol in symbols:
            own = [phone for phone in timeline if phone.symbol == symbol]
            if own:
                longest = max(own, key=lambda phone: phone.end_seconds - phone.start_seconds)
                found.append((group, symbol, round((longest.start_seconds + longest.end_seconds) / 2, 3)))
                break
    return found


def _mouth_box(item: Item) -> Box:
    """Return where the mouth of a drawn item is at rest, in shares of the picture."""
    assert item.generator is not None  # noqa: S101 - the caller asked
    height, width = item.generator["height"], item.generator["width"]
    layout = Layout.of(Performance(item).identity, height, width)
    middle = layout.y + (MOUTH_Y + _MOUTH_DROP) * layout.scale
    half_width, half_height = _MOUTH_HALF_WIDTH * layout.scale, _MOUTH_HALF_HEIGHT * layout.scale
    return (
        max(0.0, (layout.x - half_width) / width),
        max(0.0, (middle - half_height) / height),
        min(1.0, (layout.x + half_width) / width),
        min(1.0, (middle + half_height) / height),
    )


def _drawn(item: Item | None) -> Item | None:
    """Return an item if it is one of talkbench-mini, whose mouths and phones are known."""
    return item if item is not None and (item.generator or {}).get("name") == "mini" else None


def _mouth_height(item: Item | None) -> float:
    """Return how large a mouth is in its picture; 0 if nobody knows.."""
    if (drawn := _drawn(item)) is None:
        return 0.0
    _, top, _, bottom = _mouth_box(drawn)
    return bottom - top


def _shape(item: Item) -> float:
    """Return width over height of a drawn item's picture."""
    assert item.generator is not None  # noqa: S101 - the caller asked
    return float(item.generator["width"] / item.generator["height"])


def _box(given: tuple[float, ...]) -> Box | None:
    if not given:
        return None
    if len(given) != 4 or not (0 <= given[0] < given[2] <= 1 and 0 <= given[1] < given[3] <= 1):
        told = ",".join(f"{value:g}" for value in given)
        raise TalkbenchError(f"--box {told}: left, top, right, bottom in shares of the picture, as 0.4,0.55,0.6,0.7.")
    return given[0], given[1], given[2], given[3]


def _checked(times: tuple[float, ...]) -> tuple[float, ...]:
    if any(not 0 <= at < float("inf") for at in times):
        raise TalkbenchError(f"--times: seconds from the first frame, 0 or more; {min(times):g} was given.")
    return times


def _growing(seconds: float) -> tuple[float, ...]:
    """Return 10, 20, 50, 100 ... 1000 s, as far as a clip goes."""
    return tuple(float(at) for at in (10, 20, 50, 100, 200, 500, 1000) if at < seconds)


def _told(seconds: float) -> str:
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
