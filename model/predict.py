"""How long a step, a decode, an encode and a cycle should take on GPUs that were not there: a performance model.

Every result is *predicted*: from the FLOPs, the bytes and the exchange volume of a recipe, the data sheet of a device,
and a handful of constants fitted to the latencies of the SoulX-LiveTalk technical report (arXiv 2512.23379, Table 4,
720x416 on 1, 2, 4 and 8 H800). Leaving one of its rows out of the fit and predicting it errs by -6 to +8 %.

The description this follows fixes every term of a step but two: what packing moves (here: four tensors, read and
written, before and after the exchange) and what a ring costs beyond its volume (here: one latency per hop, nothing
hidden behind attention). With that all its printed values come out within 0.5 %, those of rings within 2.5 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from talkbench.errors import TalkbenchError

from . import flops
from .config import Recipe


@dataclass(frozen=True)
class Device:
    """A GPU by its data sheet.

    Attributes:
        tensor_flops: Dense bf16 products per second.
        memory_bytes: On the card.
        memory_rate: Bytes per second.
        link_rate: Bytes per second to the other GPUs of the node, each way.
        num_sms: Multiprocessors, each working on one tile at a time.
    """

    name: str
    tensor_flops: float
    memory_bytes: float
    memory_rate: float
    link_rate: float
    num_sms: int = 132


DEVICES = {
    device.name: device
    for device in (Device("H800", 989e12, 80e9, 3.35e12, 200e9), Device("H200", 989e12, 141e9, 4.8e12, 450e9))
}
"""NVIDIA data sheets of the SXM modules."""

PRODUCTS, ATTENTION, SHORT_ATTENTION = 0.66, 0.64, 0.35
"""Share of the tensor peak in full tiles: matrix products, self-attention, attention to few keys. Set beforehand."""
BANDWIDTH = 0.85
"""Share of the memory rate that elementwise passes reach. Set beforehand."""
ELEMENTWISE_BYTES = {True: 200, False: 555}
"""Bytes per token, channel and block in passes that are no product, compiled and eager. Fitted on one GPU."""
LINK = 0.80
"""Share of the link rate that the exchange of tokens reaches. Fitted: 160 of 200 GB/s."""
LATENCY_SECONDS = 15e-6
"""Per collective call, of which an exchange has four."""
LAYER_SECONDS = 0.20e-3
"""Per block on several GPUs beside all else. Fitted; only its sum with the exchange is well determined."""
TILE = (128, 256)
"""Rows and columns of the output that one multiprocessor works on."""
DECODE_FLOPS, ENCODE_FLOPS = 84.46e12 / 0.988, 8.055e12 / 0.097
"""Rates on one GPU that the report's 988 and 97 ms imply, which fit TF32; ours in bf16 has to be measured."""
SPLIT_PENALTY = {"decode": 1.30, "encode": 1.40}
"""Factor on any split of the autoencoder: fits the report's 2, 4, 8 GPUs with a border of one latent; cause unknown."""
BORDER_SECONDS, BORDER_LINK = 25e-6, 0.60
"""Per exchange of border rows, and the share of the link rate it reaches (120 of 200 GB/s)."""
AUDIO_SECONDS, OTHER_SECONDS = 0.033, 0.026
"""Of the report's cycle on eight GPUs (876 ms), taken over unchanged: speech features, and what is in no component."""
OTHERS = ("color", "copy", "rest")
"""Components that no GPU count changes."""
TOKEN_BYTES = 2


def device_named(name: str) -> Device:
    """Return the data sheet of a device from its short or marketing name.

    Raises:
        TalkbenchError: If there is none; the message lists the known ones.
    """
    for device in DEVICES.values():
        if device.name.lower() in name.lower():
            return device
    raise TalkbenchError(f"no data sheet of {name!r}, so nothing can be predicted for it. Known: {', '.join(DEVICES)}.")


def tile_efficiency(rows: int, columns: int, device: Device) -> float:
    """Return the useful share of the tiles of a product: those at the edges and those of the last wave are not full."""
    tiles = ceil(rows / TILE[0]) * ceil(columns / TILE[1])
    waves = ceil(tiles / device.num_sms)
    return rows * columns / (waves * device.num_sms * TILE[0] * TILE[1])


def attention_efficiency(num_heads: int, rows: int, device: Device) -> float:
    """Return the useful share of the waves of an attention kernel: one tile is 128 rows of one head."""
    tiles = num_heads * ceil(rows / TILE[0])
    return tiles / (ceil(tiles / device.num_sms) * device.num_sms)


def product_seconds(rows: int, columns: int, inner: int, device: Device) -> float:
    """Return the time of one matrix product [rows, inner] x [inner, columns]."""
    rate = device.tensor_flops * PRODUCTS * tile_efficiency(rows, columns, device)
    return 2 * rows * columns * inner / rate


def step_parts(
    recipe: Recipe, device: Device, ulysses: int = 1, ring: int = 1, *, compiled: bool = True, cached: bool = True
) -> dict[str, float]:
    """Return the seconds of one forward of the transformer on ``ulysses * ring`` GPUs, by cause.

    Args:
        recipe: Sizes.
        device: Every GPU.
        ulysses: GPUs that share heads.
        ring: Groups that pass keys and values around.
        compiled: Whether elementwise passes are fused.
        cached: Whether keys and values of the context are computed once per stream, as ours are, or every step, as
            in the report.
    """
    num_gpus = ulysses * ring
    config, layers, device_flops = recipe.dit, recipe.dit.num_layers, device.tensor_flops
    width, ffn, rows = config.dim, config.ffn_dim, ceil(recipe.num_tokens / num_gpus)
    block = flops.block_flops(recipe)
    products = 8 * product_seconds(rows, width, width, device)
    products += product_seconds(rows, ffn, width, device) + product_seconds(rows, width, ffn, device)
    context = 2 * product_seconds(config.text_len, width, width, device)
    context += 2 * product_seconds(recipe.image.num_tokens, width, width, device)
    filled = attention_efficiency(max(1, config.num_heads // ulysses), ceil(recipe.num_tokens / ring), device)
    short = block["context_attention"] + block["audio_attention"]
    moved = ELEMENTWISE_BYTES[compiled] * recipe.num_tokens / num_gpus * width
    seconds = {
        "products": products,
        "attention": block["self_attention"] / (num_gpus * device_flops * ATTENTION * filled),
        "short_attention": short / (num_gpus * device_flops * SHORT_ATTENTION),
        "context": 0.0 if cached else context,
        "elementwise": moved / (BANDWIDTH * device.memory_rate),
    }
    if num_gpus > 1:
        seconds |= {"exchange": _exchange(rows * width * TOKEN_BYTES, device, ulysses, ring), "fixed": LAYER_SECONDS}
    return {name: layers * value for name, value in seconds.items()}


def _exchange(shard_bytes: int, device: Device, ulysses: int, ring: int) -> float:
    """Return the seconds that a block spends on sending q, k, v and the output, or keys and values around a ring."""
    volume = 4 * shard_bytes * (ulysses - 1) / ulysses + 2 * shard_bytes * (ring - 1)
    calls = 4 * (ulysses > 1) + (ring - 1)
    packed = 2 * 2 * 4 * shard_bytes if ulysses > 1 else 0
    return volume / (LINK * device.link_rate) + calls * LATENCY_SECONDS + packed / (BANDWIDTH * device.memory_rate)


def step_seconds(
    recipe: Recipe, device: Device, ulysses: int = 1, ring: int = 1, *, compiled: bool = True, cached: bool = True
) -> float:
    """Return the time of one forward; arguments as `step_parts`."""
    return sum(step_parts(recipe, device, ulysses, ring, compiled=compiled, cached=cached).values())


def vae_seconds(
    recipe: Recipe,
    device: Device,
    num_gpus: int,
    kind: str,
    *,
    split: str = "exact",
    single: float | None = None,
    rank: float | None = None,
) -> float:
    """Return the time of one decode of a clip, or of one encode of its motion frames.

    Args:
        recipe: Sizes.
        device: Every GPU.
        num_gpus: Over which rows or tiles are spread.
        kind: ``decode`` or ``encode``.
        split: As `ParallelConfig.vae`.
        single: Measured seconds on one GPU; else the rate that the report's numbers imply.
        rank: Measured seconds of one rank's rows alone; leaves only their borders to the model. Exact split only.
    """
    if kind == "decode":
        alone = flops.decode_flops(recipe, recipe.latent_frames) / DECODE_FLOPS
        layers = list(flops.decoder_layers(recipe.vae, recipe.latent_frames, *recipe.latent_size))
        num_calls = len(recipe.compute.decode_groups)
    else:
        alone = flops.encode_flops(recipe, recipe.stream.motion_frames) / ENCODE_FLOPS
        size = (recipe.stream.height, recipe.stream.width)
        layers = list(flops.encoder_layers(recipe.vae, recipe.stream.motion_frames, *size))
        num_calls = 2
    alone = alone if single is None else single
    if num_gpus == 1 or split == "off":
        return alone
    if split == "tiled":
        return alone * SPLIT_PENALTY[kind] * _tile_share(*recipe.latent_size, num_gpus)
    rows = max(recipe.latent_size)
    own = alone * SPLIT_PENALTY[kind] * ceil(rows / num_gpus) / rows if rank is None else rank
    return own + _border_seconds(layers, num_calls, num_gpus, device)


def _border_seconds(layers: Iterable[flops.Layer], num_calls: int, num_gpus: int, device: Device) -> float:
    """Return the time for a row from each neighbour per 3x3 convolution, and for all keys and values of the middle."""
    total_bytes, num_exchanges = 0.0, 0
    for layer in layers:
        frames, rows, columns = layer.shape
        if layer.taps in {9, 27}:
            num_exchanges += num_calls
            total_bytes += layer.inputs * frames * min(rows, columns) * TOKEN_BYTES
        elif not layer.taps:
            gathered = 2 * layer.inputs * frames * rows * columns * TOKEN_BYTES
            total_bytes += gathered * (num_gpus - 1) / num_gpus
    return num_exchanges * BORDER_SECONDS + total_bytes / (BORDER_LINK * device.link_rate)


def _tile_share(rows: int, columns: int, num_gpus: int, border: int = 1) -> float:
    """Return the share of the picture that each tile works on, its borders included."""
    from .parallel.tiles import choose_grid

    down, across = choose_grid(num_gpus, rows, columns)
    tall = rows // down + 2 * border * (down > 1)
    wide = columns // across + 2 * border * (across > 1)
    return tall * wide / (rows * columns)


def cycle(
    recipe: Recipe, device: Device, *, compiled: bool = True, measured: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return the predicted seconds of each component on the GPUs of the recipe, and of the whole cycle.

    Args:
        recipe: Sizes and how the stream is spread.
        device: Every GPU.
        compiled: As `step_parts`.
        measured: Seconds measured on one such GPU by component; those given replace the model's own level, so that
            only how they scale, and the exchange, are predicted. ``dit_rank`` is one rank's step with its exchange
            replaced by a local permutation, ``decode_rank`` and ``encode_rank`` one rank's rows without borders: they
            leave nothing but the exchange to the model.
    """
    known, split = dict(measured or {}), recipe.parallel
    parts = step_parts(recipe, device, split.ulysses, split.ring, compiled=compiled)
    apart = parts.pop("exchange", 0.0) + parts.pop("fixed", 0.0)
    step = known.get("dit_rank", sum(parts.values()))
    if "dit_step" in known and "dit_rank" not in known:
        step *= known["dit_step"] / step_seconds(recipe, device, compiled=compiled)
    found = {
        "audio": known.get("audio", AUDIO_SECONDS),
        "dit_step": step + apart,
        "rest": sum(known.get(name, 0.0) for name in OTHERS) if "rest" in known else OTHER_SECONDS,
    }
    for kind in ("decode", "encode"):
        found[kind] = vae_seconds(
            recipe, device, split.num_processes, kind, split=split.vae, single=known.get(kind),
            rank=known.get(f"{kind}_rank"),
        )  # fmt: skip
    others = sum(seconds for name, seconds in found.items() if name != "dit_step")
    return found | {"cycle": recipe.sampler.num_steps * found["dit_step"] + others}
