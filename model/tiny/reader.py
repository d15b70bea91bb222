"""A small network that reads the mouth's shape off a drawn face: the measure of lip sync where the truth is known.

It looks at 24x24 pixels around the mouth at rest, learnt from drawn frames that went through the autoencoder, so that a
generated frame is no worse to read than a true one. What it says of true frames bounds what it can say of others.

Legend: T frames, V numbers of a mouth's shape, B batch, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from talkbench.progress import Progress

from .world import Clip

SIDE, VIEW = 24, 0.5
"""Pixels of what is looked at, and its size in head heights."""
CLIPS_PER_STEP, FRAMES_PER_CLIP, PEAK_RATE = 16, 8, 3e-3

Mouth = tuple[float, float, float]


class MouthReader(nn.Module):
    """Frames around a mouth to opening, width, rounding, teeth and tongue."""

    def __init__(self, shapes: int = 5, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.GELU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(4 * width * (SIDE // 8) ** 2, 64), nn.GELU(), nn.Linear(64, shapes),
        )  # fmt: skip

    def forward(self, views_TCHW: Tensor) -> Tensor:
        """Return `[T, V]` of views in [-1, 1]."""
        read_TV: Tensor = self.net(views_TCHW)
        return read_TV

    @torch.no_grad()
    def read(self, frames_THWC: NDArray[np.uint8], mouth: Mouth) -> NDArray[np.float32]:
        """Return the mouth's shapes `[T, V]` in frames of a face whose mouth at rest is known."""
        shapes_TV: NDArray[np.float32] = self(views(frames_THWC, mouth)).numpy()
        return shapes_TV


def views(frames_THWC: NDArray[np.uint8], mouth: Mouth) -> Tensor:
    """Return what surrounds the mouth, `[T, 3, 24, 24]` in [-1, 1]."""
    x, y, height = mouth
    half = VIEW * height / 2
    box = (x - half, y - half, x + half, y + half)
    how = (Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
    cut = [np.asarray(Image.fromarray(frame).transform((SIDE, SIDE), *how)) for frame in frames_THWC]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(clips: Sequence[Clip], *, steps: int, progress: Progress) -> MouthReader:
    """Return a trained reader, frozen.

    Args:
        clips: Whose frames went through the autoencoder.
        steps: Optimiser steps of 128 frames.
        progress: Told about every step.
    """
    torch.manual_seed(0)
    reader = MouthReader()
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    progress.start("mouth reader", steps)
    for step in range(steps):
        seen, wanted = [], []
        for number in rng.integers(len(clips), size=CLIPS_PER_STEP):
            clip = clips[number]
            at = rng.integers(len(clip.frames_THWC), size=FRAMES_PER_CLIP)
            seen.append(views(clip.frames_THWC[at], clip.mouth))
            wanted.append(torch.from_numpy(clip.shapes_TV[at]))
        loss = nn.functional.mse_loss(reader(torch.cat(seen)), torch.cat(wanted))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.step(f"mouth reader {step + 1}")
    progress.finish()
    return reader.requires_grad_(False).eval()
