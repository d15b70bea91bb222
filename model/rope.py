"""Rotary positions over (frame, row, column), from real tables made once.

Legend: B batch, N video tokens, A heads, d head width, T latent frames, h w token rows and columns.
Source: Wan2.1, `wan/modules/model.py` (split of a head over the three axes, base 10000, adjacent pairs).
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 10_000.0


def axis_widths(head_dim: int) -> tuple[int, int, int]:
    """Return how many channels of a head turn with frame, row and column."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def tables(
    grid: tuple[int, int, int], head_dim: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines `[N, d/2]` of every token's angles, computed in float64.

    Positions start at 0 in every chunk and are counted in tokens.

    Args:
        grid: Latent frames, token rows, token columns; tokens are numbered in this order.
        head_dim: Channels per head.
        device: Where the tables live.
        dtype: float32 in use, float64 for parity tests.
    """
    positions = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in grid), indexing="ij")
    angles = [
        position.reshape(-1, 1) * BASE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
        for position, width in zip(positions, axis_widths(head_dim), strict=True)
    ]
    angles_Nd = torch.cat(angles, dim=1)
    return angles_Nd.cos().to(device, dtype), angles_Nd.sin().to(device, dtype)


def rotate(x_BNAd: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """Turn adjacent channel pairs by each token's angles, in the tables' precision; returned in the input's.

    Eager, a complex product is one pass; compiled, real arithmetic is, which Inductor fuses with what stands around it
    and complex numbers it does not.
    """
    pairs = x_BNAd.to(cos_Nd.dtype).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        turned = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos_Nd, sin_Nd)[None, :, None]
        return torch.view_as_real(turned).flatten(-2).to(x_BNAd.dtype)
    even, odd = pairs.unbind(-1)
    cos, sin = cos_Nd[None, :, None], sin_Nd[None, :, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x_BNAd.dtype)
