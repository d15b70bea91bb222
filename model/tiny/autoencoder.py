"""Trains the tiny video autoencoder: on pictures first, then on video, from the picture network stretched over time.

The mouth counts more than the rest: it is a few pixels of the picture and all of what the sound decides. Noise on the
latents keeps neighbouring codes alike, as the sampling of a variational autoencoder does. In the end the latents are
brought to the mean and spread that the released autoencoder's constants expect.

Legend: B batch, C channels, F T frames, H W pixels, h w latent rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from talkbench.progress import Progress

from .. import initial
from ..config import VAEConfig
from ..vae import LATENT_MEAN, LATENT_STD, VAE, WHOLE
from ..vae_layers import Attention, CausalConv3d, Doubling, Halving, Residual
from .world import SIDE, Clip

_log = logging.getLogger(__name__)

PICTURES, VIDEO = (24, 1), (4, 9)
"""Batch and frames of a step."""
PEAK_RATE = {"pictures": 3e-3, "video": 1.5e-3}
MOUTH_WEIGHT, MOUTH_RADIUS = 8.0, 0.16
"""How much more the middle of the mouth counts, and the radius of that in head heights."""
EDGE_WEIGHT = 0.5
LATENT_NOISE = 0.1
"""Relative to the latents' own spread."""


def train(config: VAEConfig, clips: Sequence[Clip], *, picture_steps: int, video_steps: int, progress: Progress) -> VAE:
    """Return a trained autoencoder, frozen.

    Args:
        config: Its sizes.
        clips: To learn from.
        picture_steps: Optimiser steps on single frames.
        video_steps: Optimiser steps on nine frames.
        progress: Told about every step.
    """
    vae = initial.made(partial(VAE, config), 0, torch.device("cpu"), torch.float32).train().requires_grad_(True)
    _quieten(vae)
    _stretch_over_time(vae)
    vae.channels_last()
    progress.start("autoencoder", picture_steps + video_steps)
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    for phase, steps, (batch, frames) in (("pictures", picture_steps, PICTURES), ("video", video_steps, VIDEO)):
        optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE[phase], betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE[phase], total_steps=steps, pct_start=0.1)
        recent: list[float] = []
        for step in range(steps):
            video_BCFHW, weight_B1FHW = _batch(clips, batch, frames, rng)
            loss = _loss(vae, video_BCFHW, weight_B1FHW, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            recent.append(float(loss.detach()))
            progress.step(f"{phase} {step + 1}")
            if (step + 1) % 50 == 0:
                _log.info("%s %d: loss %.4f", phase, step + 1, np.mean(recent[-50:]))
    progress.finish()
    vae.requires_grad_(False).eval()
    _standardise(vae, clips, rng)
    return vae


def _loss(vae: VAE, video_BCFHW: Tensor, weight_B1FHW: Tensor, generator: torch.Generator) -> Tensor:
    raw_BCThw = _encode_raw(vae, video_BCFHW)
    spread = raw_BCThw.detach().std()
    noise_BCThw = torch.randn(raw_BCThw.shape, generator=generator)
    made_BCFHW = _decode_raw(vae, raw_BCThw + LATENT_NOISE * spread * noise_BCThw)
    loss = ((made_BCFHW - video_BCFHW).abs() * weight_B1FHW).mean()
    for axis in (-2, -1):
        edges = made_BCFHW.diff(dim=axis) - video_BCFHW.diff(dim=axis)
        loss = loss + EDGE_WEIGHT * (edges.abs() * weight_B1FHW.narrow(axis, 1, SIDE - 1)).mean()
    # Nothing else keeps the latents from growing until the noise on them means nothing.
    return loss + 1e-3 * raw_BCThw.square().mean()


def _encode_raw(vae: VAE, video_BCFHW: Tensor) -> Tensor:
    """Return the mean before its normalisation."""
    video_BCFHW = video_BCFHW.contiguous(memory_format=torch.channels_last_3d)
    head, history = vae.encoder(video_BCFHW[:, :, :1], None, WHOLE)
    parts = [head]
    if video_BCFHW.shape[2] > 1:
        parts.append(vae.encoder(video_BCFHW[:, :, 1:], history, WHOLE)[0])
    return vae.conv1(torch.cat(parts, 2)).chunk(2, 1)[0]


def _decode_raw(vae: VAE, raw_BCThw: Tensor) -> Tensor:
    z_BCThw = vae.conv2(raw_BCThw).contiguous(memory_format=torch.channels_last_3d)
    head, history = vae.decoder(z_BCThw[:, :, :1], None, WHOLE)
    parts = [head]
    if z_BCThw.shape[2] > 1:
        parts.append(vae.decoder(z_BCThw[:, :, 1:], history, WHOLE)[0])
    return torch.cat(parts, 2)


def _batch(clips: Sequence[Clip], batch: int, frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return video in [-1, 1] and how much each pixel counts."""
    chosen = [clips[number] for number in rng.integers(len(clips), size=batch)]
    starts = [int(rng.integers(len(clip.frames_THWC) - frames + 1)) for clip in chosen]
    pixels = [clip.frames_THWC[start : start + frames] for clip, start in zip(chosen, starts, strict=True)]
    video = torch.from_numpy(np.stack(pixels)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    if rng.random() < 0.5:
        return video.flip(-1), torch.stack([_weight(clip).flip(-1) for clip in chosen])[:, None, None]
    return video, torch.stack([_weight(clip) for clip in chosen])[:, None, None]


def _weight(clip: Clip) -> Tensor:
    x, y, height = clip.mouth
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    squared = ((columns - x) ** 2 + (rows - y) ** 2) / (MOUTH_RADIUS * height) ** 2
    weight: Tensor = 1 + MOUTH_WEIGHT * torch.exp(-squared / 2)
    return weight / weight.mean()


@torch.no_grad()
def _quieten(vae: VAE) -> None:
    """Have every residual layer add nothing at first: a deep network learns sooner so."""
    for module in vae.modules():
        if isinstance(module, Residual):
            module.get_submodule("residual.6").weight.zero_()  # type: ignore[operator]
        if isinstance(module, Attention):
            module.proj.weight.zero_()


@torch.no_grad()
def _stretch_over_time(vae: VAE) -> None:
    """Make video what pictures are: every frame by itself, halved by taking one of two, doubled by repeating it."""
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            module.weight[:, :, :2] = 0
        if isinstance(module, Halving | Doubling) and module.time_conv is not None:
            conv = module.time_conv
            conv.weight.zero_()
            conv.bias.zero_()  # type: ignore[union-attr]
            identity = torch.eye(conv.in_channels).repeat(conv.out_channels // conv.in_channels, 1)
            conv.weight[:, :, 2, 0, 0] = identity


@torch.no_grad()
def _standardise(vae: VAE, clips: Sequence[Clip], rng: np.random.Generator) -> None:
    """Give the latents the mean and spread per channel that `VAE.encode` takes for granted."""
    raw = torch.cat([_encode_raw(vae, _batch(clips, *VIDEO, rng)[0]) for _ in range(24)])
    mean_C, std_C = raw.mean((0, 2, 3, 4)), raw.std((0, 2, 3, 4))
    scale_C = torch.tensor(LATENT_STD) / std_C
    shift_C = torch.tensor(LATENT_MEAN) - mean_C * scale_C
    channels = len(scale_C)
    vae.conv1.weight[:channels] *= scale_C.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:channels] = vae.conv1.bias[:channels] * scale_C + shift_C  # type: ignore[index]
    matrix = vae.conv2.weight[:, :, 0, 0, 0]
    vae.conv2.bias -= matrix @ (shift_C / scale_C)  # type: ignore[operator]
    vae.conv2.weight /= scale_C.view(1, -1, 1, 1, 1)
