"""Kernels of full attention behind one interface, and their check against plain arithmetic.

Legend: B batch, N queries, M keys, A heads, d head width. Tensors are [B, tokens, heads, width]; torch's own
operators want [B, heads, tokens, width], hence the transposes (views, no copies).
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from talkbench.errors import TalkbenchError

aten = torch.ops.aten

PACKAGES = {"fa3": "flash_attn_interface", "fa2": "flash_attn"}
NAMES = ("fa3", "fa2", "cudnn", "flash", "math")

# Relative to the largest value of the exact result.
TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.float32: 1e-3, torch.float64: 1e-10}


KEYS = (257, 32)
"""Keys of the check: as many as the picture's tokens, an odd number, and as few as a latent frame's sound tokens."""


class Kernel:
    """Softmax attention of all queries over all keys, scale 1/sqrt(d), without mask or dropout.

    Attributes:
        name: As in `ComputeConfig.attention` and in latency records.
    """

    name: str

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
        """Return the attention output [B, N, A, d]; differentiable."""
        raise NotImplementedError

    def with_lse(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output [B, N, A, d] and the log of each query's softmax sum [B, A, N], fp32 or wider.

        Not differentiable: the ring calls `backward` itself.
        """
        raise NotImplementedError

    def backward(
        self, grad_BNAd: Tensor, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor, out_BNAd: Tensor, lse_BAN: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of q, k and v.

        With `out_BNAd` and `lse_BAN` of attention over more keys than these, the gradients are this part's share.
        The base class calls torch's FlashAttention, which fits the output and log-sum-exp of every CUDA kernel here.
        """
        q, k, v, grad, out = (x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd, grad_BNAd, out_BNAd))
        # Without dropout the generator's state is never read, but the operator wants tensors in its place.
        seed, offset = q.new_zeros(2, dtype=torch.uint64), q.new_zeros((), dtype=torch.uint64)
        grads = aten._scaled_dot_product_flash_attention_backward(
            grad, q, k, v, out, lse_BAN, None, None, q.shape[2], k.shape[2], 0.0, False, seed, offset
        )
        return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


class MathKernel(Kernel):
    """The formula in fp32 or wider: what the others are checked against. Memory grows with N times M."""

    name = "math"

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:  # noqa: D102 - as the base class
        return self.with_lse(q_BNAd, k_BMAd, v_BMAd)[0]

    def with_lse(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        scores_BANM = _scores(q_BNAd, k_BMAd)
        lse_BAN = scores_BANM.logsumexp(-1)
        p_BANM = (scores_BANM - lse_BAN[..., None]).exp()
        out_BNAd = torch.einsum("banm,bmad->bnad", p_BANM, v_BMAd.to(p_BANM.dtype))
        return out_BNAd.to(q_BNAd.dtype), lse_BAN

    def backward(  # noqa: D102
        self, grad_BNAd: Tensor, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor, out_BNAd: Tensor, lse_BAN: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        p_BANM = (_scores(q_BNAd, k_BMAd) - lse_BAN[..., None]).exp()
        grad, q, k, v, out = (x.to(p_BANM.dtype) for x in (grad_BNAd, q_BNAd, k_BMAd, v_BMAd, out_BNAd))
        row_BAN = (grad * out).sum(-1).transpose(1, 2)
        grad_scores_BANM = p_BANM * (torch.einsum("bnad,bmad->banm", grad, v) - row_BAN[..., None])
        grad_scores_BANM = grad_scores_BANM * q.shape[-1] ** -0.5
        grad_q = torch.einsum("banm,bmad->bnad", grad_scores_BANM, k)
        grad_k = torch.einsum("banm,bnad->bmad", grad_scores_BANM, q)
        grad_v = torch.einsum("banm,bnad->bmad", p_BANM, grad)
        return grad_q.to(q_BNAd.dtype), grad_k.to(k_BMAd.dtype), grad_v.to(v_BMAd.dtype)


def _scores(q_BNAd: Tensor, k_BMAd: Tensor) -> Tensor:
    wide = torch.promote_types(q_BNAd.dtype, torch.float32)
    return torch.einsum("bnad,bmad->banm", q_BNAd.to(wide) * q_BNAd.shape[-1] ** -0.5, k_BMAd.to(wide))


class FlashKernel(Kernel):
    """The FlashAttention inside torch: its CUDA one, and its CPU one, which takes every dtype."""

    name = "flash"

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:  # noqa: D102
        return _sdpa(SDPBackend.FLASH_ATTENTION, q_BNAd, k_BMAd, v_BMAd)

    def with_lse(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        q, k, v = (x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd))
        on_cpu = q.device.type == "cpu"
        flash = aten._scaled_dot_product_flash_attention_for_cpu if on_cpu else aten._scaled_dot_product_flash_attention
        out, lse, *_ = flash(q, k, v)
        return out.transpose(1, 2), lse

    def backward(  # noqa: D102
        self, grad_BNAd: Tensor, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor, out_BNAd: Tensor, lse_BAN: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if q_BNAd.device.type != "cpu":
            return super().backward(grad_BNAd, q_BNAd, k_BMAd, v_BMAd, out_BNAd, lse_BAN)
        q, k, v, grad, out = (x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd, grad_BNAd, out_BNAd))
        grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse_BAN, 0.0, False)
        return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


class CudnnKernel(Kernel):
    """cuDNN's attention, through torch: on Hopper much faster than torch's own FlashAttention."""

    name = "cudnn"

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:  # noqa: D102
        return _sdpa(SDPBackend.CUDNN_ATTENTION, q_BNAd, k_BMAd, v_BMAd)

    def with_lse(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        q, k, v = (x.transpose(1, 2) for x in (q_BNAd, k_BMAd, v_BMAd))
        out, lse, *_ = aten._scaled_dot_product_cudnn_attention(q, k, v, None, compute_log_sumexp=True)
        return out.transpose(1, 2), lse.reshape(out.shape[:-1])  # cuDNN adds an axis of 1


class PackageKernel(Kernel):
    """`flash_attn_func` of an installed FlashAttention package."""

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.function = importlib.import_module(module).flash_attn_func

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:  # noqa: D102
        out_BNAd: Tensor = self.function(q_BNAd, k_BMAd, v_BMAd)
        return out_BNAd

    def with_lse(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        out_BNAd, lse_BAN, *_ = self.function(q_BNAd, k_BMAd, v_BMAd, return_attn_probs=True)
        return out_BNAd, lse_BAN


def _sdpa(backend: SDPBackend, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q_BNAd.transpose(1, 2), k_BMAd.transpose(1, 2), v_BMAd.transpose(1, 2))
    return out.transpose(1, 2)


def make_kernel(name: str) -> Kernel:
    """Return the kernel called `name`, whether or not this machine can run it."""
    if name in PACKAGES:
        return PackageKernel(name, PACKAGES[name])
    return {"cudnn": CudnnKernel, "flash": FlashKernel, "math": MathKernel}[name]()


def check_kernel(
    kernel: Kernel, *, device: torch.device, dtype: torch.dtype, head_dim: int, ring: bool = False
) -> None:
    """Compare a kernel with plain arithmetic on small cases.

    Args:
        kernel: To be checked.
        device: Where it will run.
        dtype: Of queries, keys and values.
        head_dim: Channels per head.
        ring: Check also what only the ring uses: log-sum-exp and `backward`.

    Raises:
        TalkbenchError: If it differs by more than `TOLERANCES`, relative to the largest exact value.
    """
    for num_keys in KEYS:
        _check_with(kernel, num_keys, device=device, dtype=dtype, head_dim=head_dim, ring=ring)


def _check_with(
    kernel: Kernel, num_keys: int, *, device: torch.device, dtype: torch.dtype, head_dim: int, ring: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": 192, "k": num_keys, "v": num_keys, "grad": 192}
    q, k, v, grad = (
        torch.randn(1, tokens, 2, head_dim, generator=generator).to(device, dtype) for tokens in shapes.values()
    )
    wide = torch.promote_types(dtype, torch.float32)
    exact = (q.to(wide), k.to(wide), v.to(wide))
    out, lse = MathKernel().with_lse(*exact)
    pairs = {"output": (kernel(q, k, v), out)}
    if ring:
        own_out, own_lse = kernel.with_lse(q, k, v)
        pairs |= {"output with log-sum-exp": (own_out, out), "log-sum-exp": (own_lse, lse)}
        own = kernel.backward(grad, q, k, v, own_out, own_lse)
        expected = MathKernel().backward(grad.to(wide), *exact, out, lse)
        pairs |= {
            f"gradient of {name}": pair for name, pair in zip("qkv", zip(own, expected, strict=True), strict=True)
        }
    for what, (found, right) in pairs.items():
        error = ((found.to(wide) - right).abs().max() / right.abs().max()).item()
        if not error <= TOLERANCES[dtype]:
            allowed = f"allowed are {TOLERANCES[dtype]:.0e} ({dtype})"
            raise TalkbenchError(f"attention kernel {kernel.name}: {what} is off by {error:.1e}, {allowed}")
