"""What a training run is, as frozen dataclasses; the defaults are the technical report's where it gives a number.

Source: arXiv 2512.23379, section 3.2; what it leaves open follows the field's public code and is listed in `README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal, get_args

from ..config import Recipe

Precision = Literal["bfloat16", "float32", "float64"]
MotionSource = Literal["predicted", "ground truth"]


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    """Refuse a value by the name of its field."""
    if not holds:
        raise ValueError(f"{name} is {value!r}; expected {expected}")


def _at_least(least: int, **values: float) -> None:
    for name, value in values.items():
        _expect(name, value, least <= value < inf, f"{least} or more")


def _shares(**values: float) -> None:
    for name, value in values.items():
        _expect(name, value, 0 <= value <= 1, "a share between 0 and 1")


def _one_of(kind: object, name: str, value: object) -> None:
    _expect(name, value, value in get_args(kind), " or ".join(get_args(kind)))


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        rate: Constant, or until it falls.
        clip_norm: The gradient's norm is cut to this.
        decay_from: Share of the run after which the rate falls linearly to zero; 1 keeps it constant.

    Raises:
        ValueError: If a value is out of its range; names the field.
    """

    rate: float
    betas: tuple[float, float]
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    decay_from: float = 1.0

    def __post_init__(self) -> None:
        _at_least(0, rate=self.rate, weight_decay=self.weight_decay)
        _expect("betas", self.betas, len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas), "two below 1")
        _expect("clip_norm", self.clip_norm, self.clip_norm > 0, "more than 0")
        _shares(decay_from=self.decay_from)


@dataclass(frozen=True)
class SftConfig:
    """Stage 1: flow matching on clips, given the motion latents before them.

    Attributes:
        batch: Clips per step, over all processes.
        shift: Warps the times towards noise.
        drop_both: Share of clips that are told neither text nor sound, for guidance later.
        drop_text: Share of clips that are told no text.
        motion_latents: How many clean latents a clip starts with, with equal chance.

    Raises:
        ValueError: If a value is out of its range; names the field.
    """

    steps: int = 1000
    batch: int = 32
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(2e-6, (0.9, 0.99)))
    shift: float = 5.0
    drop_both: float = 0.05
    drop_text: float = 0.05
    motion_latents: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        _at_least(1, steps=self.steps, batch=self.batch)
        _expect("shift", self.shift, 0 < self.shift < inf, "more than 0")
        _shares(drop_both=self.drop_both, drop_text=self.drop_text)
        _shares(**{"drop_both + drop_text": self.drop_both + self.drop_text})
        known = self.motion_latents
        _expect("motion_latents", known, bool(known) and min(known, default=0) >= 1, "one or more counts from 1")

    @property
    def optimizers(self) -> tuple[OptimizerConfig, ...]:
        """Those of all networks."""
        return (self.optimizer,)


@dataclass(frozen=True)
class DistillConfig:
    """Stage 2: self-correcting distillation by distribution matching.

    Attributes:
        steps: Updates of the fake score; the generator is updated every `generator_every`-th step.
        chunks: Rolled out per step: ``random`` is uniform on 1 to `max_chunks`.
        text_scale: Guidance of the teacher by text.
        audio_scale: Guidance of the teacher by sound.
        shift: Warps the times at which the scores are compared.
        times: Range of those times.
        motion_source: What a chunk's motion latents are: what the roll-out carried, or the clip's own.
        motion_noise: Whether they are noised with the rest before the scores see them.
        motion_loss: Whether they count in the loss.
        correct_color: Whether frames are brought to the picture's colours between chunks, as at inference.
        motion_alignment: Weight of a loss that pulls motion latents to the teacher's; not in the report.
        background_consistency: Weight of a loss against changes behind the person; not in the report.

    Raises:
        ValueError: If a value is out of its range; names the field.
    """

    steps: int = 200
    batch: int = 32
    generator: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(2e-6, (0.0, 0.999), clip_norm=10.0))
    fake: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(4e-7, (0.0, 0.999), clip_norm=10.0))
    generator_every: int = 5
    chunks: int | Literal["random"] = "random"
    max_chunks: int = 5
    text_scale: float = 5.0
    audio_scale: float = 4.0
    shift: float = 5.0
    times: tuple[float, float] = (0.02, 0.98)
    motion_source: MotionSource = "predicted"
    motion_noise: bool = True
    motion_loss: bool = False
    correct_color: bool = True
    motion_alignment: float = 0.0
    background_consistency: float = 0.0

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "batch": self.batch, "generator_every": self.generator_every}
        _at_least(1, **counts, max_chunks=self.max_chunks)
        _expect("chunks", self.chunks, self.chunks == "random" or self.chunks >= 1, "random, or 1 or more")
        _at_least(0, text_scale=self.text_scale, audio_scale=self.audio_scale)
        _expect("shift", self.shift, 0 < self.shift < inf, "more than 0")
        times = self.times
        _expect("times", times, len(times) == 2 and 0 <= times[0] <= times[-1] <= 1, "two between 0 and 1, in order")
        _one_of(MotionSource, "motion_source", self.motion_source)
        _at_least(0, motion_alignment=self.motion_alignment, background_consistency=self.background_consistency)

    @property
    def optimizers(self) -> tuple[OptimizerConfig, ...]:
        """Those of all networks."""
        return (self.generator, self.fake)


@dataclass(frozen=True)
class TrainRecipe:
    """A complete training run.

    Attributes:
        model: Network, autoencoder and encoders.
        stage: What is learnt.
        seed: Of everything that is drawn.
        save_every: Steps between checkpoints.
        keep_last: Checkpoints that are kept.
        precision: Of the forward and backward passes; weights and moments are float32 or better.
        checkpoint_activations: Recompute each block in the backward pass instead of keeping what it made.
        offload: Keep sharded weights and moments in host memory.
        ema_decay: Of the averaged weights, which follow every update of the generator; none are kept without one.
            In stage 2 that is every `generator_every`-th step.
        compile: `torch.compile` per block.

    Raises:
        ValueError: If a value is out of its range; names the field.
    """

    name: str
    description: str
    model: Recipe
    stage: SftConfig | DistillConfig
    seed: int = 0
    save_every: int = 100
    keep_last: int = 2
    precision: Precision = "bfloat16"
    checkpoint_activations: bool = True
    offload: bool = False
    ema_decay: float | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        _at_least(0, seed=self.seed)
        _at_least(1, save_every=self.save_every, keep_last=self.keep_last)
        _one_of(Precision, "precision", self.precision)
        if isinstance(self.stage, SftConfig):
            counts, clip = self.stage.motion_latents, self.model.latent_frames
            _expect("stage.motion_latents", counts, max(counts) < clip, f"fewer than the {clip} latents of a clip")
        decay = self.ema_decay
        _expect("ema_decay", decay, decay is None or 0 <= decay < 1, "null, or 0 or more and less than 1")
