"""SpeakerVid-5M annotations: millions of small JSON objects, read straight from their archives.

Sources of the keys: Dorniwang/SpeakerVid-5M-Code, and loaders of `dorni/SpeakerVid-5M-Dataset`. The set states no
gender, age, ethnicity, language or face size: those come from a file of estimates, and are marked so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from talkbench.data.estimates import Estimates, guessed
from talkbench.data.labels import Labels
from talkbench.data.records import Candidate, Rejected, number, origin, required, text
from talkbench.data.stream import Broken, elements_of

KNOWN_FIELDS = frozenset(
    {"video_name", "num_frames", "is_talking", "clip_speaker_num", "org_start_seconds", "video_total_duration",
     "start_new", "duration_new", "start", "duration", "start_seconds", "end_seconds", "bbox", "conf", "sync",
     "speaker", "clear", "dover", "raw_video_height", "raw_video_width", "clip_video_height", "clip_video_width",
     "clip_name"}
)  # fmt: skip
FRAME_RATE = 25.0
_RANGES = (("start_new", "duration_new"), ("start", "duration"), ("org_start_seconds", "video_total_duration"))
_SPLIT = "_full_video_"
_TAIL = re.compile(r"(\d+)[×x](\d+)_(\d{3,})_([A-Za-z])(?:_.*)?")
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")
_NO_LABELS = Labels()


def parse(
    clip_id: str, record: Any, *, test_clips: frozenset[str], estimates: Estimates, labels: Mapping[str, Labels]
) -> Candidate:
    """Return the candidate of one annotation.

    Args:
        clip_id: Name of the clip; the video id in it may itself hold `_` and `-`.
        record: The annotation.
        test_clips: Names of the set's own test split.
        estimates: Clip name -> estimated labels.
        labels: Clip name -> the set's raw labels; known for the test split only.

    Raises:
        Rejected: With the reason.
    """
    if not isinstance(record, dict):
        raise Rejected("wrong-type:record")
    video, letter = split_name(clip_id)
    stated = text(record, "video_name")
    if stated is not None and stated != video:
        raise Rejected("contradictory-id")
    if number(record, "is_talking", low=0, high=1) != 1:
        raise Rejected("not-talking")
    start, end = _times(record)
    guess = guessed(estimates.get(clip_id, {}))
    raw = labels.get(clip_id, _NO_LABELS)
    speakers = number(record, "clip_speaker_num", low=0, high=1000)
    # A listener who is seen counts too: the larger number is the one of people in the picture.
    persons = max((each for each in (speakers, raw.num_people) if each is not None), default=None)
    return Candidate(
        dataset="speakervid",
        split="test" if clip_id in test_clips else "train",
        clip_id=clip_id,
        person_key=f"speakervid:{video}:{letter}",
        source_key=f"yt:{video}",
        start=start,
        end=end,
        width=int(required(record, "raw_video_width", low=1, high=1 << 16)),
        height=int(required(record, "raw_video_height", low=1, high=1 << 16)),
        fps=FRAME_RATE,
        gender=guess.gender,
        gender_origin=origin(guess.gender, "estimated"),
        age=guess.age,
        age_origin=origin(guess.age, "estimated"),
        ethnicity=guess.ethnicity,
        ethnicity_origin=origin(guess.ethnicity, "estimated"),
        language=guess.language,
        language_origin=origin(guess.language, "estimated"),
        face_share=guess.face_share,
        face_share_origin=origin(guess.face_share, "estimated"),
        dover=number(record, "dover", low=0, high=1),
        cotracker=None,
        orientation=None,
        num_persons=None if persons is None else int(persons),
        category=None,
        sync=number(record, "conf", low=-1000, high=1000),
        asr_confidence=raw.asr_confidence,
        no_speech=raw.no_speech,
        compression=raw.compression,
        face_sharpness=raw.face_sharpness,
        video_path=None,
        audio_path=None,
    )


def split_name(clip_id: str) -> tuple[str, str]:
    """Return video id and speaker letter of a clip name.

    Raises:
        Rejected: `bad-clip-name`.
    """
    video, found, tail = clip_id.rpartition(_SPLIT)
    match = _TAIL.fullmatch(tail)
    if not found or match is None or _VIDEO.fullmatch(video) is None:
        raise Rejected("bad-clip-name")
    return video, match.group(4)


def _times(record: dict[str, Any]) -> tuple[float, float]:
    """Return the tightest range that the annotation gives; published files use four pairs of keys."""
    for first, second in _RANGES:
        start, seconds = number(record, first, low=0), number(record, second, low=0)
        if start is not None and seconds is not None:
            break
    else:
        start, end = required(record, "start_seconds", low=0), required(record, "end_seconds", low=0)
        seconds = end - start
    if seconds <= 0:
        raise Rejected("bad-times")
    return start, round(start + seconds, 6)


def named(member: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield clip names and annotations of one JSON document: one annotation, a list of them, or a map by name."""
    if isinstance(value, list):
        for entry in value:
            yield str(entry.get("clip_name", "")) if isinstance(entry, dict) else "", entry
    elif isinstance(value, dict) and not KNOWN_FIELDS & value.keys() and value:
        yield from value.items()
    else:
        stem = member.rpartition("/")[2].removesuffix(".json")
        yield str(value.get("clip_name") or stem) if isinstance(value, dict) else stem, value


def read_test_clips(path: Path, reasons: dict[str, int]) -> frozenset[str]:
    """Return the clip names of a `testset.json`: an array of names, of pairs of names, or of objects with one."""
    names: set[str] = set()
    for element in elements_of(path):
        if isinstance(element, Broken):
            reasons[element.reason] = reasons.get(element.reason, 0) + 1
        else:
            names.update(_names(element))
    return frozenset(names)


def _names(element: Any) -> Iterator[str]:
    if isinstance(element, str):
        yield element.removesuffix(".mp4").removesuffix(".json")
    elif isinstance(element, list):
        for entry in element:
            yield from _names(entry)
    elif isinstance(element, dict):
        for entry in element.values():
            if isinstance(entry, (list, dict)) or (isinstance(entry, str) and _SPLIT in entry):
                yield from _names(entry)
