"""Trains the tiny speech encoder to tell the mouth's shape: what pre-training on a language does for the released one.

Its features of every layer are what the transformer hears; the linear layer that told the shape is thrown away.
Legend: T frames, V numbers of a mouth's shape, N samples, L layers, C channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from talkbench.progress import Progress

from .. import initial
from ..conditioning.audio import RATE_HZ, SpeechEncoder
from ..config import SpeechConfig
from ..loudness import normalise
from .world import Clip

_log = logging.getLogger(__name__)

CLIPS_PER_STEP, PEAK_RATE = 6, 2e-3


def train(
    config: SpeechConfig, clips: Sequence[Clip], *, steps: int, loudness_lufs: float, progress: Progress
) -> SpeechEncoder:
    """Return a trained encoder, frozen.

    Args:
        config: Its sizes.
        clips: To learn from.
        steps: Optimiser steps of six clips.
        loudness_lufs: What sound is brought to before it is encoded.
        progress: Told about every step.
    """
    encoder = initial.made(partial(SpeechEncoder, config), 0, torch.device("cpu"), torch.float32).requires_grad_(True)
    torch.manual_seed(0)
    tell = nn.Linear(config.dim * config.num_layers, clips[0].shapes_TV.shape[1])
    learned = [*encoder.parameters(), *tell.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(0)
    recent: list[float] = []
    progress.start("speech encoder", steps)
    for step in range(steps):
        chosen = [clips[number] for number in rng.integers(len(clips), size=CLIPS_PER_STEP)]
        loss = torch.stack([_loss(encoder, tell, clip, loudness_lufs) for clip in chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
        recent.append(float(loss.detach()))
        progress.step(f"speech encoder {step + 1}")
        if (step + 1) % 50 == 0:
            _log.info("speech encoder %d: squared error %.4f of the spread", step + 1, np.mean(recent[-50:]))
    progress.finish()
    return encoder.requires_grad_(False).eval()


def _loss(encoder: SpeechEncoder, tell: nn.Linear, clip: Clip, loudness_lufs: float) -> Tensor:
    """Return the squared error relative to the variance of each number over speech."""
    features_TLC = encoder.features(normalise(clip.sound_N, RATE_HZ, loudness_lufs))
    shapes_TV = torch.from_numpy(clip.shapes_TV)[: len(features_TLC)]
    told_TV = tell(features_TLC[: len(shapes_TV)].flatten(1))
    spread_V = shapes_TV.var(0).clamp_min(1e-2)
    loss: Tensor = ((told_TV - shapes_TV).square() / spread_V).mean()
    return loss
