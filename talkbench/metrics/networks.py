"""Networks of this process, loaded once per weight file and device however many clips are scored."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from talkbench.metrics.base import Context
from talkbench.weights.read import BadWeights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    Net = TypeVar("Net", bound=nn.Module)

_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 1 << 30

_loaded: dict[tuple[str, str, str, str], nn.Module | BadWeights] = {}
"""What became of every file: a wrong one is not read again either."""


def load(context: Context, weight: str, build: Callable[[Path], Net], variant: str = "") -> Net:
    """Return the network that `build` makes of a weight file, on the context's device, frozen, in evaluation mode.

    Args:
        context: Says which file `weight` is, and the device.
        weight: Name in the weight catalog, one of the runner's `needs.weights`.
        build: Makes the network from the file (or folder), on the CPU or on the device; called once per process.
        variant: Tells networks of one file apart (precision).

    Raises:
        BadWeights: If the file is not what its name promises.
    """
    import torch

    if context.threads is not None:
        torch.set_num_threads(context.threads)
    if context.device == "cpu":
        keep_freed_memory()
    file = context.weights[weight]
    key = (weight, file.sha256, context.device, variant)
    if key not in _loaded:
        try:
            _loaded[key] = build(file.path).to(context.device).eval().requires_grad_(False)
        except BadWeights as error:
            _loaded[key] = BadWeights(*error.args)  # the error itself would keep alive what was being loaded
            raise
    found = _loaded[key]
    if isinstance(found, BadWeights):
        raise BadWeights(*found.args)
    return found  # type: ignore[return-value]


@functools.cache
def keep_freed_memory() -> None:
    """Have this process give freed memory to its next tensor.

    By default glibc returns large blocks to the system, which clears every page again for the next activation of the
    same size: a tenth of the time of all networks on a CPU, a sixth of AMT-S's. Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MALLOC_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_MALLOC_TRIM_THRESHOLD, _KEPT_BYTES)
