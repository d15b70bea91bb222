"""One sample's tokens spread over processes: exact attention by Ulysses (heads exchanged) and ring (keys passed).

Every process holds a contiguous shard of the tokens, sizes as even as they can be, never padded. For attention the
processes of a Ulysses group exchange tokens for heads, so that each has all the group's tokens for its share of the
heads, and exchange back afterwards. With ring degree 1 an attention call is two collectives around one kernel and
traces into a single graph; ring degrees above 1 break graphs and are for counts of GPUs that do not divide the heads.

Source: DeepSpeed-Ulysses (arXiv:2309.14509) and USP (arXiv:2405.07719).

Legend: B batch, N tokens in all, n own tokens, s tokens of a Ulysses group, A heads, a = A/U own heads, d head width,
U Ulysses degree, X tensors exchanged together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from talkbench.errors import TalkbenchError

from ..config import DiTConfig, ParallelConfig
from ..kernels import Kernel, check_kernel
from .mesh import TIMEOUT, Mesh, check_degrees, connect, together
from .ring import ring_attention


def shard_sizes(num_tokens: int, num_shards: int) -> list[int]:
    """Return the tokens of each shard: N // n, and one more for the first N % n.

    Raises:
        ValueError: If there are fewer tokens than shards.
    """
    if num_tokens < num_shards:
        raise ValueError(f"{num_tokens} tokens cannot be spread over {num_shards} processes")
    return [num_tokens // num_shards + (index < num_tokens % num_shards) for index in range(num_shards)]


def shard_bounds(num_tokens: int, num_shards: int, index: int) -> tuple[int, int]:
    """Return the first token of a shard and the one after its last."""
    sizes = shard_sizes(num_tokens, num_shards)
    return sum(sizes[:index]), sum(sizes[: index + 1])


def pack_heads(x_XBnAd: Tensor, ulysses: int) -> Tensor:
    """Return rows [U * n, X, B, a, d]: for each group member in turn, the own tokens with that member's heads."""
    num, batch, tokens, heads, width = x_XBnAd.shape
    x_XBnUad = x_XBnAd.reshape(num, batch, tokens, ulysses, heads // ulysses, width)
    return x_XBnUad.permute(3, 2, 0, 1, 4, 5).reshape(ulysses * tokens, num, batch, heads // ulysses, width)


def unpack_heads(rows: Tensor, ulysses: int) -> Tensor:
    """Undo `pack_heads`."""
    num_rows, num, batch, own_heads, width = rows.shape
    x_UnXBad = rows.reshape(ulysses, num_rows // ulysses, num, batch, own_heads, width)
    return x_UnXBad.permute(2, 3, 1, 0, 4, 5).reshape(num, batch, num_rows // ulysses, ulysses * own_heads, width)


class SequenceParallel:
    """This process's part in attention over the tokens of all.

    Args:
        mesh: The processes.
        kernel: Attention on one device.
    """

    def __init__(self, mesh: Mesh, kernel: Kernel) -> None:
        self.mesh = mesh
        self.kernel = kernel

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.mesh.rank

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.mesh.size

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The process group of all processes."""
        return self.mesh.group

    def bounds(self, num_tokens: int) -> tuple[int, int]:
        """Return the first own token and the one after the last."""
        return shard_bounds(num_tokens, self.size, self.rank)

    def shard(self, x_BND: Tensor) -> Tensor:
        """Return the own tokens [B, n, ...] of a tensor that every process holds whole."""
        start, stop = self.bounds(x_BND.shape[1])
        # A copy: the strides of a view would have the first block compiled separately from the others.
        return x_BND[:, start:stop].clone(memory_format=torch.contiguous_format)

    def gather(self, x_BnD: Tensor, num_tokens: int) -> Tensor:
        """Return all tokens [B, N, ...] on every process.

        Differentiable: the gradient is that of the sum of all processes' losses.
        """
        sizes = shard_sizes(num_tokens, self.size)
        self._check(x_BnD, sizes[self.rank])
        rows = x_BnD.transpose(0, 1).repeat(self.size, *(1 for _ in x_BnD.shape[1:]))
        rows = self.exchange(rows, [sizes[self.rank]] * self.size, sizes, self.group)
        return rows.transpose(0, 1)

    def attend(self, q_BnAd: Tensor, k_BnAd: Tensor, v_BnAd: Tensor, num_tokens: int) -> Tensor:
        """Return attention [B, n, A, d] of the own queries over the keys of all N tokens; differentiable.

        Args:
            q_BnAd: Queries of the own shard, rotated by their global positions.
            k_BnAd: Keys of the own shard, likewise.
            v_BnAd: Values of the own shard.
            num_tokens: N, tokens of all processes.

        Raises:
            ValueError: If the shard has not the size that N gives it, or the heads do not divide by U.
        """
        mesh, sizes = self.mesh, shard_sizes(num_tokens, self.size)
        self._check(q_BnAd, sizes[self.rank])
        if q_BnAd.shape[2] % mesh.ulysses:
            raise ValueError(f"{q_BnAd.shape[2]} heads do not divide by a Ulysses degree of {mesh.ulysses}")
        blocks = [[sizes[rank] for rank in mesh.ulysses_ranks(ring_rank)] for ring_rank in range(mesh.ring)]
        sends, receives = [sizes[self.rank]] * mesh.ulysses, blocks[mesh.ring_rank]
        q, k, v = self._swap_in(q_BnAd, k_BnAd, v_BnAd, sends, receives)
        if mesh.ring == 1:
            out_Bsad = self.kernel(q, k, v)
        else:
            out_Bsad = ring_attention(q, k, v, self.kernel, mesh, [sum(block) for block in blocks])
        return self._swap_out(out_Bsad, receives, sends)

    def _swap_in(
        self, q_BnAd: Tensor, k_BnAd: Tensor, v_BnAd: Tensor, sends: list[int], receives: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give away tokens of other heads, get other tokens of the own heads: three times [B, s, a, d], one call."""
        if self.mesh.ulysses == 1:
            return q_BnAd, k_BnAd, v_BnAd
        rows = pack_heads(torch.stack((q_BnAd, k_BnAd, v_BnAd)), self.mesh.ulysses)
        q, k, v = self.exchange(rows, sends, receives, self.mesh.ulysses_group).unbind(1)
        return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)

    def _swap_out(self, out_Bsad: Tensor, sends: list[int], receives: list[int]) -> Tensor:
        """Undo `_swap_in` for the result: [B, n, A, d]."""
        if self.mesh.ulysses == 1:
            return out_Bsad
        rows = out_Bsad.transpose(0, 1)[:, None]
        return unpack_heads(self.exchange(rows, sends, receives, self.mesh.ulysses_group), self.mesh.ulysses)[0]

    def exchange(
        self, rows: Tensor, sends: Sequence[int], receives: Sequence[int], group: dist.ProcessGroup | None
    ) -> Tensor:
        """Send consecutive rows to the group's members in turn and return what they sent, in the same order.

        The one place where Ulysses communicates: a faster exchange goes here.

        Args:
            rows: [sum of `sends`, ...].
            sends: Rows for each member.
            receives: Rows from each member.
            group: The members.
        """
        received: Tensor = _Exchange.apply(  # type: ignore[no-untyped-call]
            rows, tuple(sends), tuple(receives), group
        )
        return received

    def _check(self, x_BnD: Tensor, own_tokens: int) -> None:
        if x_BnD.shape[1] != own_tokens:
            raise ValueError(f"process {self.rank} got a shard of {x_BnD.shape[1]} tokens, expected {own_tokens}")


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, sends: tuple[int, ...], receives: tuple[int, ...], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.sends, ctx.receives, ctx.group = sends, receives, group
        return _all_to_all(rows, sends, receives, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _all_to_all(grads[0], ctx.receives, ctx.sends, ctx.group), None, None, None


def _all_to_all(rows: Tensor, sends: tuple[int, ...], receives: tuple[int, ...], group: dist.ProcessGroup) -> Tensor:
    received = rows.new_empty((sum(receives), *rows.shape[1:]))
    dist.all_to_all_single(received, rows.contiguous(), list(receives), list(sends), group=group)
    return received


def initialise(
    parallel: ParallelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    dit: DiTConfig,
    kernel: Kernel,
    timeout: timedelta = TIMEOUT,
) -> SequenceParallel | None:
    """Join the processes that torchrun started; None where one process does everything.

    Args:
        parallel: The degrees.
        device: Of this process (`mesh.local_device`).
        dtype: Of attention.
        dit: Whose heads are spread.
        kernel: Chosen by this process; all must have chosen the same.
        timeout: After which a collective that nobody answers fails.

    Raises:
        TalkbenchError: If the processes or the heads do not fit the degrees, or on every process if one of them
            cannot run the kernel.
    """
    check_degrees(parallel, dit.num_heads)
    if parallel.num_processes == 1:
        return None
    mesh = connect(parallel, device, timeout)

    def check() -> str:
        check_kernel(kernel, device=device, dtype=dtype, head_dim=dit.head_dim, ring=parallel.ring > 1)
        return kernel.name

    names = together(check, mesh.group)
    if len(set(names)) > 1:
        raise TalkbenchError(
            f"the processes chose different attention kernels ({', '.join(names)}): "
            "install the same packages everywhere, or set `attention` to one of them"
        )
    return SequenceParallel(mesh, kernel)
