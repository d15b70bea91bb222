"""Random weights in the official file formats and sizes: `python -m tests.random_weights DIR [--names dino,clip,...]`.

Seeded and scaled like a fresh initialisation, so that the networks give finite, varied outputs. What they score means
nothing; it shows that files, networks and pipeline fit together. `one-align` is written at a tiny size.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from torch import nn

from talkbench.weights.catalog import catalog

KEYS = Path(__file__).parent / "data" / "keys"
Shapes = Mapping[str, Sequence[int]]
State = OrderedDict[str, torch.Tensor]

SCALES = {
    # Inputs are pixels 0..255 and MFCC of about 15, but activations should be about 1.
    "s3fd": {"vgg.0.weight": 1 / 60, "conf.": 0.1, "loc.": 0.1},
    "syncnet": {"netcnnlip.0.weight": 1 / 130, "netcnnaud.0.weight": 1 / 15},
    # Flows of a pixel or two, images that do not saturate.
    "amt": {"decoder1.convblock.2": 0.1, "decoder": 0.7, "update": 0.5, "comb_block": 0.1},
}
L2_NORMS = {"L2Norm3_3": 10.0, "L2Norm4_3": 8.0, "L2Norm5_3": 5.0}


def keys(name: str) -> dict[str, list[int]]:
    """Return names and shapes of an official file."""
    return json.loads((KEYS / f"{name}.json").read_text())


def random_state(shapes: Shapes, *, seed: int, scales: Mapping[str, float] = {}, prelu: bool = False) -> State:
    """Return seeded random tensors; each depends on its own name only.

    Args:
        shapes: Name -> shape.
        seed: Another seed, another network.
        scales: Prefix of names -> factor on their weights.
        prelu: One-dimensional weights are slopes of PReLU instead of gains of a norm.
    """
    state = OrderedDict()
    for name, shape in shapes.items():
        generator = torch.Generator().manual_seed(seed ^ crc32(name.encode()))
        factor = next((scale for prefix, scale in scales.items() if name.startswith(prefix)), 1.0)
        state[name] = _tensor(name, tuple(shape), generator, prelu=prelu) * (factor if len(shape) > 1 else 1.0)
    return state


def _tensor(name: str, shape: tuple[int, ...], generator: torch.Generator, *, prelu: bool) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    module, _, kind = name.rpartition(".")
    if not shape:
        return torch.tensor(math.log(1 / 0.07))
    if kind == "running_var":
        return 0.5 + torch.rand(shape, generator=generator)
    if kind in {"bias", "running_mean", "in_proj_bias"}:
        return 0.02 * noise
    if module in L2_NORMS:
        return L2_NORMS[module] * (1 + 0.1 * noise)
    if len(shape) == 1 and kind == "weight":
        return (0.25 if prelu else 1.0) + 0.05 * noise
    if kind in {"class_embedding", "cls_token", "pos_embed", "positional_embedding"} or module == "token_embedding":
        return 0.02 * noise
    # CLIP stores its projections as inputs x outputs.
    fan_in = shape[0] if kind in {"proj", "text_projection"} else math.prod(shape[1:])
    return noise * math.sqrt((2.0 if len(shape) > 2 else 1.0) / fan_in)


class Node(nn.Module):
    """A module without code that holds tensors under dotted names."""

    def put(self, name: str, tensor: torch.Tensor) -> None:
        first, _, rest = name.partition(".")
        if not rest:
            self.register_parameter(first, nn.Parameter(tensor, requires_grad=False))
            return
        if first not in self._modules:
            self.add_module(first, Node())
        self._modules[first].put(rest, tensor)


def torchscript(state: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors as a TorchScript archive."""
    root = Node()
    for name, tensor in state.items():
        root.put(name, tensor)
    for name, tensor in buffers.items():
        root.register_buffer(name, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(root), str(path))


def write_dino(path: Path) -> None:
    torch.save(random_state(keys("dino_vitb16"), seed=1), path)


def write_clip(path: Path) -> None:
    state = random_state(keys("clip_vitb32_full"), seed=2)
    full = ("ln_", "class_embedding", "positional_embedding", "token_embedding", "logit_scale")
    for name, tensor in state.items():
        if not any(part.startswith(full) for part in name.split(".")):
            state[name] = tensor.half()
    facts = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    torchscript(state, {name: torch.tensor(value) for name, value in facts.items()}, path)


def write_amt(path: Path) -> None:
    state = random_state(keys("amt_s"), seed=3, scales=SCALES["amt"], prelu=True)
    training = {
        "epoch": 299,
        "best_psnr": np.float64(35.5),
        "optim": {"state": {0: {"exp_avg": torch.zeros(8)}}, "param_groups": [{"lr": 1e-5}]},
        "args": argparse.Namespace(name="AMT-S", lr=2e-4),
    }
    torch.save({"state_dict": state, **training}, path)


def write_syncnet(path: Path) -> None:
    shapes = {name: shape for name, shape in keys("syncnet_v2").items() if not name.endswith("num_batches_tracked")}
    state = random_state(shapes, seed=4, scales=SCALES["syncnet"])
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_s3fd(path: Path) -> None:
    state = random_state(keys("s3fd"), seed=5, scales=SCALES["s3fd"])
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_one_align(folder: Path) -> None:
    from tests import tiny_qalign

    tiny_qalign.write(folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "dino": write_dino,
    "clip": write_clip,
    "amt": write_amt,
    "syncnet": write_syncnet,
    "s3fd": write_s3fd,
    "qalign": write_one_align,
}


def write(
    folder: Path, names: Sequence[str] = tuple(WRITERS), overrides: Mapping[str, Callable[[Path], None]] = {}
) -> list[Path]:
    """Write weight files under their official names; return their paths.

    Args:
        folder: Where to; created if absent.
        names: Catalog names.
        overrides: Catalog name -> what writes that file instead (weights fitted to detect something).
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        path = folder / catalog()[name].file
        {**WRITERS, **overrides}[name](path)
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--names", default=",".join(WRITERS), help="comma-separated catalog names")
    given = parser.parse_args()
    for path in write(given.folder, given.names.split(",")):
        print(path)


if __name__ == "__main__":
    main()
