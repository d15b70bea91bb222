"""The contract of a metric runner, and the registry of runners.

A runner receives a clip as it is decoded, batch by batch, and never holds it. It knows nothing of files, folders or
other runners. What it returns may not depend on how the clip was cut into batches; a contract test feeds every
registered runner 1, 7 and 64 frames at a time.

    class Sharpness(Runner):
        name, version = "toy/sharpness", "1"
        outputs = (Output("toy.sharpness", "Sharpness", better="higher", bounds=(0.0, None)),)
        needs = Needs()

        def start(self, clip): self._terms = Terms()
        def update(self, batch): self._terms.add(batch.frames_THWC.std(axis=(1, 2, 3)), batch.seconds_T)
        def finish(self): return Scores({"toy.sharpness": self._terms.mean()}, series={"toy.sharpness": self._terms})

Registered by an entry point: ``[project.entry-points."talkbench.metrics"] "toy/sharpness" = "toy:Sharpness"``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.ids import digest
from talkbench.media.clip import ClipFacts, FrameBatch, Samples
from talkbench.metrics.series import Terms
from talkbench.registry import Registry, suggest
from talkbench.schema import Better
from talkbench.weights.catalog import WeightFile, WeightsKind

BUILTIN = {
    "flicker": "talkbench.metrics.flicker:FlickerRunner",
    "motion": "talkbench.metrics.motion:MotionRunner",
    "speed": "talkbench.metrics.speed:SpeedRunner",
    "av": "talkbench.metrics.av:AvRunner",
    "subject": "talkbench.metrics.consistency:SubjectRunner",
    "background": "talkbench.metrics.consistency:BackgroundRunner",
    "smoothness": "talkbench.metrics.smoothness:SmoothnessRunner",
    "sync": "talkbench.metrics.sync:SyncRunner",
    "sync_frame": "talkbench.metrics.sync_frame:SyncFrameRunner",
    "sync_official": "talkbench.metrics.sync_official:SyncOfficialRunner",
    "qalign": "talkbench.metrics.quality:QAlignRunner",
}
GROUPS = {
    "vbench": ("subject", "background", "smoothness", "flicker"),
    "sync": ("sync", "sync_frame"),
    "sync_direct": ("sync",),
}
"""Names that stand for other runners than one of that name; ``all`` stands for every registered one."""

RUNNERS = Registry("metric", BUILTIN, "talkbench.metrics", "talkbench score --help")


@dataclass(frozen=True)
class Output:
    """One number a runner produces, with all that tables and plots need to know about it.

    Attributes:
        id: Dotted name in rows: ``vbench.temporal_flickering``.
        label: Column head.
        unit: Of the stored value; ``1`` for a pure number.
        better: Direction; None if neither is better (amount of motion).
        bounds: Least and greatest possible value, None where open; the worst one stands for missing rows.
        scale: Factor for display only; papers print consistencies x 100.
        digits: Decimals in tables, after scaling.
        series: Whether the runner gives a series of terms over time, from which windows and drift are derived.
        sampled: Whether that series has far fewer terms than frames, so that it cannot show seams between chunks.
        rewards_stillness: Whether a still image gets the best value: systems that stand still get no rank in it.
        description: One sentence for tooltips and `--help`.
    """

    id: str
    label: str
    unit: str = "1"
    better: Better | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    scale: float = 1.0
    digits: int = 2
    series: bool = False
    sampled: bool = False
    rewards_stillness: bool = False
    description: str = ""

    def scored_with(self, kind: WeightsKind | Literal["none"]) -> Output:
        """Return this output as scored with weights of a kind: any but released ones give an output of its own.

        So no table, plot or comparison can put `sync.confidence` beside `sync.confidence@mini-domain`.
        """
        if kind in {"none", "released"}:
            return self
        return replace(
            self,
            id=f"{self.id}@{kind}",
            label=f"{self.label} ({kind})",
            description=f"{self.description} Scored with {kind} weights: not comparable with published scores.",
        )


def declared_id(output_id: str) -> str:
    """Return the id under which a runner declares an output, whatever weights it was scored with."""
    return output_id.partition("@")[0]


def as_scored(outputs: Iterable[Output], needs: Needs) -> tuple[Output, ...]:
    """Return every output that rows can hold: each as declared, and as scored with weights that are not released."""
    kinds = get_args(WeightsKind) if needs.weights else ()
    return tuple(dict.fromkeys(made for output in outputs for made in (output, *map(output.scored_with, kinds))))


@dataclass(frozen=True)
class Needs:
    """What a runner wants to be given.

    Attributes:
        frames: Whether it looks at pixels at all.
        frame_rate: Rate to which frames are converted (see `media.decode.RateConverter`); None for the file's own.
        audio_rate_hz: Sample rate of the sound it hears; None if deaf.
        truth: Whether it reads the ground truth of a synthetic clip.
        timing: Whether it reads the timing events of the system.
        file: Whether it hands the file itself to another program; its pixels are then not the shared ones.
        weights: Names in the weight catalog (`talkbench weights list`).
    """

    frames: bool = True
    frame_rate: Fraction | None = None
    audio_rate_hz: int | None = None
    truth: bool = False
    timing: bool = False
    file: bool = False
    weights: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoParams:
    """For runners without parameters."""


@dataclass(frozen=True)
class Context:
    """Where a runner computes.

    Attributes:
        device: ``cpu``, ``cuda``, ``cuda:1``.
        threads: CPU threads a network may use; None for all.
        weights: Weight name -> file, for every name in the runner's `needs.weights`.
    """

    device: str = "cpu"
    threads: int | None = None
    weights: Mapping[str, WeightFile] = field(default_factory=dict)


@dataclass
class Scores:
    """What a runner found in one clip.

    Attributes:
        values: Output id -> value.
        missing: Output id -> why it has no value though the others have.
        details: Whatever helps to understand the values; JSON.
        series: Output id -> per-frame terms, in the unit and direction of the output.
    """

    values: dict[str, float]
    missing: dict[str, Unscorable] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Terms] = field(default_factory=dict)


class Runner(ABC):
    """Base of all runners. One instance scores many clips, one after the other: `start` resets it."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Bumped whenever a published number can move; enters every score key."""
    outputs: ClassVar[tuple[Output, ...]]
    needs: ClassVar[Needs]
    params_type: ClassVar[type] = NoParams
    """A frozen dataclass with cited defaults; its digest enters every score key."""

    def __init__(self, params: Any = None, context: Context = Context()) -> None:
        self.params = self.params_type() if params is None else params
        self.context = context

    @abstractmethod
    def start(self, clip: ClipFacts) -> None:
        """Begin a clip.

        Raises:
            Unscorable: If the facts alone rule the clip out.
        """

    def update(self, batch: FrameBatch) -> None:  # noqa: B027 - runners that need no frames leave it
        """Take the next frames, in order, in batches of any size."""

    def hear(self, samples_N: Samples, first_sample: int) -> None:  # noqa: B027 - deaf runners leave it
        """Take the next sound at `needs.audio_rate_hz`; sample 0 belongs to the time of frame 0."""

    def end_sound(self) -> None:  # noqa: B027 - most runners need not know
        """Take note that no more sound comes, though frames may."""

    @abstractmethod
    def finish(self) -> Scores:
        """Return the scores of the clip.

        Raises:
            Unscorable: If the clip defeats the metric as a whole.
        """


def params_digest(params: Any) -> str:
    """Return the digest under which parameters enter a score key."""
    return digest(
        {name: str(value) if isinstance(value, Fraction) else value for name, value in asdict(params).items()}
    )


def select(names: list[str]) -> tuple[type[Runner], ...]:
    """Return the runner classes that `names` stand for, each once, in registry order.

    Args:
        names: Runner names, group names, or ``all``; each may be a comma-separated list.

    Raises:
        TalkbenchError: If a name is unknown.
    """
    wanted: set[str] = set()
    known = RUNNERS.names()
    for name in [part.strip() for entry in names for part in entry.split(",") if part.strip()]:
        if name == "all":
            wanted.update(known)
        elif name in GROUPS:
            wanted.update(GROUPS[name])
        elif name in known:
            wanted.add(name)
        else:
            raise TalkbenchError(
                f"unknown metric {name!r}.{suggest(name, [*known, *GROUPS, 'all'])} "
                f"Known: {', '.join(known)}; groups: {', '.join(GROUPS)}, all."
            )
    if not wanted:
        raise TalkbenchError(f"no metric chosen. Known: {', '.join(known)}; groups: {', '.join(GROUPS)}, all.")
    return tuple(RUNNERS.get(name) for name in known if name in wanted)
