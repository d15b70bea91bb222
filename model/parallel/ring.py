"""Ring attention: keys and values pass around groups of processes, each adding its part of the softmax.

Source: Liu et al., "Ring Attention with Blockwise Transformers", arXiv:2310.01889; the merge of partial results is
the usual one of two softmax parts, written with a sigmoid so that nothing overflows.

Legend: B batch, n own queries, m keys of the block at hand, a own heads, d head width; KV holds keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..kernels import Kernel
from .mesh import Mesh


def ring_attention(
    q_Bnad: Tensor, k_Bmad: Tensor, v_Bmad: Tensor, kernel: Kernel, mesh: Mesh, sizes: Sequence[int]
) -> Tensor:
    """Return attention [B, n, a, d] of the own queries over the keys of every ring member; differentiable.

    Args:
        q_Bnad: Own queries.
        k_Bmad: Own keys.
        v_Bmad: Own values.
        kernel: Attends to one block; its partial results are merged in fp32 or wider.
        mesh: Who passes to whom.
        sizes: Keys of every ring member, in ring order.
    """
    out_Bnad: Tensor = _Ring.apply(  # type: ignore[no-untyped-call]
        q_Bnad, k_Bmad, v_Bmad, kernel, mesh, tuple(sizes)
    )
    return out_Bnad


def merge(out_Bnad: Tensor, lse_Ban: Tensor, part_Bnad: Tensor, part_lse_Ban: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp over two disjoint sets of keys from those over each; all fp32 or wider."""
    weight_Bna1 = torch.sigmoid(part_lse_Ban - lse_Ban).transpose(1, 2)[..., None]
    return out_Bnad - weight_Bna1 * (out_Bnad - part_Bnad), lse_Ban - logsigmoid(lse_Ban - part_lse_Ban)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_Bnad: Tensor, k_Bmad: Tensor, v_Bmad: Tensor, kernel: Kernel, mesh: Mesh, sizes: tuple[int, ...]
    ) -> Tensor:
        wide = torch.promote_types(q_Bnad.dtype, torch.float32)
        own_KV = KV = torch.stack((k_Bmad, v_Bmad))
        for step in range(mesh.ring):
            passing = _Pass(KV, mesh, sizes, step) if step + 1 < mesh.ring else None
            part_Bnad, part_lse_Ban = kernel.with_lse(q_Bnad, KV[0], KV[1])
            part_Bnad, part_lse_Ban = part_Bnad.to(wide), part_lse_Ban.to(wide)
            if step == 0:
                out_Bnad, lse_Ban = part_Bnad, part_lse_Ban
            else:
                out_Bnad, lse_Ban = merge(out_Bnad, lse_Ban, part_Bnad, part_lse_Ban)
            if passing is not None:
                KV = passing.wait()
        out_Bnad, lse_Ban = out_Bnad.to(q_Bnad.dtype), lse_Ban.contiguous()
        ctx.save_for_backward(q_Bnad, own_KV, out_Bnad, lse_Ban)
        ctx.kernel, ctx.mesh, ctx.sizes = kernel, mesh, sizes
        return out_Bnad

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Send every block round once more, and the gradient of each block along with it until it is home."""
        q_Bnad, KV, out_Bnad, lse_Ban = ctx.saved_tensors
        kernel, mesh, sizes = ctx.kernel, ctx.mesh, ctx.sizes
        grad_Bnad = grads[0].contiguous()
        wide = torch.promote_types(q_Bnad.dtype, torch.float32)
        grad_q_Bnad, grad_KV = torch.zeros_like(q_Bnad, dtype=wide), torch.zeros_like(KV, dtype=wide)
        for step in range(mesh.ring):
            passing = _Pass(KV, mesh, sizes, step) if step + 1 < mesh.ring else None
            # With the final output and log-sum-exp, each block's share of the gradient is independent of the others.
            part_q, part_k, part_v = kernel.backward(grad_Bnad, q_Bnad, KV[0], KV[1], out_Bnad, lse_Ban)
            grad_q_Bnad += part_q
            grad_KV = _Pass(grad_KV + torch.stack((part_k, part_v)), mesh, sizes, step).wait()
            if passing is not None:
                KV = passing.wait()
        grad_q_Bnad, grad_KV = grad_q_Bnad.to(q_Bnad.dtype), grad_KV.to(q_Bnad.dtype)
        return grad_q_Bnad, grad_KV[0], grad_KV[1], None, None, None


class _Pass:
    """A block on its way to the next process of the ring while the previous one's arrives."""

    def __init__(self, block: Tensor, mesh: Mesh, sizes: tuple[int, ...], step: int) -> None:
        """Start sending the block held at `step`: the one of ring member `ring_rank - step`."""
        incoming = sizes[(mesh.ring_rank - step - 1) % mesh.ring]
        self._sent = block  # alive until it has left
        self._arriving = block.new_empty((*block.shape[:2], incoming, *block.shape[3:]))
        successor, predecessor = ((mesh.rank + hop) % mesh.size for hop in (mesh.ulysses, -mesh.ulysses))
        self._works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, block, successor, mesh.ring_group),
                dist.P2POp(dist.irecv, self._arriving, predecessor, mesh.ring_group),
            ]
        )

    def wait(self) -> Tensor:
        for work in self._works:
            work.wait()
        return self._arriving
