"""Trains the small SyncNet that ships for talkbench-mini: `python -m talkbench.mini.train_sync --out FILE`.

The architecture of the released SyncNet with an eighth of the channels, on whole frames squeezed to 224x224 (the
`frame` protocol), from clips drawn for it: people and sentences are never those of the suite's items. It learns to
find, among all moments of a clip, the sound that belongs to five frames (InfoNCE, van den Oord et al., 2018, on cosines
of features whose length is held at one value, so that distances tell the same), helped by telling the drawn mouth's
shape from either side and by seeing faces from nearby first. It knows drawn mouths only: its scores mean
nothing on filmed or generated people, and rows scored with it are marked `mini-domain`.

About half an hour on two CPU cores; writes the file every 100 steps.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from talkbench.media.mfcc import mfcc
from talkbench.mini.rig import Layout
from talkbench.mini.suite import FRAME_RATE, GENERATOR_VERSION, Performance
from talkbench.schema import Item

if TYPE_CHECKING:
    from torch import Tensor

    from talkbench.nets.syncnet import SyncNet

_log = logging.getLogger("talkbench.train_sync")

FIRST_SEED = 10_000_000
"""Far from every seed of the suite."""
SECONDS, CLIPS_PER_STEP, SEEN_PER_CLIP, SIDE, CROP_PX = 1.6, 12, 6, 256, 224
NEAREST = 1.3
"""Side of the nearest view, in head heights."""
CHANNEL_DIVISOR = 8
PEAK_RATE, WARM_UP_STEPS, SHAPE_WEIGHT, FEATURE_LENGTH = 2e-3, 30, 10.0, 10.0


@dataclass(frozen=True)
class Clip:
    """One training clip.

    Attributes:
        frames_THWC: RGB, uint8, [T, 256, 256, 3].
        head: Middle column, middle row and height of the head, pixels.
        audio_N: Its speech.
        mouth_TV: The drawn mouth (opening, width, rounding, teeth, tongue), [T, 5].
    """

    frames_THWC: NDArray[np.uint8]
    head: tuple[float, float, float]
    audio_N: NDArray[np.float32]
    mouth_TV: NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """A clip as one step sees it: varied in brightness, contrast, grain and loudness.

    Attributes:
        at_W: Which moments of the clip are seen; all are heard.
        frames_WCTHW: Five frames per moment seen, float32 in 0 to 255, [W, 3, 5, 224, 224].
        windows_NCM: Sound of every moment, float32, [N, 13, 20].
        mouth_NV: The drawn mouth in the middle of every moment, [N, 5].
    """

    at_W: NDArray[np.int64]
    frames_WCTHW: NDArray[np.float32]
    windows_NCM: NDArray[np.float32]
    mouth_NV: NDArray[np.float32]


def draw(seed: int) -> Clip:
    """Draw and voice one training clip of a person of its own."""
    generator = {"name": "mini", "version": GENERATOR_VERSION, "identity_seed": seed}
    generator |= {"height": SIDE, "width": SIDE, "frame_rate": str(FRAME_RATE)}
    name = f"train-{seed}"
    item = Item(id=name, tier="short", identity=name, duration_seconds=SECONDS, seed=seed, generator=generator)
    performance = Performance(item)
    layout = Layout.of(performance.identity, SIDE, SIDE)
    mouth = performance.mouth
    shapes_TV = np.stack([mouth.opening, mouth.width, mouth.rounding, mouth.teeth, mouth.tongue], axis=1)
    return Clip(
        np.stack(list(performance.frames())), (layout.x, layout.y, layout.scale), performance.audio(), shapes_TV
    )


def framed(clip: Clip, share: float) -> NDArray[np.uint8]:
    """Return five-frame pictures seen from near (share 0: the face alone) or as they are (1), BGR, [3, T, 224, 224]."""
    x, y, height = clip.head
    side = share * SIDE + (1 - share) * min(SIDE, NEAREST * height)
    left = float(np.clip((1 - share) * (x - side / 2), 0, SIDE - side))
    top = float(np.clip((1 - share) * (y + 0.15 * height - side / 2), 0, SIDE - side))
    box = (left, top, left + side, top + side)
    size = (CROP_PX, CROP_PX)
    frames = [Image.fromarray(f).resize(size, Image.Resampling.BILINEAR, box=box) for f in clip.frames_THWC]
    return np.ascontiguousarray(np.stack([np.asarray(f) for f in frames])[..., ::-1].transpose(3, 0, 1, 2))


def example(clip: Clip, progress: float, rng: np.random.Generator) -> Example:
    """Choose moments of a clip and vary how it looks and sounds; from nearby at first, as it is in the end."""
    columns = mfcc(clip.audio_N * np.float32(rng.uniform(0.4, 1.3)))
    count = min((len(columns) - 20) // 4 + 1, len(clip.frames_THWC) - 4)
    windows_NCM = np.stack([columns[4 * i : 4 * i + 20].T for i in range(count)])
    at_W = rng.choice(count, SEEN_PER_CLIP, replace=False)
    share = rng.uniform(np.clip(2.5 * progress - 1.25, 0, 1), np.clip(2.5 * progress + 0.1, 0, 1))
    frames_CTHW = framed(clip, share)
    frames_WCTHW = np.stack([frames_CTHW[:, start : start + 5] for start in at_W]).astype(np.float32)
    frames_WCTHW = frames_WCTHW * np.float32(rng.uniform(0.85, 1.1)) + np.float32(rng.uniform(-12, 12))
    frames_WCTHW += rng.standard_normal(frames_WCTHW.shape[1:], np.float32) * np.float32(rng.uniform(0, 3))
    return Example(at_W, np.clip(frames_WCTHW, 0, 255), windows_NCM, clip.mouth_TV[2 : 2 + count])


def loss(lips_WD: Tensor, sounds_ND: Tensor, at_W: Tensor, scale: Tensor) -> Tensor:
    """Return how badly directions within one clip tell which sound belongs to which frames."""
    from torch.nn import functional

    cosines_WN = functional.normalize(lips_WD, dim=1) @ functional.normalize(sounds_ND, dim=1).T
    return functional.cross_entropy(scale.exp() * cosines_WN, at_W)


def off_length(features_ND: Tensor) -> Tensor:
    """Return how far features are from the common length, relative to it."""
    lengths_N: Tensor = features_ND.norm(dim=1) / FEATURE_LENGTH - 1
    return lengths_N.square().mean()


def train(net: SyncNet, bank: list[Clip], num_steps: int, out: Path) -> None:
    """Train in place and save as it goes."""
    import torch
    from torch.nn.functional import mse_loss

    scale = torch.nn.Parameter(torch.tensor(2.3))
    tell_lips, tell_sound = (torch.nn.Linear(net.num_features, 5) for _ in range(2))
    net.netcnnlip.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    learned = [*net.parameters(), *tell_lips.parameters(), *tell_sound.parameters(), scale]
    optimizer = torch.optim.AdamW(learned, lr=PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, total_steps=num_steps, pct_start=min(0.3, WARM_UP_STEPS / num_steps)
    )
    recent: list[tuple[float, float]] = []
    rng = np.random.default_rng(0)
    for step in range(num_steps):
        chosen = rng.choice(len(bank), CLIPS_PER_STEP, replace=False)
        clips = [example(bank[number], step / num_steps, rng) for number in chosen]
        optimizer.zero_grad()
        # Normalisation statistics are taken over all clips: each alone would give away its own speaker.
        lips = _lips(net, clips).split(SEEN_PER_CLIP)
        count = len(clips[0].windows_NCM)
        sounds = net.audio_features(torch.from_numpy(np.concatenate([c.windows_NCM for c in clips]))).split(count)
        at = [torch.from_numpy(clip.at_W) for clip in clips]
        contrast = torch.stack([loss(*each, scale) for each in zip(lips, sounds, at, strict=True)]).mean()
        mouths = [torch.from_numpy(clip.mouth_NV) for clip in clips]
        seen = torch.cat([mouth[moments] for mouth, moments in zip(mouths, at, strict=True)])
        shape = mse_loss(tell_lips(torch.cat(lips)), seen) + mse_loss(tell_sound(torch.cat(sounds)), torch.cat(mouths))
        length = off_length(torch.cat(lips)) + off_length(torch.cat(sounds))
        (contrast + SHAPE_WEIGHT * shape + length).backward()
        torch.nn.utils.clip_grad_norm_(learned, 5.0)
        optimizer.step()
        schedule.step()
        recent.append((float(contrast.detach()), float(shape.detach())))
        if (step + 1) % 20 == 0:
            found = np.mean(recent[-20:], axis=0)
            _log.info("step %d: contrast %.3f (chance %.3f), shape %.4f", step + 1, found[0], np.log(count), found[1])
        if (step + 1) % 100 == 0 or step + 1 == num_steps:
            torch.save({name: value.contiguous() for name, value in net.state_dict().items()}, out)


def _lips(net: SyncNet, clips: list[Example]) -> Tensor:
    """Return lip features of the moments seen in several clips, one clip after the other, [B W, D]."""
    import torch

    frames_NCTHW = torch.from_numpy(np.concatenate([clip.frames_WCTHW for clip in clips]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lips_NC = net.netcnnlip(frames_NCTHW.to(memory_format=torch.channels_last_3d)).flatten(1)
    features: Tensor = net.netfclip(lips_NC.float())
    return features


def _draw_all(num_clips: int, num_drawers: int) -> list[Clip]:
    clips = []
    with multiprocessing.get_context("spawn").Pool(num_drawers) as pool:
        for clip in pool.imap(draw, range(FIRST_SEED, FIRST_SEED + num_clips)):
            clips.append(clip)
            if len(clips) % 20 == 0:
                _log.info("%d of %d clips drawn", len(clips), num_clips)
    return clips


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write the weights, e.g. syncnet_mini.model")
    parser.add_argument("--steps", type=int, default=900, help="optimiser steps of 12 clips")
    parser.add_argument("--clips", type=int, default=300, help="clips to draw first; 7 MB of memory each")
    parser.add_argument("--drawers", type=int, default=2, help="processes that draw them")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    import torch

    from talkbench.nets.syncnet import SyncNet

    torch.manual_seed(0)
    train(SyncNet(CHANNEL_DIVISOR), _draw_all(options.clips, options.drawers), options.steps, options.out)


if __name__ == "__main__":
    main()
