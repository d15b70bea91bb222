"""SpeakerVid-5M's raw labels (`asr`, `anno`, `l_score`) of the clips of the test split.

Loaders disagree on key names, so each number has several; a document that has none of them is counted as
`no-known-field:<kind>`, so that real files with other keys show in the report of the index and not as silence. Only
clips of the test split can be chosen, so only theirs are kept: memory does not grow with the set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from talkbench.data.records import Rejected, number
from talkbench.data.stream import Broken

KINDS = ("asr", "anno", "l_score")
SPLIT = "_full_video_"


class Labels(NamedTuple):
    """What the raw labels say about a clip; None where they do not.

    Attributes:
        asr_confidence: Mean log probability of Whisper's words.
        no_speech: Whisper's probability that nobody speaks.
        compression: Compression ratio of the text; repeated words make it large.
        face_sharpness: 0 to 1.
        num_people: In the picture.
    """

    asr_confidence: float | None = None
    no_speech: float | None = None
    compression: float | None = None
    face_sharpness: float | None = None
    num_people: float | None = None


_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "asr": {
        "asr_confidence": ("confidence", "avg_logprob", "asr_confidence"),
        "no_speech": ("no_speech_prob", "no_speech", "no_speech_probability"),
        "compression": ("compression_ratio", "compression"),
    },
    "anno": {"num_people": ("number_of_people", "num_people", "people_number", "people")},
    "l_score": {"face_sharpness": ("face", "face_score", "face_sharpness")},
}
_LIMITS = {"asr_confidence": (-1000.0, 1000.0), "no_speech": (0.0, 1.0), "compression": (0.0, 1e6),
           "face_sharpness": (0.0, 1.0), "num_people": (0.0, 1000.0)}  # fmt: skip


class Joiner:
    """Gathers labels by clip name.

    Args:
        wanted: Names of clips; labels of others are passed over.
    """

    def __init__(self, wanted: frozenset[str]) -> None:
        self._by_prefix: dict[str, list[str]] = {}
        for name in wanted:
            for prefix in _prefixes(name):
                self._by_prefix.setdefault(prefix, []).append(name)
        # How long the prefix was that a number came from: the label of a scene gives way to that of the clip.
        self._found: dict[str, dict[str, tuple[int, float]]] = {}

    def add(self, kind: str, name: str, value: Any, reasons: Counter[str]) -> None:
        """Take one document under its name, the clip's own or a shorter beginning of it; count what it lacks."""
        clips = self._by_prefix.get(name)
        if clips is None:
            return
        if isinstance(value, Broken):
            reasons[value.reason] += 1
            return
        try:
            numbers = _numbers(kind, value)
        except Rejected as error:
            reasons[f"{kind}:{error}"] += 1
            return
        if not numbers:
            reasons[f"no-known-field:{kind}"] += 1
        for clip in clips:
            mine = self._found.setdefault(clip, {})
            for field, found in numbers.items():
                if field not in mine or mine[field][0] < len(name):
                    mine[field] = (len(name), found)

    def labels(self) -> dict[str, Labels]:
        """Return the labels of every clip that has any."""
        return {
            clip: Labels(**{field: value for field, (_, value) in found.items()}) for clip, found in self._found.items()
        }


def _prefixes(name: str) -> Iterator[str]:
    """Yield the beginnings of a name under which labels may be kept, never shorter than video, size and scene."""
    video, found, tail = name.rpartition(SPLIT)
    if not found:
        return
    parts = tail.split("_")
    for count in range(2, len(parts) + 1):
        yield f"{video}{SPLIT}{'_'.join(parts[:count])}"


def _numbers(kind: str, value: Any) -> dict[str, float]:
    """Return the numbers of one document; of a list of spoken segments, their means.

    Raises:
        Rejected: If a field is of a wrong type or out of range.
    """
    segments = value.get("segments") if isinstance(value, dict) else value
    given: Sequence[Any] = [*segments, value] if isinstance(segments, list) else [value]
    found = {}
    for field, names in _NAMES[kind].items():
        low, high = _LIMITS[field]
        stated = [
            number(record, name, low=low, high=high)
            for record in given
            if isinstance(record, Mapping)
            for name in names
            if record.get(name) is not None
        ]
        known = [each for each in stated if each is not None]
        if known:
            found[field] = sum(known) / len(known)
    return found
