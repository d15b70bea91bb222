"""How a person in one source can be heard for more than five minutes, from the times of the clips alone.

Continuous: the clips span long enough and cover a quarter of the span, or one clip alone lasts that long; the source's
own soundtrack is then taken, uncut. Joined twice (`xl` only): the clips fall into two such spans. Joined: their
utterances together last long enough. Of a person the first of these that holds is offered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from talkbench.data import protocol

Arrays = Mapping[str, NDArray[Any]]
"""Columns over all clips, in any order: rows, persons, sources, start, end, share, good, filmed, pieces_only."""

Assembly = Literal["continuous", "joined", "joined_xl"]
Span = tuple[float, float]
"""Start and length in seconds."""


@dataclass(frozen=True)
class Window:
    """A way to hear a person.

    Attributes:
        clip: Index of the clip that stands for the person: the first that passes the quality rules.
        assembly: How the sound is put together.
        spans: Where sound may be taken from; none for `joined`, whose pieces are the clips themselves.
        xl: Whether it may last ten minutes.
        filmed: Whether the picture of the span is one uncut shot as well.
        face_share: Median over the clips.
    """

    clip: int
    assembly: Assembly
    spans: tuple[Span, ...]
    xl: bool
    filmed: bool
    face_share: float


def windows(arrays: Arrays, counts: Counter[str]) -> Iterator[Window]:
    """Yield at most one window per person and source; count the others by reason.

    Args:
        arrays: Columns of all clips.
        counts: Reason (`source:...`) -> sources.
    """
    order = np.lexsort((arrays["rows"], arrays["start"], arrays["sources"], arrays["persons"]))
    persons, sources = arrays["persons"][order], arrays["sources"][order]
    new = (persons[1:] != persons[:-1]) | (sources[1:] != sources[:-1])
    starts = np.flatnonzero(np.r_[True, new])
    start_N, end_N = arrays["start"][order], arrays["end"][order]
    reach_G = np.maximum.reduceat(end_N, starts) - start_N[starts]
    # No window is longer than the reach of a person's clips; most sources end here, all at once.
    hopeful_G = reach_G >= protocol.LONG_SECONDS[0]
    if not hopeful_G.all():
        counts["source:span-too-short"] += int((~hopeful_G).sum())
    stops = np.r_[starts[1:], order.size]
    for begin, stop in zip(starts[hopeful_G].tolist(), stops[hopeful_G].tolist(), strict=True):
        clips = order[begin:stop]
        found = _of_person(arrays, clips)
        if isinstance(found, Window):
            yield found
        else:
            counts[f"source:{found}"] += 1


def _of_person(arrays: Arrays, clips: NDArray[np.int64]) -> Window | str:
    """Return how one person in one source can be heard, or why not."""
    start_N, end_N = arrays["start"][clips], arrays["end"][clips]
    seconds_N = end_N - start_N
    longest = int(np.argmax(seconds_N))
    low, xl_low = protocol.LONG_SECONDS[0], protocol.XL_SECONDS[0]
    pieces_only = bool(arrays["pieces_only"][clips].any())
    assembly: Assembly = "continuous"
    filmed = False
    spans: tuple[Span, ...] = ()
    whole = _span(start_N, end_N)
    if not pieces_only and seconds_N[longest] >= low:
        spans, filmed = ((float(start_N[longest]), float(seconds_N[longest])),), bool(arrays["filmed"][clips][longest])
    elif not pieces_only and isinstance(whole, tuple):
        spans = (whole,)
    elif not pieces_only and (halves := _halves(start_N, end_N)):
        spans = halves
        assembly = "joined_xl" if sum(length for _, length in halves) >= xl_low else "continuous"
    elif _spoken(start_N, end_N) >= low:
        assembly = "joined"
    else:
        return str(whole) if not pieces_only else "spoken-too-little"
    good = arrays["good"][clips]
    if not good.any():
        return "no-good-clip"
    for axis in ("gender", "language"):
        if np.ptp(arrays[axis][clips]):
            return f"contradictory-{axis}"
    return Window(
        clip=int(clips[int(np.argmax(good))]),
        assembly=assembly,
        spans=spans,
        xl=assembly == "joined_xl" or (assembly == "continuous" and spans[0][1] >= xl_low),
        filmed=filmed,
        face_share=float(np.nanmedian(arrays["share"][clips])),
    )


def _span(start_N: NDArray[np.float64], end_N: NDArray[np.float64]) -> Span | str:
    """Return the span of clips if they give a continuous window, or why not."""
    span = float(end_N.max() - start_N[0])
    if span < protocol.LONG_SPAN_SECONDS:
        return "span-too-short"
    return (float(start_N[0]), span) if _spoken(start_N, end_N) >= protocol.LONG_COVER * span else "covered-too-little"


def _halves(start_N: NDArray[np.float64], end_N: NDArray[np.float64]) -> tuple[Span, ...]:
    """Return the one or two spans on both sides of the longest silence of the person that are long enough alone."""
    if start_N.size < 2:
        return ()
    silences = start_N[1:] - np.maximum.accumulate(end_N)[:-1]
    cut = int(np.argmax(silences)) + 1
    found = (_span(start_N[:cut], end_N[:cut]), _span(start_N[cut:], end_N[cut:]))
    return tuple(span for span in found if isinstance(span, tuple))


def _spoken(start_N: NDArray[np.float64], end_N: NDArray[np.float64]) -> float:
    """Return the seconds that clips cover together."""
    reached = np.maximum.accumulate(np.r_[start_N[0], end_N[:-1]])
    return float(np.maximum(0.0, end_N - np.maximum(start_N, reached)).sum())
