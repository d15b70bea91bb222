"""HDTF: tables of videos with the minutes in which one person talks; the only set with monologues over five minutes.

Three files per part (RD, WDA, WRA): `<part>_video_url.txt` (name, address), `<part>_annotion_time.txt` (name.mp4, then
a range per clip as mm:ss-mm:ss), `<part>_resolution.txt` (name.mp4, height). Clip i of a video is `<name>_<i>`
(MRzzm/HDTF, commit bbde889: README and HDTF_dataset/). All are English; gender and face size come from a file of
estimates. Most systems were trained on the set, so its samples are marked as known to be contaminated.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from talkbench.data.estimates import Estimates, guessed
from talkbench.data.records import Candidate, Rejected, origin, youtube_id

URLS, TIMES, HEIGHTS = "_video_url.txt", "_annotion_time.txt", "_resolution.txt"
_RANGE = re.compile(r"((?:\d+:)?\d{1,3}:\d{2})-((?:\d+:)?\d{1,3}:\d{2})")
_UNNAMED = re.compile(r"Radio\d+")

Line = tuple[str, list[str]] | Rejected
"""The first word of a line and the others, or why the line cannot be used."""


def parts(folder: Path) -> list[str]:
    """Return the parts of the set whose tables of times are in a folder, as RD, WDA, WRA."""
    return sorted(path.name.removesuffix(TIMES) for path in folder.glob(f"*{TIMES}"))


def files(folder: Path, part: str) -> list[Path]:
    """Return the tables of a part that are there, in a fixed order."""
    return [path for end in (URLS, TIMES, HEIGHTS) if (path := folder / f"{part}{end}").is_file()]


def clip_names(folder: Path, part: str) -> Iterator[str]:
    """Yield the names of the clips of a part."""
    for line in _lines(folder / f"{part}{TIMES}"):
        if not isinstance(line, Rejected):
            name, ranges = line
            yield from (_clip_name(name, number) for number in range(len(ranges)))


def parse(folder: Path, part: str, estimates: Estimates) -> Iterator[Candidate | Rejected]:
    """Yield the candidates of a part and the reasons for the clips and lines that are none.

    Args:
        folder: Holds the tables.
        part: RD, WDA or WRA.
        estimates: Clip name -> estimated labels.
    """
    links, heights = _table(folder / f"{part}{URLS}"), _table(folder / f"{part}{HEIGHTS}")
    for line in _lines(folder / f"{part}{TIMES}"):
        if isinstance(line, Rejected):
            yield line
            continue
        name, ranges = line
        for number, stated in enumerate(ranges):
            try:
                yield _candidate(name, number, stated, links, heights, estimates)
            except Rejected as error:
                yield error


def _candidate(
    name: str, number: int, stated: str, links: dict[str, str | None], heights: dict[str, str | None],
    estimates: Estimates,
) -> Candidate:  # fmt: skip
    video = youtube_id(_one(links, name, "url"))
    if video is None:
        raise Rejected("bad-link:url")
    height = _one(heights, name, "resolution")
    if not height.isdigit() or not 1 <= int(height) < 1 << 16:
        raise Rejected("wrong-type:resolution")
    start, end = _range(stated)
    guess = guessed(estimates.get(_clip_name(name, number), {}))
    return Candidate(
        dataset="hdtf",
        split="main",
        clip_id=_clip_name(name, number),
        person_key=_person(name, video),
        source_key=f"yt:{video}",
        start=start,
        end=end,
        width=None,
        height=int(height),
        fps=None,
        gender=guess.gender,
        gender_origin=origin(guess.gender, "estimated"),
        age=guess.age,
        age_origin=origin(guess.age, "estimated"),
        ethnicity=guess.ethnicity,
        ethnicity_origin=origin(guess.ethnicity, "estimated"),
        language="en",
        language_origin="derived",
        face_share=guess.face_share,
        face_share_origin=origin(guess.face_share, "estimated"),
        dover=None,
        cotracker=None,
        orientation=None,
        num_persons=1,
        category=None,
        sync=None,
        asr_confidence=None,
        no_speech=None,
        compression=None,
        face_sharpness=None,
        video_path=None,
        audio_path=None,
    )


def _clip_name(name: str, number: int) -> str:
    return f"{name}_{number}"


def _person(name: str, video: str) -> str:
    """Return a key that videos of one person share; the names of persons are not published, and some have none."""
    stem = video if _UNNAMED.fullmatch(name) else name.rstrip("0123456789")
    return f"hdtf:{hashlib.sha256(stem.encode()).hexdigest()[:12]}"


def _range(stated: str) -> tuple[float, float]:
    found = _RANGE.fullmatch(stated)
    if found is None:
        raise Rejected("wrong-type:times")
    start, end = (_seconds(clock) for clock in found.groups())
    if end <= start:
        raise Rejected("bad-times")
    return start, end


def _seconds(clock: str) -> float:
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return float(total)


def _one(table: dict[str, str | None], name: str, what: str) -> str:
    if name not in table:
        raise Rejected(f"missing:{what}")
    value = table[name]
    if value is None:
        raise Rejected("contradictory-id")
    return value


def _table(path: Path) -> dict[str, str | None]:
    """Return name -> value; None for a name with two different values. Lines that are none are missed by their clip."""
    found: dict[str, str | None] = {}
    for line in _lines(path) if path.is_file() else ():
        if not isinstance(line, Rejected):
            name, values = line
            found[name] = None if found.setdefault(name, values[0]) != values[0] else values[0]
    return found


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for raw in file:
            try:
                words = raw.decode("utf-8-sig").split()
            except UnicodeDecodeError:
                yield Rejected("not-utf8")
                continue
            if len(words) >= 2:
                yield words[0].removesuffix(".mp4"), words[1:]
            elif words:
                yield Rejected("malformed-line")
