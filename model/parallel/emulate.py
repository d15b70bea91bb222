"""One process of n without the others: its arithmetic and its copies, on one GPU, to measure its time.

What is missing is only what the network adds. The numbers that come out mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ..kernels import Kernel
from .mesh import Mesh
from .sequence import SequenceParallel


class EmulatedRank(SequenceParallel):
    """The first of `num_processes` Ulysses processes: the one with the largest shard, hence the slowest.

    It computes ceil(N/n) rows of every layer and attention over N tokens with A/n heads. The exchange is a local
    permutation: own rows stand in for those that the others would send.

    Args:
        num_processes: n, the Ulysses degree; heads must divide by it.
        kernel: Attention on this device.
    """

    def __init__(self, num_processes: int, kernel: Kernel) -> None:
        super().__init__(Mesh(0, num_processes, 1, None, None, None), kernel)

    def exchange(
        self,
        rows: Tensor,
        sends: Sequence[int],  # noqa: ARG002 - nothing is sent
        receives: Sequence[int],
        group: dist.ProcessGroup | None,  # noqa: ARG002
    ) -> Tensor:
        """Return as many rows as the others would send: copies of the own, the first few twice if they are short.

        Uneven shards differ by one row each, so fewer than n rows are left over or short.
        """
        short = sum(receives) - len(rows)
        return torch.cat((rows, rows[:short])) if short > 0 else rows[: sum(receives)].clone()
