"""How many bytes a recipe needs on each GPU: weights exactly, caches exactly, working memory as an estimate.

Nothing here allocates; `python -m model.profile --dry-run` prints it before anything is loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from . import flops
from .config import Recipe

BYTES = {"bfloat16": 2, "float32": 4, "float64": 8}
PARTS = {
    "dit": "transformer",
    "vae": "autoencoder",
    "speech": "speech encoder",
    "text": "text encoder",
    "image": "image encoder",
}
"""Networks, and their names for a reader."""
VISITORS = ("text", "image")
"""Networks used once at the start of a stream, and off the GPU afterwards."""
TOKEN_TENSORS, WIDE_TENSORS, HIDDEN_TENSORS = 6, 2, 2
"""Alive at once in a block: tensors of the model's width, more of them in fp32 inside norms, and of the FFN's width."""
DECODER_TENSORS = 4
"""Alive at once around a convolution: what is added at the end, the padded input, the output, a workspace."""
RESERVE_BYTES = 1.5e9
"""The CUDA context, the libraries' workspaces and the allocator's gaps."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, or of one process on a CPU.

    Attributes:
        weights: By network.
        caches: Keys and values of the context, once per stream, and of the sound, once per chunk.
        transformer: Working memory of a forward, on this GPU's share of the tokens.
        autoencoder: Working memory of the largest encoder or decoder call, on this GPU's rows.
        reserve: What the device keeps; 0 on a CPU.
        visitors: Networks that are there while a stream starts; none on a CPU, where all stay.
    """

    weights: dict[str, int]
    caches: int
    transformer: int
    autoencoder: int
    reserve: int
    visitors: tuple[str, ...] = VISITORS

    @property
    def kept(self) -> int:
        """Weights that stay: those of text and image encoders only visit."""
        return sum(size for name, size in self.weights.items() if name not in self.visitors)

    @property
    def starting(self) -> int:
        """Peak while a picture and a prompt are encoded."""
        return self.kept + max((self.autoencoder, *(self.weights[name] for name in self.visitors))) + self.reserve

    @property
    def streaming(self) -> int:
        """Peak while chunks are made."""
        return self.kept + self.caches + max(self.transformer, self.autoencoder) + self.reserve

    @property
    def needed(self) -> int:
        """The larger peak."""
        return max(self.starting, self.streaming)


def free_host_bytes() -> int:
    """Return memory that processes can have without anything being swapped out."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (available,) = (
        line for line in meminfo.read_text(encoding="ascii").splitlines() if line.startswith("MemAvailable")
    )
    return int(available.split()[1]) * 1024


def weight_bytes(recipe: Recipe) -> dict[str, int]:
    """Return the bytes of each network's weights; speech is in float32 whatever the rest is."""
    size = BYTES[recipe.compute.dtype]
    count = flops.parameters(recipe)
    return {name: number * (BYTES["float32"] if name == "speech" else size) for name, number in count.items()}


def cache_bytes(recipe: Recipe) -> tuple[int, int]:
    """Return the bytes of all blocks' keys and values: of the context, and of the sound of a chunk."""
    config, size = recipe.dit, BYTES[recipe.compute.dtype]
    per_token = config.num_layers * 2 * config.dim * size
    context = config.text_len + recipe.image.num_tokens
    return context * per_token, recipe.latent_frames * config.audio.tokens * per_token


def estimate(recipe: Recipe, *, cuda: bool = True) -> Memory:
    """Return what one of the recipe's GPUs (or processes) needs."""
    size, config, share = BYTES[recipe.compute.dtype], recipe.dit, recipe.parallel.num_processes
    rows = ceil(recipe.num_tokens / share)
    transformer = rows * (
        size * (TOKEN_TENSORS * config.dim + HIDDEN_TENSORS * config.ffn_dim)
        + BYTES["float32"] * WIDE_TENSORS * config.dim
    )
    if share > 1:  # every process embeds the whole clip before it takes its share
        transformer += size * recipe.num_tokens * config.dim
    return Memory(
        weights=weight_bytes(recipe),
        caches=sum(cache_bytes(recipe)),
        transformer=transformer,
        autoencoder=_autoencoder_bytes(recipe, 1 if recipe.parallel.vae == "off" else share) * size,
        reserve=int(RESERVE_BYTES) if cuda else 0,
        visitors=VISITORS if cuda else (),
    )


def _autoencoder_bytes(recipe: Recipe, share: int) -> int:
    """Return the values held at once in the largest layer of a decoder call, or of an encoder call of four frames."""
    latents = max(recipe.compute.decode_groups)
    decoder = flops.decoder_layers(recipe.vae, latents + 1, *recipe.latent_size)
    size = (recipe.stream.height, recipe.stream.width)
    encoder = flops.encoder_layers(recipe.vae, recipe.vae.temporal_stride + 1, *size)
    return DECODER_TENSORS * max(_values(layer) for layer in (*decoder, *encoder)) // share


def _values(layer: flops.Layer) -> int:
    frames, rows, columns = layer.shape
    return max(layer.inputs, layer.outputs) * frames * rows * columns


def shortage(recipe: Recipe, available_bytes: float, *, cuda: bool = True) -> str | None:
    """Return why a recipe does not fit, part by part, or None if it does.

    Args:
        recipe: Its processes have a GPU each, or share a CPU.
        available_bytes: Of each GPU, or of the machine.
        cuda: Whether it is GPUs.
    """
    found, count = estimate(recipe, cuda=cuda), recipe.parallel.num_processes
    needed = found.needed * (1 if cuda else count)
    if needed <= available_bytes:
        return None
    parts = {PARTS[name]: size for name, size in found.weights.items() if name not in found.visitors}
    if found.starting > found.streaming:
        parts["working memory"] = found.starting - found.kept - found.reserve
    else:
        working = max(found.transformer, found.autoencoder)
        parts |= {"cached keys and values": found.caches, "working memory": working}
    told = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in (parts | {"reserve": found.reserve}).items() if size)
    where = f"on each of {count} GPU(s)" if cuda else f"of memory for {count} process(es)"
    return (
        f"{recipe.name} needs about {needed / 1e9:.1f} GB {where} ({told}); {available_bytes / 1e9:.1f} GB are there."
    )
