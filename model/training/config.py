"""What a training run is, as frozen dataclasses; the defaults are the technical report's where it gives a number.

Source: arXiv 2512.23379, section 3.2; what it leaves open follows the field's public code and is listed in `README.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..config import Recipe

Precision = Literal["bfloat16", "float32", "float64"]


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with a constant rate.

    Attributes:
        clip_norm: The gradient's norm is cut to this.
        decay_from: Share of the run after which the rate falls linearly to zero; 1 keeps it constant.
    """

    rate: float
    betas: tuple[float, float]
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    decay_from: float = 1.0


@dataclass(frozen=True)
class SftConfig:
    """Stage 1: flow matching on clips, given the motion latents before them.

    Attributes:
        batch: Clips per step, over all processes.
        shift: Warps the times towards noise.
        drop_both: Share of clips that are told neither text nor sound, for guidance later.
        drop_text: Share of clips that are told no text.
        motion_latents: How many clean latents a clip starts with, with equal chance.
    """

    steps: int = 1000
    batch: int = 32
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(2e-6, (0.9, 0.99)))
    shift: float = 5.0
    drop_both: float = 0.05
    drop_text: float = 0.05
    motion_latents: tuple[int, ...] = (1, 2)


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
    motion_source: Literal["predicted", "ground truth"] = "predicted"
    motion_noise: bool = True
    motion_loss: bool = False
    correct_color: bool = True
    motion_alignment: float = 0.0
    background_consistency: float = 0.0


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
        ema_decay: Of the averaged weights; none are kept without one.
        compile: `torch.compile` per block.
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
