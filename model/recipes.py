"""Complete configurations by name: `recipe("tiny")`. A run is a function here, not a set of flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import gcd

from .config import (
    AudioTokensConfig,
    ComputeConfig,
    DiTConfig,
    ImageEncoderConfig,
    ParallelConfig,
    Recipe,
    SpeechConfig,
    StreamConfig,
    TextConfig,
    VAEConfig,
)


def tiny() -> Recipe:
    """Every part of the 14B model at a fortieth of its width (1.5 M parameters): seconds per clip on a CPU."""
    return Recipe(
        name="tiny",
        description="all parts at toy width, 64x64, trained on drawn people; for tests, the demo and a debugger",
        dit=DiTConfig(
            dim=128, num_heads=8, num_layers=4, ffn_dim=256, freq_dim=64, text_len=128, text_dim=64, image_dim=64,
            audio=AudioTokensConfig(num_layers=2, channels=64, hidden=64, tokens=8, dim=64),
        ),
        vae=VAEConfig(base_dim=8),
        text=TextConfig(
            vocab_size=384, dim=64, attention_dim=64, num_heads=4, ffn_dim=128, num_layers=2, max_tokens=128,
            tokenizer="bytes",
        ),
        image=ImageEncoderConfig(dim=64, num_heads=4, num_layers=3, ffn_dim=128, image_size=56),
        speech=SpeechConfig(
            dim=64, num_layers=2, num_heads=4, ffn_dim=128, conv_channels=32, position_kernel=16, position_groups=4
        ),
        stream=StreamConfig(height=64, width=64),
        # One latent at a time: on a CPU faster than eight at once, and the frames come early.
        compute=ComputeConfig(dtype="float32", decode_groups=(1,) * 9),
        weights_seed=0,
        shipped="tiny",
    )  # fmt: skip


def small() -> Recipe:
    """A tenth of a billion parameters with the real encoders' interfaces: fits any GPU, still slow on a CPU."""
    base = tiny()
    return replace(
        base,
        name="small",
        shipped=None,
        description="0.1 B parameters, 256x256; for one small GPU",
        dit=replace(base.dit, dim=640, num_heads=10, num_layers=10, ffn_dim=1792, freq_dim=256),
        vae=VAEConfig(base_dim=32),
        stream=StreamConfig(height=256, width=256),
    )


def flashtalk_14b() -> Recipe:
    """The released model on one GPU, at the report's 720x416."""
    return Recipe(
        name="flashtalk_14b",
        description="the released model (18.9 B parameters in the DiT), 720x416, one GPU",
        compute=ComputeConfig(compile=True),
    )


def flashtalk_14b_8gpu() -> Recipe:
    """The released model on the eight GPUs of a node: Ulysses over all of them, the exact VAE split."""
    return replace(
        flashtalk_14b(),
        name="flashtalk_14b_8gpu",
        description="the released model, 720x416, eight GPUs of one node",
        parallel=ParallelConfig(ulysses=8),
    )


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function for function in (tiny, small, flashtalk_14b, flashtalk_14b_8gpu)
}


def recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises:
        ValueError: If there is none of that name; the message lists them.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()


def spread(wanted: Recipe, num_processes: int) -> Recipe:
    """Return a recipe for so many processes: its own degrees, or Ulysses as far as heads divide and ring for the rest.

    Raises:
        ValueError: If there are no processes.
    """
    if num_processes < 1:
        raise ValueError(f"{num_processes} processes; expected 1 or more")
    if wanted.parallel.num_processes == num_processes:
        return wanted
    ulysses = gcd(num_processes, wanted.dit.num_heads)
    return replace(wanted, parallel=replace(wanted.parallel, ulysses=ulysses, ring=num_processes // ulysses))
