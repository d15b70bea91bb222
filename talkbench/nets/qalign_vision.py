"""The eyes of Q-Align: a vision transformer and the abstractor that condenses its tokens to a few queries.

Facts from Q-Future/Q-Align commit 14dfdff (the visual encoder of mPLUG-Owl2, Ye et al. 2023), names as in the released
`one-align` files. Unusual about them:
* the vision transformer hands on all its tokens, class token included;
* its packed projection is interleaved by head: q, k and v of head 0, then of head 1, ...;
* in the abstractor keys are queries and image tokens together, the residual starts from the *normalised* query, and
  position embeddings are fixed tables stored with the weights, added to queries and keys but not to values.

Legend: B images, C channels, H W pixels, N image tokens, Q queries, D width, h heads, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

DEFAULT_EPS = 1e-5
"""Of the abstractor's own norms; only its inner feed-forward norm takes the configured value."""


@dataclass(frozen=True)
class VisionSizes:
    """Sizes of the vision transformer; defaults are the released ones."""

    image_px: int = 448
    patch_px: int = 14
    width: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    mlp_width: int = 4096
    eps: float = 1e-6

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_px // self.patch_px) ** 2 + 1


@dataclass(frozen=True)
class AbstractorSizes:
    """Sizes of the abstractor; defaults are the released ones. Its width is that of the vision transformer."""

    num_queries: int = 64
    num_layers: int = 6
    num_heads: int = 16
    mlp_width: int = 2816
    eps: float = 1e-6


class Embeddings(nn.Module):
    """Patches, class token, positions."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.position_embedding = nn.Parameter(torch.zeros(1, sizes.num_tokens, sizes.width))
        self.patch_embed = nn.Conv2d(3, sizes.width, sizes.patch_px, sizes.patch_px, bias=False)
        self.pre_layernorm = nn.LayerNorm(sizes.width, sizes.eps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return normalised tokens_BND."""
        patches_BND = self.patch_embed(pixels_BCHW).flatten(2).transpose(1, 2)
        class_B1D = self.cls_token.expand(len(pixels_BCHW), -1, -1)
        tokens_BND = torch.cat([class_B1D, patches_BND], dim=1) + self.position_embedding
        normalised_BND: Tensor = self.pre_layernorm(tokens_BND)
        return normalised_BND


class VisionAttention(nn.Module):
    """Self-attention with one projection packed head by head."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.query_key_value = nn.Linear(sizes.width, 3 * sizes.width)
        self.dense = nn.Linear(sizes.width, sizes.width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return mixed tokens_BND."""
        packed_BNh3d = self.query_key_value(tokens_BND).unflatten(-1, (self.num_heads, 3, -1))
        q_BhNd, k_BhNd, v_BhNd = packed_BNh3d.permute(3, 0, 2, 1, 4)
        mixed_BhNd = functional.scaled_dot_product_attention(q_BhNd, k_BhNd, v_BhNd)
        out_BND: Tensor = self.dense(mixed_BhNd.transpose(1, 2).flatten(2))
        return out_BND


class VisionMlp(nn.Module):
    """Feed-forward with the sigmoid approximation of GELU ("QuickGELU")."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.mlp_width)
        self.fc2 = nn.Linear(sizes.mlp_width, sizes.width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return transformed tokens_BND."""
        hidden = self.fc1(tokens_BND)
        out_BND: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out_BND


class VisionLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.self_attn = VisionAttention(sizes)
        self.input_layernorm = nn.LayerNorm(sizes.width, sizes.eps)
        self.mlp = VisionMlp(sizes)
        self.post_attention_layernorm = nn.LayerNorm(sizes.width, sizes.eps)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return tokens_BND after attention and feed-forward."""
        tokens_BND = tokens_BND + self.self_attn(self.input_layernorm(tokens_BND))
        out_BND: Tensor = tokens_BND + self.mlp(self.post_attention_layernorm(tokens_BND))
        return out_BND


class Layers(nn.Module):
    """A stack, under the name `layers` that the released files use."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class VisionTransformer(nn.Module):
    """Pixels to tokens."""

    def __init__(self, sizes: VisionSizes) -> None:
        super().__init__()
        self.embeddings = Embeddings(sizes)
        self.encoder = Layers([VisionLayer(sizes) for _ in range(sizes.num_layers)])
        self.post_layernorm = nn.LayerNorm(sizes.width, sizes.eps)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Return all tokens_BND of normalised pixels."""
        tokens_BND = self.embeddings(pixels_BCHW)
        for layer in self.encoder.layers:
            tokens_BND = layer(tokens_BND)
        out_BND: Tensor = self.post_layernorm(tokens_BND)
        return out_BND


class AbstractorAttention(nn.Module):
    """Queries look at themselves and at the image tokens."""

    def __init__(self, sizes: AbstractorSizes, width: int, num_tokens: int) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.q_pos_embed = nn.Parameter(torch.zeros(sizes.num_queries, width))
        self.k_pos_embed = nn.Parameter(torch.zeros(num_tokens, width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, queries_BQD: Tensor, tokens_BND: Tensor) -> Tensor:
        """Return what the queries found, [B, Q, D]."""
        both = torch.cat([queries_BQD, tokens_BND], dim=1)
        positions = torch.cat([self.q_pos_embed, self.k_pos_embed])
        q, k, v = self.query(queries_BQD + self.q_pos_embed), self.key(both + positions), self.value(both)
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class AbstractorMlp(nn.Module):
    """SwiGLU with a norm on the hidden values."""

    def __init__(self, sizes: AbstractorSizes, width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, sizes.mlp_width)
        self.w2 = nn.Linear(sizes.mlp_width, width)
        self.w3 = nn.Linear(width, sizes.mlp_width)
        self.ffn_ln = nn.LayerNorm(sizes.mlp_width, sizes.eps)

    def forward(self, queries_BQD: Tensor) -> Tensor:
        """Return transformed queries."""
        hidden = functional.silu(self.w1(queries_BQD)) * self.w3(queries_BQD)
        out_BQD: Tensor = self.w2(self.ffn_ln(hidden))
        return out_BQD


class AbstractorOutput(nn.Module):
    """Projection and feed-forward, each with its residual."""

    def __init__(self, sizes: AbstractorSizes, width: int) -> None:
        super().__init__()
        self.out_proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, DEFAULT_EPS)
        self.mlp = AbstractorMlp(sizes, width)

    def forward(self, queries_BQD: Tensor, found_BQD: Tensor) -> Tensor:
        """Return queries with what they found added."""
        queries_BQD = queries_BQD + self.out_proj(found_BQD)
        out_BQD: Tensor = queries_BQD + self.mlp(self.norm2(queries_BQD))
        return out_BQD


class CrossAttention(nn.Module):
    """Norms, attention, output: what one abstractor layer consists of."""

    def __init__(self, sizes: AbstractorSizes, width: int, num_tokens: int) -> None:
        super().__init__()
        self.attention = AbstractorAttention(sizes, width, num_tokens)
        self.output = AbstractorOutput(sizes, width)
        self.norm1 = nn.LayerNorm(width, DEFAULT_EPS)
        self.normk = nn.LayerNorm(width, DEFAULT_EPS)

    def forward(self, queries_BQD: Tensor, tokens_BND: Tensor) -> Tensor:
        """Return refined queries."""
        queries_BQD = self.norm1(queries_BQD)
        found_BQD = self.attention(queries_BQD, self.normk(tokens_BND))
        out_BQD: Tensor = self.output(queries_BQD, found_BQD)
        return out_BQD


class AbstractorLayer(nn.Module):
    """Holds its one part under the released name."""

    def __init__(self, sizes: AbstractorSizes, width: int, num_tokens: int) -> None:
        super().__init__()
        self.crossattention = CrossAttention(sizes, width, num_tokens)

    def forward(self, queries_BQD: Tensor, tokens_BND: Tensor) -> Tensor:
        """Return refined queries."""
        out_BQD: Tensor = self.crossattention(queries_BQD, tokens_BND)
        return out_BQD


class Abstractor(nn.Module):
    """Image tokens to a few embeddings in the language model's width, closed by a learned end vector."""

    def __init__(self, sizes: AbstractorSizes, vision: VisionSizes, language_width: int) -> None:
        super().__init__()
        width = vision.width
        self.query_embeds = nn.Parameter(torch.zeros(1, sizes.num_queries, width))
        self.vit_eos = nn.Parameter(torch.zeros(1, 1, language_width))
        self.encoder = Layers([AbstractorLayer(sizes, width, vision.num_tokens) for _ in range(sizes.num_layers)])
        self.visual_fc = nn.Linear(width, language_width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Return Q + 1 embeddings per image, [B, Q + 1, language width]."""
        num_images = len(tokens_BND)
        queries_BQD = self.query_embeds.expand(num_images, -1, -1)
        for layer in self.encoder.layers:
            queries_BQD = layer(queries_BQD, tokens_BND)
        return torch.cat([self.visual_fc(queries_BQD), self.vit_eos.expand(num_images, -1, -1)], dim=1)
