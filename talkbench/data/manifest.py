"""The records of a build and of a released manifest, and the JSON Schema that follows from them."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from talkbench.schema import Finite, ItemId, Record, RelativePath, Sha256

SAMPLE_SCHEMA = "talkbench/sample/1"
FRAME_RATE = 25
AUDIO_RATE_HZ = 16_000

Dataset = Literal["talkvid", "speakervid", "talkvid-bench"]
Tier = Literal["short", "long"]
Orientation = Literal["portrait", "landscape", "square"]
Origin = Literal["label", "estimated", "derived"]
Labelled = tuple[str, Origin]
Framing = tuple[Literal["close", "medium", "wide"], Origin]
Seconds = Annotated[Finite, Field(ge=0)]


class Segment(Record):
    """A piece of a source video, in its own seconds."""

    start: Seconds
    end: Seconds


class ReferenceClip(Record):
    """Where a reference image may come from."""

    source_key: str
    start: Seconds
    end: Seconds
    rule: Literal[1, 2, 3] = Field(
        description="1 another clip of person and source, 2 the same source at least 2 s away, 3 another source."
    )


class Strata(Record):
    """What a sample counts as, each with how it is known; demographic labels are perceived, from the source set."""

    gender: Labelled
    age: Labelled | None
    ethnicity: Labelled | None
    language: Labelled
    framing: Framing


class Selected(Record):
    """One line of `selection.jsonl`: an accepted clip (`slot`) or a reserve entry (`reserve_index`)."""

    tier: Tier
    slot: ItemId | None
    reserve_index: int | None
    stratum: str
    dataset: Dataset
    clip_id: str
    person_key: str
    source_key: str
    segments: tuple[Segment, ...]
    assembly: Literal["continuous"] = "continuous"
    xl: bool = False
    orientation: Orientation | None = Field(description="Of the slot; null in the reserve.")
    strata: Strata
    width: int
    height: int
    references: tuple[ReferenceClip, ...]
    rank: Sha256


class Availability(Record):
    """One line of the frozen snapshot: whether a selected clip could be used when the version was frozen."""

    tier: Tier
    dataset: Dataset
    clip_id: str
    source_key: str
    status: Literal["available", "unavailable", "rejected"]
    reason: str | None = None
    retrieved: str = Field(description="Day of the decision, YYYY-MM-DD.", pattern=r"^\d{4}-\d{2}-\d{2}$")
    media_sha256: Sha256 | None = Field(default=None, description="Of the file with the heard window.")
    reference_sha256: Sha256 | None = Field(default=None, description="Of the file with the reference clip.")


class SourceInfo(Record):
    """Where a sample comes from and on which terms."""

    dataset: Dataset
    revision: str = Field(description="First digits of the sha256 over the pinned metadata files.")
    platform: Literal["youtube"]
    source_key: str
    person_key: str
    segments: tuple[Segment, ...]
    gap_policy: None = None
    licence: str
    retrieved: str
    media_sha256: Sha256


class SampleStrata(Strata):
    """The strata of a released sample."""

    orientation: Orientation


class AudioInfo(Record):
    """The sound that drives systems and is scored."""

    path: RelativePath
    sha256: Sha256
    seconds: Finite = Field(gt=0)
    sample_rate: Literal[16000]
    channels: Literal[1]
    lufs: Finite
    true_peak_dbfs: Finite
    original_lufs: Finite
    speech_ratio: Annotated[Finite, Field(ge=0, le=1)]
    max_gap_s: Seconds


class ReferenceInfo(Record):
    """The picture a system starts from."""

    path: RelativePath
    sha256: Sha256
    full_path: RelativePath
    full_sha256: Sha256
    size: tuple[int, int] = Field(description="Width and height.")
    source_key: str
    source_time: Seconds
    ref_rule: Literal[1, 2, 3]
    checks: tuple[str, ...] = Field(description="Limits of the protocol that were checked on the frame.")
    face_box: tuple[Finite, Finite, Finite, Finite] | None
    face_share: Finite | None


class Prompt(Record):
    """What systems that want words are told."""

    generic: str
    described: str | None = None
    captioner: str | None = None


class Expect(Record):
    """What a generated clip must have."""

    fps: Literal[25]
    frames: int = Field(gt=0)


class Selection(Record):
    """How the sample was chosen."""

    protocol: str
    seed: int
    rank: Sha256
    stratum: str
    reserve_index: int | None


_BY_TIER: dict[str, Any] = {
    "allOf": [
        {
            "if": {"properties": {"tier": {"const": tier}}},
            "then": {"properties": {"audio": {"properties": {"seconds": limits}}}},
        }
        for tier, limits in (
            ("short", {"minimum": 4, "exclusiveMaximum": 10}),
            ("long", {"exclusiveMinimum": 300}),
        )
    ]
}


class Sample(Record):
    """One line of a released manifest."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True, json_schema_extra=_BY_TIER
    )

    schema_: Literal["talkbench/sample/1"] = Field(alias="schema")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    id: ItemId = Field(pattern=r"^tb[sl]-\d{4}$")
    tier: Tier
    assembly: Literal["continuous", "joined", "joined_xl"]
    source: SourceInfo
    strata: SampleStrata
    audio: AudioInfo
    reference: ReferenceInfo
    ground_truth: None = None
    prompt: Prompt
    expect: Expect
    selection: Selection

    def model_post_init(self, _context: Any) -> None:
        """Refuse lengths that do not belong to the tier, and a frame count that does not follow from the sound."""
        seconds = self.audio.seconds
        if not (4 <= seconds < 10 if self.tier == "short" else seconds > 300):
            raise ValueError(f"{self.id}: {seconds:g} s of sound do not belong to tier {self.tier}")
        if self.expect.frames != math.floor(FRAME_RATE * seconds + 1e-6):
            raise ValueError(f"{self.id}: {self.expect.frames} frames expected of {seconds:g} s at {FRAME_RATE} fps")


def line(record: Record) -> str:
    """Return the one line of JSON that stands for a record, the same bytes on every machine."""
    return json.dumps(
        record.model_dump(mode="json", by_alias=True), ensure_ascii=False, allow_nan=False, separators=(", ", ": ")
    )


def json_schema() -> str:
    """Return the JSON Schema (draft 2020-12) of a manifest line."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Sample.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
