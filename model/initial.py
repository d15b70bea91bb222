"""Seeded random weights: for tests, for the toy recipes, and to measure speed where the released ones are not at hand.

python -m model.initial tiny weights      # as files in the released format, below weights/
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from . import checkpoint
from .conditioning import audio, image, text
from .config import Recipe
from .dit import DiT
from .recipes import recipe
from .vae import VAE

NetT = TypeVar("NetT", bound=nn.Module)


def made(make: Callable[[], NetT], seed: int, device: torch.device, dtype: torch.dtype) -> NetT:
    """Return a frozen network with seeded random numbers; it is never held in more than its own precision."""
    net = made_empty(make, device, dtype)
    fill(net, seed)
    return net.requires_grad_(False).eval()


def made_empty(make: Callable[[], NetT], device: torch.device, dtype: torch.dtype) -> NetT:
    """Return a network whose parameters hold nothing yet; parameters that are one stay one."""
    with torch.device("meta"):
        net = make().to(dtype)
    real: dict[nn.Parameter, nn.Parameter] = {}
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter not in real:
                real[parameter] = nn.Parameter(torch.empty_like(parameter, device=device))
            setattr(module, name, real[parameter])
    return net.to(device)


def fill(net: nn.Module, seed: int) -> None:
    """Give every parameter seeded random numbers of a size that keeps activations in range.

    A parameter's numbers depend on the seed, its name and its shape, not on the order or the other parameters.
    """
    generators = {device: torch.Generator(device) for device in {p.device for p in net.parameters()}}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            generator = generators[parameter.device].manual_seed((seed << 32) + zlib.crc32(name.encode()))
            drawn = torch.randn(parameter.shape, generator=generator, device=parameter.device)
            parameter.copy_(_scaled(name, drawn))


def _scaled(name: str, drawn: torch.Tensor) -> torch.Tensor:
    if name.endswith("bias"):
        return drawn * 0.02
    if name.endswith("modulation"):
        return drawn / drawn.shape[-1] ** 0.5
    if drawn.numel() == drawn.shape[0]:
        return 1 + 0.1 * drawn
    return drawn * (drawn.shape[0] / drawn.numel()) ** 0.5


def write(wanted: Recipe, folder: Path, seed: int) -> None:
    """Write a recipe's random weights below a folder, named and stored as the released ones."""
    files = checkpoint.Files.below(folder)
    dtype: torch.dtype = getattr(torch, wanted.compute.dtype)
    cpu = torch.device("cpu")
    for path in (files.model, files.speech):
        path.mkdir(parents=True, exist_ok=True)
    checkpoint.write_dit(made(partial(DiT, wanted.dit), seed, cpu, dtype), files.model, dtype)
    torch.save(made(partial(VAE, wanted.vae), seed, cpu, torch.float32).state_dict(), files.vae)
    text_net = made(partial(text.TextEncoder, wanted.text), seed, cpu, dtype)
    torch.save(text.to_official(text_net.state_dict()), files.text)
    image_net = made(partial(image.ImageEncoder, wanted.image), seed, cpu, torch.float32)
    torch.save(image.to_official(image_net.state_dict()), files.image)
    speech_net = made(partial(audio.SpeechEncoder, wanted.speech), seed, cpu, torch.float32)
    torch.save(audio.to_official(speech_net.state_dict()), files.speech / "pytorch_model.bin")
    (files.speech / "config.json").write_text('{"model_type": "wav2vec2"}\n', encoding="utf-8")


if __name__ == "__main__":
    write(recipe(sys.argv[1]), Path(sys.argv[2]), seed=0)
