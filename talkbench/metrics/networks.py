"""Networks of this process, loaded once per weight file and device however many clips are scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from talkbench.metrics.base import Context

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    Net = TypeVar("Net", bound=nn.Module)

_loaded: dict[tuple[str, str, str, str], nn.Module] = {}


def load(context: Context, weight: str, build: Callable[[Path], Net], variant: str = "") -> Net:
    """Return the network that `build` makes of a weight file, on the context's device, frozen, in evaluation mode.

    Args:
        context: Says which file `weight` is, and the device.
        weight: Name in the weight catalog, one of the runner's `needs.weights`.
        build: Makes the network from the file (or folder), on the CPU or on the device; called once per process.
        variant: Tells networks of one file apart (precision).

    Raises:
        TalkbenchError: If the file is not what its name promises.
    """
    import torch

    if context.threads is not None:
        torch.set_num_threads(context.threads)
    file = context.weights[weight]
    key = (weight, file.sha256, context.device, variant)
    if key not in _loaded:
        _loaded[key] = build(file.path).to(context.device).eval().requires_grad_(False)
    return _loaded[key]  # type: ignore[return-value]
