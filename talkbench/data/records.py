"""The columns of the candidate table, and how fields are taken from records that others wrote.

A record that cannot be used raises `Rejected` with a short, stable reason; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa

MAX_ID_CHARS = 200
LARGEST = 1e12
"""No number of a record is larger, so that none overflows on its way into a column."""
_YOUTUBE = re.compile(r"(?:[?&]v=|youtu\.be/|/shorts/|/embed/|/live/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")
_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Rejected(Exception):  # noqa: N818 - a property of the record, not an error of ours
    """A record that cannot become a candidate; the message is the reason it is counted under."""


class Candidate(NamedTuple):
    """One clip of a source set; `None` where the set does not say. Times in seconds of the source video.

    `video_path` and `audio_path` are those of files that the set itself hosts.
    """

    dataset: str
    split: str
    clip_id: str
    person_key: str
    source_key: str
    start: float
    end: float
    width: int | None
    height: int
    fps: float | None
    gender: str | None
    gender_origin: str | None
    age: str | None
    age_origin: str | None
    ethnicity: str | None
    ethnicity_origin: str | None
    language: str | None
    language_origin: str | None
    face_share: float | None
    face_share_origin: str | None
    dover: float | None
    cotracker: float | None
    orientation: float | None
    num_persons: int | None
    category: str | None
    sync: float | None
    asr_confidence: float | None
    no_speech: float | None
    compression: float | None
    face_sharpness: float | None
    video_path: str | None
    audio_path: str | None


_WHOLE = {"width", "height", "num_persons"}
_REAL = {"start", "end", "fps", "face_share", "dover", "cotracker", "orientation", "sync", "asr_confidence",
         "no_speech", "compression", "face_sharpness"}  # fmt: skip
SCHEMA = pa.schema(
    [
        (name, pa.int32() if name in _WHOLE else pa.float64() if name in _REAL else pa.string())
        for name in Candidate._fields
    ]
)


def number(record: Mapping[str, Any], name: str, *, low: float, high: float = LARGEST) -> float | None:
    """Return a finite number of a record, or None if it is absent.

    Raises:
        Rejected: `wrong-type:<name>` or `out-of-range:<name>`.
    """
    value = record.get(name)
    if value is None:
        return None
    if type(value) is not float and type(value) is not int:
        raise Rejected(f"wrong-type:{name}")
    if not low <= value <= high:
        raise Rejected(f"out-of-range:{name}")
    return float(value)


def required(record: Mapping[str, Any], name: str, *, low: float, high: float = LARGEST) -> float:
    """Return a finite number that must be there.

    Raises:
        Rejected: Also `missing:<name>`.
    """
    value = number(record, name, low=low, high=high)
    if value is None:
        raise Rejected(f"missing:{name}")
    return value


def text(record: Mapping[str, Any], name: str) -> str | None:
    """Return a text of a record without surrounding space, or None if it is absent or empty.

    Raises:
        Rejected: `wrong-type:<name>`, or `bad-text:<name>` for control characters, line breaks, and more than 200
            characters.
    """
    value = record.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise Rejected(f"wrong-type:{name}")
    value = value.strip()
    if len(value) > MAX_ID_CHARS or _CONTROL.search(value):
        raise Rejected(f"bad-text:{name}")
    return value or None


def label(record: Mapping[str, Any], name: str, known: Collection[str]) -> str | None:
    """Return one of the known labels, or None if it is absent.

    Raises:
        Rejected: `wrong-type:<name>` or `unknown-label:<name>`.
    """
    value = text(record, name)
    if value is not None and value not in known:
        raise Rejected(f"unknown-label:{name}")
    return value


def mapping(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a nested object, empty if it is absent.

    Raises:
        Rejected: `wrong-type:<name>`.
    """
    value = record.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Rejected(f"wrong-type:{name}")
    return value


def path_inside(record: Mapping[str, Any], name: str) -> str | None:
    """Return a relative path of a record that stays below its folder, or None if it is absent or empty.

    Raises:
        Rejected: `wrong-type:<name>` or `bad-path:<name>`.
    """
    value = text(record, name)
    if value is None:
        return None
    parts = PurePosixPath(value)
    if parts.is_absolute() or ".." in parts.parts or "\\" in value:
        raise Rejected(f"bad-path:{name}")
    return value


def youtube_id(link: str) -> str | None:
    """Return the video id of a YouTube address, or of a bare id."""
    found = _YOUTUBE.search(link)
    if found:
        return found.group(1)
    return link if _YOUTUBE_ID.fullmatch(link) else None


def origin(value: object | None, how: str) -> str | None:
    """Return how a label came about, None where there is no label."""
    return None if value is None else how
