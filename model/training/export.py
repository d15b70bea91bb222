"""A trained network in the released format: `pipeline.build(recipe, weights_dir)` loads it.

export(generator, Files.below(weights_dir).model)    # beside the autoencoder and the encoders of the release
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from talkbench import atomic

from .. import checkpoint
from .conditions import Velocity

SHARD_BYTES = 10 << 30


def export(net: Velocity, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> list[Path]:
    """Write a network's weights as shards with an index and `config.json`; every process calls it.

    The first process writes, and holds one shard at a time. Other DiT shards in the folder are removed.

    Args:
        net: Sharded or not; to export averages, inside `Ema.applied`.
        folder: Created if absent.
        dtype: Of the file.

    Returns:
        The shards.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    weights = dict(net.dit.named_parameters())
    shards = _shards({name: weight.numel() * dtype.itemsize for name, weight in weights.items()})
    where: dict[str, str] = {}
    if first:
        folder.mkdir(parents=True, exist_ok=True)
    for number, names in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        where |= dict.fromkeys(names, file)
        tensors = {name: _whole(weights[name], dtype, wanted=first) for name in names}
        if first:
            partial = folder / f".{file}.tmp"
            save_file(tensors, partial, metadata={"format": "pt"})
            partial.replace(folder / file)
    if first:
        _describe(net, folder, where, sum(weight.numel() for weight in weights.values()) * dtype.itemsize)
    return [folder / file for file in dict.fromkeys(where.values())]


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Return names in order, in groups of at most `SHARD_BYTES`, or of one larger tensor."""
    shards: list[list[str]] = [[]]
    held = 0
    for name, size in sizes.items():
        if shards[-1] and held + size > SHARD_BYTES:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += size
    return shards


@torch.no_grad()
def _whole(weight: Tensor, dtype: torch.dtype, *, wanted: bool) -> Tensor:
    """Return the whole of a weight on the CPU, contiguous; all processes take part, one wants it."""
    part = weight.to(dtype)
    whole = part.full_tensor() if isinstance(part, DTensor) else part
    return whole.cpu().contiguous() if wanted else whole.new_empty(0)


def _describe(net: Velocity, folder: Path, where: dict[str, str], total_bytes: int) -> None:
    index = {"metadata": {"total_size": total_bytes}, "weight_map": where}
    sizes = {key: getattr(net.dit.config, name) for key, name in checkpoint.SIZES.items()}
    atomic.write_text(folder / checkpoint.DIT_INDEX, json.dumps(index, indent=1))
    atomic.write_text(folder / "config.json", json.dumps({"model_type": "i2v", **sizes}, indent=1))
    for old in folder.glob("diffusion_pytorch_model*.safetensors"):
        if old.name not in where.values():
            old.unlink()
