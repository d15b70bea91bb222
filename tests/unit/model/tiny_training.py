"""Networks, an autoencoder and samples so small that a training step takes milliseconds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import initial
from model.conditioning import audio, image, text
from model.config import (
    AudioTokensConfig,
    ComputeConfig,
    DiTConfig,
    ImageEncoderConfig,
    Recipe,
    SpeechConfig,
    StreamConfig,
    TextConfig,
    VAEConfig,
)
from model.data.sample import Sample
from model.dit import DiT
from model.pipeline import Encoders
from model.training.conditions import Velocity
from model.training.config import DistillConfig, SftConfig, TrainRecipe
from model.vae import VAE

CPU = torch.device("cpu")
MODEL = Recipe(
    name="test",
    description="5 latent frames of 2x2, two blocks",
    dit=DiTConfig(
        dim=16, num_heads=2, num_layers=2, ffn_dim=16, freq_dim=16, text_len=4, text_dim=8, image_dim=8,
        audio=AudioTokensConfig(num_layers=1, channels=8, hidden=8, tokens=2, dim=8),
    ),
    vae=VAEConfig(base_dim=4, num_res_blocks=1),
    text=TextConfig(
        vocab_size=384, dim=8, attention_dim=8, num_heads=2, ffn_dim=8, num_layers=1, max_tokens=4, tokenizer="bytes"
    ),
    image=ImageEncoderConfig(dim=8, num_heads=2, num_layers=2, ffn_dim=8, image_size=28),
    speech=SpeechConfig(
        dim=8, num_layers=1, num_heads=2, ffn_dim=8, conv_channels=8, position_kernel=4, position_groups=2
    ),
    stream=StreamConfig(height=16, width=16, clip_frames=17),
    compute=ComputeConfig(dtype="float64", decode_groups=(1,) * 5),
    weights_seed=0,
)  # fmt: skip


def train_recipe(stage: SftConfig | DistillConfig, seed: int = 0) -> TrainRecipe:
    """Return a recipe in float64."""
    return TrainRecipe("test", "for tests", MODEL, stage, seed=seed, precision="float64", checkpoint_activations=False)


def distillation(**changes: Any) -> TrainRecipe:
    """Return a recipe of stage 2."""
    return train_recipe(replace(DistillConfig(), **changes))


def velocity(seed: int, *, trained: bool = True) -> Velocity:
    """Return a network of seeded random numbers, float64."""
    dit = initial.made(partial(DiT, MODEL.dit), seed, CPU, torch.float64)
    return Velocity(dit.requires_grad_(trained))


def parts() -> dict[str, Any]:
    """Return an autoencoder and encoders of seeded random numbers, by the names of their arguments."""
    tokenizer = text.tokenizer(MODEL.text, Path())
    return {
        "vae": initial.made(partial(VAE, MODEL.vae), 0, CPU, torch.float64),
        "speech": initial.made(partial(audio.SpeechEncoder, MODEL.speech), 0, CPU, torch.float32),
        "text": initial.made(partial(text.TextEncoder, MODEL.text, tokenizer), 0, CPU, torch.float64),
        "image": initial.made(partial(image.ImageEncoder, MODEL.image), 0, CPU, torch.float32),
    }


def encoders() -> Encoders:
    """Return them as the training takes them."""
    return Encoders(MODEL, CPU, **parts())


def normal(*shape: int, seed: int) -> Tensor:
    """Return seeded standard normal numbers, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sample(name: str = "clip-a", chunks: int = 5, seed: int = 0) -> Sample:
    """Return a sample of seeded random numbers."""
    latents, frames = MODEL.latent_shape, MODEL.stream.clip_frames + MODEL.dit.audio.window // 2
    return Sample(
        id=name,
        latents_CThw=normal(*latents, seed=seed),
        motion_KCThw=normal(chunks, latents[0], 2, *latents[2:], seed=seed + 1),
        reference_CThw=normal(*latents, seed=seed + 2),
        image_MC=normal(MODEL.image.num_tokens, MODEL.image.dim, seed=seed + 3),
        text_LC=normal(3, MODEL.text.dim, seed=seed + 4),
        speech_KFLC=normal(chunks, frames, MODEL.speech.num_layers, MODEL.speech.dim, seed=seed + 5),
    )


def null_text() -> Tensor:
    """Return the embedding of a negative prompt."""
    return normal(2, MODEL.text.dim, seed=99)
