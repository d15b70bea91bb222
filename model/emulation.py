"""One rank of GPUs that are not there, measured on one that is: what is left to predict is the exchange.

The network runs on its share of the tokens and heads with the exchange replaced by a local permutation, the autoencoder
on its share of the rows without their borders. Nothing it computes means anything but the time it took.

Legend: B batch, C channels, F frames, H W pixels, T latent frames, h w latent rows and columns, P speakers,
W window, L layers.
"""

from __future__ import annotations

import statistics
from math import ceil
from typing import Any

import torch

from . import flow, predict
from .parallel.emulate import EmulatedRank
from .pipeline import Model
from .profile import configured, facts
from .stand_in import picture_of
from .timing import Timeline

REPEATS = 10
"""Of four steps, a decode and an encode, after warm-up."""
RANK = "one rank measured on one GPU, the exchange predicted"
LEVEL = "measured on one GPU, no GPU count changes it"


def predicted(model: Model, num_gpus: int, single: dict[str, Any], warmup: int) -> dict[str, Any]:
    """Return a prediction for `num_gpus` such GPUs: one rank measured here, exchange and borders from the model.

    Args:
        model: On one GPU; left as it was.
        num_gpus: Must divide the heads.
        single: Its measurement on this one GPU.
        warmup: Repetitions left out.

    Raises:
        TalkbenchError: If there is no data sheet of this GPU.
    """
    recipe = configured(model.recipe.name, num_gpus, compiled=model.recipe.compute.compile)
    sheet = predict.device_named(single["device"])
    rank = one_rank(model, num_gpus, warmup)
    known = {name: statistics.median(seconds) for name, seconds in (single["sections"] | rank).items()}
    seconds = predict.cycle(recipe, sheet, compiled=recipe.compute.compile, measured=known)
    return single | facts(recipe) | {
        "origin": "predicted",
        "predicted": seconds,
        "basis": dict.fromkeys(("dit_step", "decode", "encode"), RANK) | dict.fromkeys(("audio", "rest"), LEVEL),
        "provenance": single["provenance"] | {"rank_seconds": rank},
    }  # fmt: skip


def one_rank(model: Model, num_gpus: int, warmup: int) -> dict[str, list[float]]:
    """Return the seconds of each step, decode and encode of the first of `num_gpus` ranks, by component."""
    timeline = Timeline(model.device)
    dit, kernel = model.dit, model.dit.kernel
    dit.use(kernel, EmulatedRank(num_gpus, kernel))
    try:
        chunk = _Chunk(model, num_gpus)
        for repeat in range(warmup + REPEATS):
            if repeat == warmup:
                timeline.clear()
            chunk.run(timeline)
        records = timeline.records
    finally:
        dit.use(kernel)
    names = {"dit_step": "dit_rank", "decode": "decode_rank", "encode": "encode_rank"}
    return {rank: [seconds for name, seconds in records if name == section] for section, rank in names.items()}


class _Chunk:
    """A chunk's steps with all latents, then its decode and encode on the rows of one rank."""

    def __init__(self, model: Model, num_gpus: int) -> None:
        recipe, audio, self.model = model.recipe, model.recipe.dit.audio, model
        self.conditions = model.condition(model.prepare(picture_of(recipe)), recipe.stream.prompt)
        generator = torch.Generator(model.device).manual_seed(0)
        self.noises = flow.draw_noise(recipe.latent_shape, recipe.sampler.num_steps, model.dit.dtype, generator)
        self.windows_PFWLC = torch.zeros(
            1, recipe.stream.clip_frames, audio.window, audio.num_layers, audio.channels, device=model.device
        )
        size = list(recipe.latent_size)
        longer = size.index(max(size))
        size[longer] = ceil(size[longer] / num_gpus)
        rows, columns = size
        stride = recipe.vae.spatial_stride
        self.latent_CThw = self.conditions.y_CThw[-recipe.vae.latent_channels :, :, :rows, :columns].contiguous()
        self.video_CFHW = torch.zeros(
            3, recipe.stream.motion_frames, rows * stride, columns * stride, device=model.device
        )

    def run(self, timeline: Timeline) -> None:
        """Run once; every part is timed."""
        motion_CThw = self.conditions.motion_CThw
        self.model.sample(self.noises, motion_CThw, self.conditions, self.windows_PFWLC, timeline.section)
        with timeline.section("decode"):
            for _ in self.model.decode(self.latent_CThw):
                pass
        with timeline.section("encode"):
            self.model.encode(self.video_CFHW)
