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

Dataset = Literal["talkvid", "speakervid", "talkvid-bench", "hdtf"]
Assembly = Literal["continuous", "joined", "joined_xl"]
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
    pause_seconds: Seconds = Field(
        default=0.0, description="Room tone before the piece, where sound is joined; 0 for the first piece."
    )

    @property
    def seconds(self) -> float:
        """Length of the piece, without the pause."""
        return self.end - self.start


class ReferenceClip(Record):
    """Where a reference image comes from."""

    source_key: str
    start: Seconds
    end: Seconds
    rule: Literal[1, 2, 3] = Field(
        description="1 another clip of person and source, 2 the same source at least 2 s away, 3 another source."
    )


class HostedFiles(Record):
    """Files of a clip that its set hosts itself, as paths below the set's folder."""

    video: RelativePath
    audio: RelativePath | None = Field(description="Null if the video has its sound.")


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
    assembly: Assembly = "continuous"
    xl: bool = False
    filmed: bool = Field(description="Whether the picture of the window is one uncut shot: it then is ground truth.")
    hosted: HostedFiles | None = None
    orientation: Orientation | None = Field(description="Of the slot; null in the reserve.")
    strata: Strata
    width: int | None
    height: int
    references: tuple[ReferenceClip, ...] = Field(description="The first counts; selections of old builds list more.")
    rank: Sha256


class Measured(Record):
    """What networks found in the picture of a clip, once; nothing later looks again."""

    num_faces: int = Field(description="In the reference frame.")
    face_box: tuple[Finite, Finite, Finite, Finite] | None = Field(
        description="Left, top, right, bottom in parts of the whole reference frame; null unless there is one face."
    )
    face_share: Finite | None = Field(description="Of the area of the whole reference frame.")
    window_face_box: tuple[Finite, Finite, Finite, Finite] | None = Field(
        description="In the first frame of the window, where that is filmed; null unless there is one face."
    )
    sync_confidence: Finite | None = Field(description="Of the clip itself; null where picture and sound are not one.")
    sync_problem: str | None = Field(default=None, description="Why there is no confidence though there should be.")
    weights: dict[str, str] = Field(description="Weight file -> sha256.")


class Checked(Record):
    """One line of `measured.jsonl`: what networks found in the files of one clip."""

    media: Sha256 = Field(description="Digest of the list of the sha256 of its files: heard pieces, then reference.")
    clip_id: str
    measured: Measured


class Availability(Record):
    """One line of the frozen snapshot: whether a selected clip could be used when the version was frozen."""

    tier: Tier
    dataset: Dataset
    clip_id: str
    source_key: str
    sections: Sha256 | None = Field(
        default=None, description="Digest of the sections that the decision is about; null in records of old builds."
    )
    status: Literal["available", "unavailable", "rejected"]
    reason: str | None = None
    retrieved: str = Field(description="Day of the decision, YYYY-MM-DD.", pattern=r"^\d{4}-\d{2}-\d{2}$")
    media_sha256: tuple[Sha256, ...] = Field(default=(), description="Of the files with the pieces that are heard.")
    reference_sha256: Sha256 | None = Field(default=None, description="Of the file with the reference clip.")
    measured: Measured | None = Field(default=None, description="By networks, where the clip was checked by them.")


class SourceInfo(Record):
    """Where a sample comes from and on which terms."""

    dataset: Dataset
    revision: str = Field(description="First digits of the sha256 over the pinned metadata files.")
    platform: Literal["youtube"]
    source_key: str
    person_key: str
    segments: tuple[Segment, ...]
    gap_policy: str | None = Field(default=None, description="What lies between joined pieces; null if uncut.")
    known_contaminated: bool = Field(description="Whether most systems were trained on the set.")
    licence: str
    retrieved: str
    media_sha256: tuple[Sha256, ...]


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


class GroundTruth(Record):
    """The filmed window itself, cropped and timed as a generated clip would be."""

    path: RelativePath
    sha256: Sha256
    pixels_digest: str = Field(description="Of every decoded frame; vouches where another encoder gave other bytes.")
    size: tuple[int, int] = Field(description="Width and height.")
    fps: Literal[25]
    frames: int = Field(gt=0)


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
    assembly: Assembly
    source: SourceInfo
    strata: SampleStrata
    audio: AudioInfo
    reference: ReferenceInfo
    ground_truth: GroundTruth | None = None
    prompt: Prompt
    expect: Expect
    selection: Selection

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """Path and sha256 of every file of the sample."""
        audio, picture, truth = self.audio, self.reference, self.ground_truth
        own = ((audio.path, audio.sha256), (picture.path, picture.sha256), (picture.full_path, picture.full_sha256))
        return own if truth is None else (*own, (truth.path, truth.sha256))

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
