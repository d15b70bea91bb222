"""Every record talkbench writes to disk, validated where it is read and where it is written.

All models refuse unknown keys, NaN and infinity. `SCHEMA_VERSION` is in every record; `talkbench.migrate` lifts older
ones. Times of day are UTC in ISO 8601; durations carry their unit in the name.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Status = Literal["ok", "unscorable", "failed", "skipped"]
Better = Literal["higher", "lower", "zero"]
TimingEvent = Literal["spawn", "import_end", "load_end", "cond_end", "first_frames", "gen_end", "encode_end", "exit"]
Encode = Literal["native", "tap"]
Tier = str

UNAVAILABLE = ("no-weights", "bad-weights", "no-torch")
"""Reasons of rows that wait for something to be installed; any other row of the metric is preferred to them."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def now() -> str:
    """Return the time of day as the records write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _item_id(value: str) -> str:
    if not value or len(value) > 200 or value in {".", ".."} or "/" in value or "\\" in value or _CONTROL.search(value):
        raise ValueError(f"{value!r} cannot be an item id: 1 to 200 characters, no slash, no control character")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number; a missing value is a status, not a float")
    return value


def _inside(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or "\\" in value or _CONTROL.search(value):
        raise ValueError(f"{value!r} leaves the suite's folder; asset paths are relative and contain no `..`")
    return value


def _fraction(value: str) -> str:
    if Fraction(value) <= 0:
        raise ValueError(f"{value!r} is not a positive rate")
    return value


ItemId = Annotated[str, AfterValidator(_item_id)]
Finite = Annotated[float, AfterValidator(_finite)]
RelativePath = Annotated[str, AfterValidator(_inside)]
Rate = Annotated[str, AfterValidator(_fraction)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of everything on disk."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null", allow_inf_nan=False)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return self.model_dump_json()


class Asset(Record):
    """A file an item needs."""

    path: RelativePath = Field(description="Relative to the suite's folder.")
    sha256: Sha256


class Item(Record):
    """One line of a manifest: what a system is given, and how the clip is grouped in statistics."""

    id: ItemId
    tier: Tier = Field(description="Block of the table: short, long.")
    identity: str = Field(description="Who speaks; clips of one identity are resampled together.")
    duration_seconds: Finite = Field(gt=0)
    language: str = "und"
    tags: tuple[str, ...] = ()
    licence: str = "unknown"
    seed: int = 0
    text: str | None = Field(default=None, description="Prompt for systems that want words; not what is said.")
    image: Asset | None = None
    audio: Asset | None = None
    generator: dict[str, Any] | None = Field(default=None, description="How to make the assets, for synthetic suites.")


class TierRule(Record):
    """What belongs in a block of the table."""

    name: Tier
    title: str
    num_items: int | None = Field(default=None, description="Size of the frozen list; null while it is open.")
    min_seconds: Finite = 0.0
    max_seconds: Finite | None = None

    def admits(self, duration_seconds: float) -> bool:
        """Tell whether a clip of this length belongs here (minimum included, maximum not)."""
        return self.min_seconds <= duration_seconds and (
            self.max_seconds is None or duration_seconds < self.max_seconds
        )


class Suite(Record):
    """A versioned list of items; `items` is null while a suite's list is not frozen."""

    schema_version: int = SCHEMA_VERSION
    name: str
    version: int
    title: str
    description: str
    licence: str
    tiers: tuple[TierRule, ...]
    items: tuple[Item, ...] | None = None

    @property
    def id(self) -> str:
        """Name and version, as it enters keys and tables: ``short.v1``."""
        return f"{self.name}.v{self.version}"


class Chunk(Record):
    """Frames that became available together."""

    done_ns: int = Field(description="Monotonic clock, when the frames were on the host.")
    num_frames: int = Field(gt=0)


class Timing(Record):
    """When a system did what, on one monotonic clock; what every speed number is computed from.

    Two ways of running are told apart by `events`: a system whose model stays in memory has no ``spawn``, one that is
    started for every clip has.
    """

    scenario: Literal["single", "stream", "offline"] = "single"
    job_received_ns: int
    first_frame_ns: int | None = Field(default=None, description="Null if nothing told of it.")
    chunks: tuple[Chunk, ...] = Field(default=(), description="Empty if nothing told of any.")
    file_closed_ns: int
    device: str = Field(description="What the system ran on.")
    num_devices: int = 1
    warmed_up: bool = Field(default=False, description="Whether a job of the same shape had run before in the process.")
    events: dict[TimingEvent, int] = Field(
        default_factory=dict,
        description="Monotonic nanoseconds: the process is started; its imports, loading and encoding of picture and "
        "text are done; the first frames are on the host; the last ones are; its file is written; the process has "
        "ended. What nothing told of is not there.",
    )
    num_frames: int | None = Field(
        default=None, gt=0, description="Frames the system generated, those that were cut off included; null for those "
        "of the chunks."
    )  # fmt: skip
    audio_seconds: Finite | None = Field(default=None, gt=0, description="Length of the sound it was given.")
    num_gpus: int | None = Field(default=None, ge=0, description="GPUs it had; null if nobody noted it.")


class Truth(Record):
    """What is known about a synthetic clip because the suite drew it."""

    frame_rate: Rate
    mouth_opening: tuple[Finite, ...] = Field(description="Per frame, 0 closed to 1 wide open, sampled at mid-frame.")
    audio_offset_frames: Finite = Field(description="How many frames the audio was delayed against the mouth.")
    identity: str
    scene: dict[str, Any] = Field(default_factory=dict, description="Framing, camera and drawing parameters.")


class Sidecar(Record):
    """`<clip>.clip.json` beside a clip: optional, written by `talkbench generate` or by hand."""

    schema_version: int = SCHEMA_VERSION
    item: ItemId | None = None
    system: str | None = None
    job_key: str | None = Field(default=None, description="Key of the generation job, so that it is not run twice.")
    settings: dict[str, Any] = Field(default_factory=dict)
    timing: Timing | None = None
    truth: Truth | None = None


class AttemptRecord(Record):
    """What became of one attempt to make a clip: a line when it began, and one with all of this when it ended."""

    schema_version: int = SCHEMA_VERSION
    attempt: str = Field(description="Chosen at random; the two lines of an attempt share it.")
    system: str
    item: ItemId
    job_key: str = Field(
        description="Changes whenever the clip would; earlier attempts under another key do not count."
    )
    outcome: Literal["begun", "made", "failed"] = Field(
        description="`begun` without a later line of the same attempt: interrupted, or running if the file is locked."
    )
    reason: str | None = Field(default=None, description="Of a failure, in a word: talkbench.systems.failures.")
    message: str | None = None
    last_words: tuple[str, ...] = Field(default=(), description="End of what the system printed, if it failed.")
    seconds: Finite | None = Field(default=None, description="From the beginning to the end, start-up included.")
    device: str = Field(default="", description="What it ran on, as the worker says; empty if it never said hello.")
    host: str = Field(default="", description="Name of the machine.")
    written_at: str = Field(default_factory=now)


class VideoFacts(Record):
    """What the container says about the picture, before decoding."""

    codec: str
    width: int
    height: int
    frame_rate: Rate
    num_frames: int | None = Field(description="As the container states it; null if it does not.")
    pixel_format: str
    bit_depth: int
    has_alpha: bool
    colour_matrix: str = Field(description="Matrix used for the conversion to RGB.")
    colour_range: Literal["limited", "full"]
    colour_tagged: bool = Field(description="False if the matrix is our default, not the file's tag.")
    rotation_degrees: int = 0


class AudioFacts(Record):
    """What the container says about the sound."""

    codec: str
    rate_hz: int
    num_channels: int
    duration_seconds: Finite | None


class DecodedFacts(Record):
    """What one full decode found."""

    num_frames: int
    duration_seconds: Finite
    variable_frame_rate: bool
    pixels_digest: str = Field(description="xxh3-128 of size and RGB bytes of every frame, after colour conversion.")
    audio_seconds: Finite | None = None
    waveform: tuple[Finite, ...] = Field(default=(), description="Peak level per `waveform_seconds`, 0 to 1.")
    waveform_seconds: Finite = 0.1


class Problem(Record):
    """Why a clip or an output has no value."""

    status: Literal["unscorable", "failed", "skipped"]
    reason: str
    message: str


class ClipRecord(Record):
    """One file of one system, as found by the last scan."""

    schema_version: int = SCHEMA_VERSION
    clip_key: str
    system: str
    item: str
    tier: Tier
    identity: str
    path: str
    size_bytes: int
    modified_ns: int
    sha256: str
    sidecar_sha256: str | None = None
    problem: Problem | None = Field(default=None, description="Set if the file cannot be used at all.")
    video: VideoFacts | None = None
    audio: AudioFacts | None = None
    decoded: DecodedFacts | None = None
    notes: tuple[str, ...] = Field(default=(), description="What a reader should know: rotated, variable rate, 10-bit.")
    written_at: str = Field(default_factory=now)


class Windows(Record):
    """A metric along the clip, for drift curves: entry i covers [i, i+1) x `seconds`."""

    seconds: Finite
    values: tuple[Finite | None, ...]


class ScoreRow(Record):
    """One number about one clip, or the reason why there is none."""

    schema_version: int = SCHEMA_VERSION
    score_key: str
    clip_key: str
    item: str
    system: str
    tier: Tier
    identity: str
    metric: str
    metric_version: str
    params: str = Field(description="Digest of the runner's parameters.")
    output: str
    value: Finite | None
    unit: str
    status: Status
    reason: str | None = None
    message: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    windows: Windows | None = None
    weights: dict[str, str] = Field(default_factory=dict, description="Weight file -> sha256.")
    weights_kind: Literal["none", "released", "unverified", "mini-domain"] = "none"
    clip_sha256: str
    pixels_digest: str | None = None
    env: str
    device: str
    seconds: Finite = Field(description="Wall time of the pass over the clip, shared by all its rows.")
    reused_from: str | None = Field(default=None, description="Run whose row this is a copy of.")
    written_at: str = Field(default_factory=now)

    def model_post_init(self, _context: Any) -> None:
        """Refuse a value without `ok` and `ok` without a value."""
        if (self.value is None) == (self.status == "ok"):
            raise ValueError(f"{self.output}: status {self.status!r} with value {self.value!r}")


class SystemRecord(Record):
    """A system that takes part in a run."""

    schema_version: int = SCHEMA_VERSION
    name: str
    kind: Literal["folder", "generated"]
    path: str
    description: str = ""
    caution: str = Field(default="", description="A footnote wherever it stands in a table.")
    tiers: tuple[Tier, ...] | None = Field(default=None, description="Tiers it takes part in; null for all.")
    joined_ns: int = Field(default_factory=time.time_ns, description="Order of joining, which is the order of tables.")

    def takes_part(self, tier: Tier) -> bool:
        """Tell whether clips of this tier are expected of the system."""
        return self.tiers is None or tier in self.tiers


class RunRecord(Record):
    """`run.json`: what the run is about. Written once."""

    schema_version: int = SCHEMA_VERSION
    suite: Suite
    created_at: str = Field(default_factory=now)


class SessionRecord(Record):
    """One invocation that added something to a run: configuration as given, and provenance."""

    schema_version: int = SCHEMA_VERSION
    command: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    started_at: str
    ended_at: str | None = None
    outcome: str = "running"


class Durations(Record):
    """How long one thing took, again and again."""

    count: int = Field(ge=0, description="How often it was measured; 0 for a prediction.")
    mean_seconds: Finite
    p50_seconds: Finite
    p90_seconds: Finite | None = Field(
        default=None, description="Null where too few were taken (speed/scenarios.yaml)."
    )
    p99_seconds: Finite | None = None


class Startup(Record):
    """What happens once."""

    load_seconds: Finite = Field(description="Building the network and reading its weights.")
    stream_seconds: Finite = Field(description="From a new picture to a stream that waits for sound, warm.")
    cold_seconds: Finite = Field(description="First chunk of the process: compilation, kernel choice, allocation.")
    first_frame_seconds: Finite = Field(
        description="From handing over the first chunk's sound to its first frame on the host, warm; in real time the "
        "sound itself takes as long as the chunk plays before that."
    )


class ProfileRecord(Record):
    """Where a system spends its time, in one configuration: a row of Table 4, a bar of Figure 6."""

    schema_version: int = SCHEMA_VERSION
    system: str
    recipe: str
    origin: Literal["measured", "predicted"]
    basis: dict[str, str] = Field(default_factory=dict, description="Component -> what a predicted value rests on.")
    num_processes: int = Field(gt=0, description="One per GPU.")
    ulysses: int = Field(gt=0)
    ring: int = Field(gt=0)
    vae: str = Field(description="How the autoencoder is split: exact, tiled, off.")
    compiled: bool
    device_kind: Literal["cpu", "cuda"]
    device: str
    dtype: str
    attention: str = Field(description="Kernel that was chosen.")
    weights_kind: Literal["released", "unverified", "random", "mini-domain"]
    height: int
    width: int
    frame_rate: Rate
    chunk_frames: int = Field(gt=0, description="New frames per cycle.")
    num_steps: int = Field(gt=0, description="Network evaluations per cycle; `dit_step` counts that often in it.")
    components: dict[str, Durations] = Field(description="audio, dit_step, decode, encode, color, copy, rest.")
    cycle: Durations
    fps: Finite = Field(description="New frames per cycle over the median cycle.")
    real_time_factor: Finite
    missed_deadlines: Finite | None = Field(description="Share of cycles longer than their frames play.")
    startup: Startup | None = None
    peak_memory_bytes: int | None = Field(default=None, description="Of the first process.")
    power_watts: Finite | None = Field(default=None, description="Mean over the steady cycles, all GPUs together.")
    power_limit_watts: Finite | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
    written_at: str = Field(default_factory=now)
