"""xfuser's sequence-parallel exchange (its function `USP`) in the place of ours, around the same kernel.

Optional, and for comparison: it needs equal shards, so token counts that do not divide are refused, and it runs
forward only where the ring degree is above 1. Never imported at start-up, nor is xfuser before `with_xdit` is called.
Its other entry point, `xFuserLongContextAttention`, cannot be constructed with released versions of its dependency.

Source: xfuser 0.7.0 (xdit-project/xDiT), `xfuser/model_executor/layers/usp.py`.

Legend: B batch, n own tokens, A heads, d head width.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
from torch import Tensor

from talkbench.errors import PrerequisiteError, TalkbenchError

from ..kernels import Kernel
from .sequence import SequenceParallel

BACKEND = "talkbench"


class XditParallel(SequenceParallel):
    """`SequenceParallel` whose attention goes through xfuser; made by `with_xdit`."""

    def attend(self, q_BnAd: Tensor, k_BnAd: Tensor, v_BnAd: Tensor, num_tokens: int) -> Tensor:
        """Return attention [B, n, A, d] of the own queries over the keys of all N tokens.

        Raises:
            TalkbenchError: If the tokens do not divide by the number of processes.
        """
        if num_tokens % self.size:
            raise TalkbenchError(
                f"xfuser needs equal shards: {num_tokens} tokens do not divide by {self.size} processes. "
                "Use talkbench's own sequence parallel, or a size whose tokens divide."
            )
        from xfuser.model_executor.layers.usp import USP

        q, k, v = (x.transpose(1, 2) for x in (q_BnAd, k_BnAd, v_BnAd))
        out_BAnd: Tensor = USP(q, k, v, combine_qkv_a2a=True, backend=BACKEND)
        return out_BAnd.transpose(1, 2)


def with_xdit(parallel: SequenceParallel) -> XditParallel:
    """Return the same processes with xfuser's exchange; sets up xfuser's own groups, once per process.

    Raises:
        PrerequisiteError: If xfuser does not import; the message has the install command.
    """
    try:
        from xfuser.core.distributed import init_distributed_environment, initialize_model_parallel, runtime_state
        from xfuser.core.distributed.attention_backend import ATTENTION_FUNCTION_REGISTRY
    except (ImportError, NotImplementedError) as error:  # NotImplementedError: a torch without an accelerator
        raise PrerequisiteError(
            f"the xfuser back end needs xfuser ({error}). Run `pip install 'talkbench[hopper]'` on a CUDA machine, "
            "or use talkbench's own sequence parallel, which needs nothing."
        ) from error
    mesh, backend = parallel.mesh, dist.get_backend(parallel.group)
    init_distributed_environment(rank=mesh.rank, world_size=mesh.size, backend=backend)
    initialize_model_parallel(
        sequence_parallel_degree=mesh.size, ulysses_degree=mesh.ulysses, ring_degree=mesh.ring, backend=backend
    )
    # USP reads these three; xfuser itself makes the object only from a diffusers pipeline or for one process.
    runtime_state._RUNTIME = SimpleNamespace(
        attention_backend=BACKEND, fp8_comms=None, runtime_config=SimpleNamespace(use_spargeattn_head_balance=False)
    )
    ATTENTION_FUNCTION_REGISTRY[BACKEND] = _Call(parallel.kernel, ring=mesh.ring > 1)
    return XditParallel(mesh, parallel.kernel)


class _Call:
    """Our kernel in the form that xfuser calls: [B, heads, tokens, width] in, output and log-sum-exp out."""

    def __init__(self, kernel: Kernel, ring: bool) -> None:
        self.kernel, self.ring = kernel, ring
        self.__name__ = BACKEND

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, Tensor | None]:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out, lse = self.kernel.with_lse(q, k, v) if self.ring else (self.kernel(q, k, v), None)
        return out.transpose(1, 2), lse
