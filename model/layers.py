"""Norms, modulation and the projectors in front of the transformer.

Legend: B batch, N tokens, D width, F frames, W window, L speech layers, C channels, T latent frames, K audio tokens.
Source: SoulX-FlashTalk, `flash_talk/infinite_talk/modules/multitalk_model.py`. Where the released GPU path computes in
float32 between bfloat16 tensors, `promoted` does; in float32 and float64 it changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import AudioTokensConfig

PROJECTOR_EPS = 1e-5


def promoted(x: Tensor) -> Tensor:
    """Return `x` in float32, or as it is if it is more precise."""
    return x if x.dtype == torch.float64 else x.float()


def norm(x_BND: Tensor, eps: float) -> Tensor:
    """LayerNorm without parameters, rounded to the input's precision before anything is done with it."""
    return functional.layer_norm(promoted(x_BND), x_BND.shape[-1:], eps=eps).to(x_BND.dtype)


def modulated(x_BND: Tensor, shift_D: Tensor, scale_D: Tensor, eps: float) -> Tensor:
    """Return norm(x) * (1 + scale) + shift."""
    return (promoted(norm(x_BND, eps)) * (1 + scale_D) + shift_D).to(x_BND.dtype)


def gated_sum(x_BND: Tensor, y_BND: Tensor, gate_D: Tensor) -> Tensor:
    """Return x + y * gate, rounded once."""
    return (promoted(x_BND) + promoted(y_BND) * gate_D).to(x_BND.dtype)


def promoted_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply a layer in float32 whatever its weights are stored in."""
    return functional.linear(promoted(x), promoted(linear.weight), promoted(linear.bias))


class PromotedLayerNorm(nn.LayerNorm):
    """LayerNorm with parameters, computed in float32 and rounded to the input's precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        weight, bias = promoted(self.weight), promoted(self.bias)
        return functional.layer_norm(promoted(x), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """Root-mean-square norm over all channels, before the split into heads; the weight comes after the rounding."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        wide = promoted(x)
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype) * self.weight


class ImageProjector(nn.Module):
    """CLIP tokens `[B, tokens, image_dim]` to model width."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim, eps=PROJECTOR_EPS),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim, eps=PROJECTOR_EPS),
        )

    def forward(self, image_BMC: Tensor) -> Tensor:
        """Return `[B, tokens, dim]`."""
        projected: Tensor = self.proj(image_BMC)
        return projected


class AudioProjector(nn.Module):
    """Windows of speech features to the audio tokens of each latent frame.

    A latent frame after the first stands for four video frames. Its eight features are those of the first frame and
    the two before it, of the two middle frames, and of the last frame and the two after it: away from the ends of the
    sound, eight consecutive features.
    """

    def __init__(self, config: AudioTokensConfig, temporal_stride: int = 4) -> None:
        super().__init__()
        self.config = config
        self.temporal_stride = temporal_stride
        per_feature = config.num_layers * config.channels
        num_later = 2 * (config.window // 2 + 1) + temporal_stride - 2
        self.proj1 = nn.Linear(config.window * per_feature, config.hidden)
        self.proj1_vf = nn.Linear(num_later * per_feature, config.hidden)
        self.proj2 = nn.Linear(config.hidden, config.hidden)
        self.proj3 = nn.Linear(config.hidden, config.tokens * config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=PROJECTOR_EPS)

    def forward(self, windows_BFWLC: Tensor) -> Tensor:
        """Return `[B, T, K, dim]`; F = temporal_stride * (T - 1) + 1."""
        first_BFWLC, later_BFWLC = windows_BFWLC[:, :1], windows_BFWLC[:, 1:]
        groups = later_BFWLC.unflatten(1, (-1, self.temporal_stride))
        middle = self.config.window // 2
        eight_BTELC = torch.cat(
            (groups[:, :, 0, : middle + 1], groups[:, :, 1:-1, middle], groups[:, :, -1, middle:]), dim=2
        )
        hidden_BTH = torch.cat(
            (
                functional.relu(self.proj1(first_BFWLC.flatten(2))),
                functional.relu(self.proj1_vf(eight_BTELC.flatten(2))),
            ),
            dim=1,
        )
        tokens = self.proj3(functional.relu(self.proj2(hidden_BTH)))
        tokens_BTKC = tokens.unflatten(-1, (self.config.tokens, self.config.dim))
        weight, bias = promoted(self.norm.weight), promoted(self.norm.bias)
        normed = functional.layer_norm(promoted(tokens_BTKC), (self.config.dim,), weight, bias, PROJECTOR_EPS)
        return normed.to(windows_BFWLC.dtype)
