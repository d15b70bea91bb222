"""The voice of Q-Align: LLaMA-2 in which norms, keys and values exist twice, once for words and once for the image.

Facts from Q-Future/Q-Align commit 14dfdff ("modality-adaptive module" of mPLUG-Owl2, Ye et al. 2023), names as in the
released `one-align` files. The official code gathers both branches position by position; a prompt is always
words - image - words, so three slices say the same. The first words precede the image and are the same for all images
of a batch: causality lets them be computed once, and `Stream` keeps them apart.

Legend: B images, P words before the image, K image embeddings, R everything from the image on, L = P + R, D width,
h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, IMAGE = 0, 1
"""Index of the branch in each `multiway` list."""


@dataclass(frozen=True)
class LanguageSizes:
    """Sizes of the language model; defaults are the released ones (LLaMA-2 7B)."""

    vocabulary: int = 32_000
    width: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    mlp_width: int = 11_008
    eps: float = 1e-5
    rotary_base: float = 10_000.0


class Stream(NamedTuple):
    """Hidden states of a prompt: the words before the image, shared by the batch, and the rest of each sample."""

    before_1PD: Tensor
    rest_BRD: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Stream:
        """Return `function` of both parts."""
        return Stream(function(self.before_1PD), function(self.rest_BRD))

    def add(self, other: Stream) -> Stream:
        """Return the sum."""
        return Stream(self.before_1PD + other.before_1PD, self.rest_BRD + other.rest_BRD)


class Places(NamedTuple):
    """What depends on positions only: made once per prompt, used by all layers."""

    num_image: int
    cos_Ld: Tensor
    sin_Ld: Tensor
    mask_RL: Tensor

    @classmethod
    def of(cls, num_before: int, num_image: int, num_rest: int, head_width: int, base: float, like: Tensor) -> Places:
        """Compute rotations and the causal mask of the rest.

        Angles are float32 whatever the type of the network: rounding them to float16 moves logits by 1e-2.
        """
        options = {"dtype": torch.float32, "device": like.device}
        frequencies = base ** -(torch.arange(0, head_width, 2, **options) / head_width)  # type: ignore[call-overload]
        positions = torch.arange(num_before + num_rest, **options)  # type: ignore[call-overload]
        angles_Ld = torch.outer(positions, frequencies).repeat(1, 2)
        mask = torch.ones(num_rest, num_before + num_rest, dtype=torch.bool, device=like.device).tril(num_before)
        return cls(num_image, angles_Ld.cos().to(like.dtype), angles_Ld.sin().to(like.dtype), mask)

    def rotate(self, x_BhSd: Tensor, start: int) -> Tensor:
        """Return queries or keys turned by their positions, the first of which is `start`."""
        span = slice(start, start + x_BhSd.shape[2])
        first, second = x_BhSd.chunk(2, dim=-1)
        return x_BhSd * self.cos_Ld[span] + torch.cat([-second, first], dim=-1) * self.sin_Ld[span]


class Int8Linear(nn.Module):
    """A linear map without bias whose weights are 8-bit integers with one scale per row; computes in its input's type.

    Rounding to nearest, largest magnitude of a row at 127. Halves memory against float16; opens each matrix in passing.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_out, num_in, dtype=torch.int8))
        self.register_buffer("scale", torch.zeros(num_out, 1))

    def fill(self, weight: Tensor) -> None:
        """Quantise and keep a float matrix."""
        weight = weight.to(self.weight.device, torch.float32)
        scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
        self.scale.copy_(scale)
        self.weight.copy_((weight / scale).round())

    def forward(self, x: Tensor) -> Tensor:
        """Return x times the restored matrix."""
        # Scaled before the product: sums of up to 127 times an activation overflow float16.
        return functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype))


def linear(num_in: int, num_out: int, int8: bool) -> nn.Module:
    """Return a linear map without bias, in 8-bit integers if asked."""
    return Int8Linear(num_in, num_out) if int8 else nn.Linear(num_in, num_out, bias=False)


class RmsNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x scaled to unit mean square, times the weight."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Multiway(nn.Module):
    """Two copies of a module: one for words, one for the image."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([make(), make()])

    def forward(self, stream: Stream, num_image: int) -> Stream:
        """Return each slice passed through its own copy."""
        words, image = self.multiway[WORDS], self.multiway[IMAGE]
        rest_BRD = stream.rest_BRD
        rest = torch.cat([image(rest_BRD[:, :num_image]), words(rest_BRD[:, num_image:])], dim=1)
        return Stream(words(stream.before_1PD), rest)


class Attention(nn.Module):
    """Causal attention; queries and output shared, keys and values by kind."""

    def __init__(self, sizes: LanguageSizes, int8: bool) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads

        def make() -> nn.Module:
            return linear(sizes.width, sizes.width, int8)

        self.q_proj = make()
        self.k_proj = Multiway(make)
        self.v_proj = Multiway(make)
        self.o_proj = make()

    def forward(self, stream: Stream, places: Places) -> Stream:
        """Return mixed hidden states."""
        start = stream.before_1PD.shape[1]
        q = stream.map(self.q_proj).map(self._heads)
        k = self.k_proj(stream, places.num_image).map(self._heads)
        v = self.v_proj(stream, places.num_image).map(self._heads)
        q = Stream(places.rotate(q.before_1PD, 0), places.rotate(q.rest_BRD, start))
        k = Stream(places.rotate(k.before_1PD, 0), places.rotate(k.rest_BRD, start))
        before = functional.scaled_dot_product_attention(q.before_1PD, k.before_1PD, v.before_1PD, is_causal=True)
        rest = functional.scaled_dot_product_attention(
            q.rest_BRD, self._joined(k), self._joined(v), attn_mask=places.mask_RL
        )
        return Stream(before, rest).map(lambda x_BhSd: self.o_proj(x_BhSd.transpose(1, 2).flatten(2)))

    def _heads(self, x_BSD: Tensor) -> Tensor:
        return x_BSD.reshape(*x_BSD.shape[:2], self.num_heads, -1).transpose(1, 2)

    @staticmethod
    def _joined(stream: Stream) -> Tensor:
        before_BhPd = stream.before_1PD.expand(len(stream.rest_BRD), -1, -1, -1)
        return torch.cat([before_BhPd, stream.rest_BRD], dim=2)


class Mlp(nn.Module):
    """SwiGLU feed-forward, shared by words and image."""

    def __init__(self, sizes: LanguageSizes, int8: bool) -> None:
        super().__init__()
        self.gate_proj = linear(sizes.width, sizes.mlp_width, int8)
        self.up_proj = linear(sizes.width, sizes.mlp_width, int8)
        self.down_proj = linear(sizes.mlp_width, sizes.width, int8)

    def forward(self, x: Tensor) -> Tensor:
        """Return transformed hidden states."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class LanguageLayer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self, sizes: LanguageSizes, int8: bool) -> None:
        super().__init__()
        self.self_attn = Attention(sizes, int8)
        self.mlp = Mlp(sizes, int8)
        self.input_layernorm = Multiway(lambda: RmsNorm(sizes.width, sizes.eps))
        self.post_attention_layernorm = Multiway(lambda: RmsNorm(sizes.width, sizes.eps))

    def forward(self, stream: Stream, places: Places) -> Stream:
        """Return hidden states after attention and feed-forward."""
        stream = stream.add(self.self_attn(self.input_layernorm(stream, places.num_image), places))
        return stream.add(self.post_attention_layernorm(stream, places.num_image).map(self.mlp))
