"""Stage 2: which candidates may be chosen, as whole-column rules; the first that refuses a row names the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from talkbench.data.protocol import MINORS

MIN_HEIGHT_PX = 720
MIN_DOVER = {"talkvid": 7.0, "talkvid-bench": 7.0, "speakervid": 0.6}
MIN_ORIENTATION, MIN_COTRACKER = 75.0, 0.9
MIN_SYNC = 3.0
MIN_ASR_CONFIDENCE, MAX_NO_SPEECH, MAX_COMPRESSION, MIN_FACE_SHARPNESS = -1.0, 0.8, 2.5, 0.7
"""SpeakerVid-5M's own limits for its curated subset (confidence, face) and for the whole set (the other two)."""
SHORT_SECONDS = (4.0, 10.0)

Mask = NDArray[np.bool_]
Rule = tuple[str, Callable[[pa.Table], Mask]]
"""A reason and the rows it refuses."""


def apply(table: pa.Table, rules: list[Rule], counts: Counter[str]) -> Mask:
    """Return the rows that no rule refuses; count the others by the first rule that does."""
    left = np.ones(table.num_rows, bool)
    for reason, refuses in rules:
        refused = left & refuses(table)
        if refused.any():
            counts[reason] += int(refused.sum())
            left &= ~refused
    return left


def quality_rules(adults: frozenset[str]) -> list[Rule]:
    """Return the rules that hold for every clip whose picture or sound is used.

    Args:
        adults: Person keys of the youngest group that a public source shows to be adults.
    """
    known = pa.array(sorted(adults), pa.string())
    return [
        ("not-test-split", lambda t: _is(t, "dataset", "speakervid") & ~_is(t, "split", "test")),
        ("missing-gender", lambda t: _null(t, "gender")),
        ("missing-language", lambda t: _null(t, "language")),
        ("missing-face-share", lambda t: _null(t, "face_share")),
        ("maybe-minor", lambda t: _is(t, "age", MINORS) & ~_true(pc.is_in(t["person_key"], value_set=known))),
        ("low-resolution", lambda t: _below(t, "height", MIN_HEIGHT_PX)),
        ("missing-num-persons", lambda t: _null(t, "num_persons")),
        ("several-persons", lambda t: ~_true(pc.equal(t["num_persons"], 1))),
        ("missing-dover", lambda t: ~_is(t, "dataset", "hdtf") & _null(t, "dover")),
        ("low-dover", _low_dover),
        ("missing-orientation", lambda t: _scored(t) & _null(t, "orientation")),
        ("turned-away", lambda t: _scored(t) & _below(t, "orientation", MIN_ORIENTATION)),
        ("missing-cotracker", lambda t: _scored(t) & _null(t, "cotracker")),
        ("unstable-tracks", lambda t: _scored(t) & _below(t, "cotracker", MIN_COTRACKER)),
        ("low-sync-label", lambda t: _below(t, "sync", MIN_SYNC)),
        ("unsure-words", lambda t: _below(t, "asr_confidence", MIN_ASR_CONFIDENCE)),
        ("no-speech-label", lambda t: _above(t, "no_speech", MAX_NO_SPEECH)),
        ("repeated-words", lambda t: _above(t, "compression", MAX_COMPRESSION)),
        ("blurred-face", lambda t: _below(t, "face_sharpness", MIN_FACE_SHARPNESS)),
    ]


def short_rules(adults: frozenset[str]) -> list[Rule]:
    """Return the rules for a clip of the short tier."""
    low, high = SHORT_SECONDS
    return [
        ("long-tier-only", lambda t: _is(t, "dataset", "hdtf")),
        ("too-short", lambda t: _seconds(t) < low),
        ("too-long", lambda t: _seconds(t) >= high),
        ("missing-age", lambda t: _null(t, "age")),
        ("missing-ethnicity", lambda t: _null(t, "ethnicity")),
        *quality_rules(adults),
    ]


def _seconds(table: pa.Table) -> NDArray[np.float64]:
    # Rounded, so that the last bit of a difference of decimals does not decide.
    seconds: NDArray[np.float64] = np.round(table["end"].to_numpy() - table["start"].to_numpy(), 6)
    return seconds


def _scored(table: pa.Table) -> Mask:
    """Return the rows of sets that state head orientation and track stability."""
    return _is(table, "dataset", "talkvid") | _is(table, "dataset", "talkvid-bench")


def _low_dover(table: pa.Table) -> Mask:
    low = np.zeros(table.num_rows, bool)
    for dataset, least in MIN_DOVER.items():
        low |= _is(table, "dataset", dataset) & _below(table, "dover", least)
    return low


def _null(table: pa.Table, name: str) -> Mask:
    return _true(pc.is_null(table[name]))


def _is(table: pa.Table, name: str, value: str) -> Mask:
    return _true(pc.equal(table[name], value))


def _below(table: pa.Table, name: str, least: float) -> Mask:
    return _true(pc.less(table[name], least))


def _above(table: pa.Table, name: str, most: float) -> Mask:
    return _true(pc.greater(table[name], most))


def _true(column: pa.ChunkedArray) -> Mask:
    mask: Mask = pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(bool, copy=False)
    return mask
