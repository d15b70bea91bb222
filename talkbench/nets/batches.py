"""How a network is run: without gradients, in its precision, a fixed number of items at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16"]


class InBatches:
    """Runs a function on at most `size` items at a time; halves `size` for good when CUDA memory does not suffice.

    Args:
        forward: Takes tensors with one row per item and returns one; frees what it needs when it returns.
        size: Items at a time.
        precision: ``bf16`` lets matrix products and convolutions run in bfloat16.
        device: Where `forward` computes.
    """

    def __init__(self, forward: Callable[..., Tensor], size: int, precision: Precision, device: str) -> None:
        self._forward = forward
        self._precision = precision
        self._device_type = torch.device(device).type
        self.size = size

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return what `forward` returns for all rows of `inputs`, joined.

        Raises:
            torch.cuda.OutOfMemoryError: If not even one item fits.
        """
        parts = []
        start = 0
        with torch.inference_mode(), self._casting():
            while start < len(inputs[0]):
                size = self.size
                try:
                    parts.append(self._forward(*(rows[start : start + size] for rows in inputs)))
                except torch.cuda.OutOfMemoryError:
                    if size == 1:
                        raise
                    self.size = size // 2
                else:
                    start += size
        return torch.cat(parts)

    def _casting(self) -> AbstractContextManager[object]:
        if self._precision == "bf16":
            return torch.autocast(self._device_type, dtype=torch.bfloat16)
        return nullcontext()
