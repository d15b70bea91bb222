"""TalkVid and TalkVid-Bench records.

Source of the keys: FreedomIntelligence/TalkVid, commit b3e15e6, and its hub card.
"""

from __future__ import annotations

from typing import Any

from talkbench.data.protocol import AGES, ETHNICITIES, GENDERS, LANGUAGES
from talkbench.data.records import (
    Candidate,
    Rejected,
    label,
    mapping,
    number,
    origin,
    path_inside,
    required,
    text,
    youtube_id,
)

KNOWN_FIELDS = frozenset(
    {"id", "height", "width", "fps", "start-time", "start-frame", "end-time", "end-frame", "durations", "info",
     "description", "dover_scores", "cotracker_ratio", "head_detail", "video-path", "audio-path"}
)  # fmt: skip
RESOLUTION_SCORE_PER_SHARE = 3000.0
"""`*_resolution` is 3000 x face-box area / image area (data_pipeline/3_head_detail_filtering/README)."""
TIME_TOLERANCE_SECONDS = 0.1


def parse(record: Any) -> Candidate:
    """Return the candidate of one record; one with a hosted file and no person belongs to TalkVid-Bench.

    Raises:
        Rejected: With the reason.
    """
    if not isinstance(record, dict):
        raise Rejected("wrong-type:record")
    clip_id = text(record, "id")
    if clip_id is None:
        raise Rejected("missing:id")
    info = mapping(record, "info")
    start, end = _times(record)
    link = text(info, "Video Link")
    if link is None:
        raise Rejected("missing:Video Link")
    video = youtube_id(link)
    if video is None:
        raise Rejected("bad-link:Video Link")
    source_key = f"yt:{video}"
    person = text(info, "Person ID")
    video_path = path_inside(record, "video-path")
    if person is None and video_path is None:
        raise Rejected("missing:Person ID")
    bench = person is None
    scores = mapping(mapping(record, "head_detail"), "scores")
    gender, age = label(info, "Gender", GENDERS), label(info, "Age Group", AGES)
    ethnicity, language = label(info, "Ethnicity", ETHNICITIES), label(info, "Language", LANGUAGES)
    resolution = number(scores, "avg_resolution", low=0)
    share = None if resolution is None else min(1.0, resolution / RESOLUTION_SCORE_PER_SHARE)
    return Candidate(
        dataset="talkvid-bench" if bench else "talkvid",
        split="bench" if bench else "main",
        clip_id=clip_id,
        person_key=source_key if bench else f"talkvid:{person}",
        source_key=source_key,
        start=start,
        end=end,
        width=int(required(record, "width", low=1, high=1 << 16)),
        height=int(required(record, "height", low=1, high=1 << 16)),
        fps=required(record, "fps", low=1, high=1000),
        gender=gender,
        gender_origin=origin(gender, "label"),
        age=age,
        age_origin=origin(age, "label"),
        ethnicity=ethnicity,
        ethnicity_origin=origin(ethnicity, "label"),
        language=None if language is None else LANGUAGES[language],
        language_origin=origin(language, "label"),
        face_share=share,
        face_share_origin=origin(share, "derived"),
        dover=number(record, "dover_scores", low=-1000, high=1000),
        cotracker=number(record, "cotracker_ratio", low=0, high=1),
        orientation=number(scores, "avg_orientation", low=-1000, high=100),
        num_persons=1,
        category=text(info, "Video Category"),
        sync=None,
        asr_confidence=None,
        no_speech=None,
        compression=None,
        face_sharpness=None,
        video_path=video_path if bench else None,
        audio_path=path_inside(record, "audio-path") if bench else None,
    )


def _times(record: dict[str, Any]) -> tuple[float, float]:
    start, end = required(record, "start-time", low=0), required(record, "end-time", low=0)
    if end <= start:
        raise Rejected("bad-times")
    stated = text(record, "durations")
    if stated is not None:
        try:
            seconds = float(stated.removesuffix("s"))
        except ValueError as error:
            raise Rejected("wrong-type:durations") from error
        if not abs(seconds - (end - start)) <= TIME_TOLERANCE_SECONDS:
            raise Rejected("contradictory-times")
    return start, end
