"""How networks are called: without gradients, in whole float32, and with as many items as the device has memory for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def whole_float32() -> Iterator[None]:
    """Have CUDA compute float32 as float32 in the block: by default its convolutions round to 10 bits first (TF32)."""
    from torch.backends import cuda, cudnn

    before = cudnn.allow_tf32, cuda.matmul.allow_tf32
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


class Rows(Protocol):
    """Items that can be counted and sliced: a tensor, an array, a sequence."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


class Batch:
    """Items that a network takes at a time; halved for the rest of a clip when CUDA memory does not suffice.

    A runner makes one when a clip starts, so that no clip's result depends on the clips before it.

    Args:
        size: Items at first.
    """

    def __init__(self, size: int) -> None:
        self.size = self._first_size = size

    def run(self, forward: Callable[..., Tensor], *rows: Rows) -> Tensor:
        """Return what `forward` returns for all items, joined; it gets `size` items of each of `rows` at a time.

        Without gradients and without TF32.

        Raises:
            torch.cuda.OutOfMemoryError: If not even one item fits.
        """
        import torch

        parts = []
        start = 0
        with torch.inference_mode(), whole_float32():
            while start < len(rows[0]):
                size = self.size
                try:
                    parts.append(forward(*(items[start : start + size] for items in rows)))
                except torch.cuda.OutOfMemoryError:
                    if size == 1:
                        raise
                    self.size = size // 2
                else:
                    start += size
        return torch.cat(parts)

    def halved(self, name: str = "batch") -> dict[str, int]:
        """Return what the details of a row say about it: the size reached under `name`, nothing if it is the first."""
        return {name: self.size} if self.size < self._first_size else {}
