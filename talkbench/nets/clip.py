"""The image encoder of CLIP ViT-B/32: a 224x224 picture as one vector of 512.

What is unusual about it:
- matrices are the fp16 values of the released file even when everything is computed in fp32 (see `half_rounded`);
- QuickGELU, x * sigmoid(1.702 x), and a norm before the first block;
- of the last block only the class token is used, so only that one is computed.

Parameter names and shapes are those of the released archive `ViT-B-32.pt`, image part only (152 tensors;
openai/CLIP d05afc4; Radford et al., Learning transferable visual models, 2021).

Legend: B pictures, C colours, H rows, W columns, N tokens, D width, A heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of red, green and blue in 0 to 1; as `CLIP_STD`, also Q-Align's (openai/CLIP d05afc4: clip/clip.py, `_transform`)."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

PREFIX = "visual."
"""Of the image part in the released archive; the rest belongs to text."""


class Attention(nn.Module):
    """Self-attention under the parameter names of `nn.MultiheadAttention`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.zeros(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, num_asking: int | None = None) -> Tensor:
        """Return what the first `num_asking` tokens (by default every one) gather from all."""
        width = x_BND.shape[-1]
        weights, biases = self.in_proj_weight.split([width, 2 * width]), self.in_proj_bias.split([width, 2 * width])
        query_BND = functional.linear(x_BND[:, :num_asking], weights[0], biases[0])
        key_BND, value_BND = functional.linear(x_BND, weights[1], biases[1]).chunk(2, dim=-1)
        query_BAND, key_BAND, value_BAND = (
            part_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part_BND in (query_BND, key_BND, value_BND)
        )
        mixed_BAND = functional.scaled_dot_product_attention(query_BAND, key_BAND, value_BAND)
        out_BND: Tensor = self.out_proj(mixed_BAND.transpose(1, 2).flatten(2))
        return out_BND


class Mlp(nn.Module):
    """Two layers with QuickGELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform every token by itself."""
        hidden_BND = self.c_fc(x_BND)
        out_BND: Tensor = self.c_proj(hidden_BND * torch.sigmoid(1.702 * hidden_BND))
        return out_BND


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x_BND: Tensor, num_asking: int | None = None) -> Tensor:
        """Return the first `num_asking` tokens (by default every one) after the block."""
        x_BND = x_BND[:, :num_asking] + self.attn(self.ln_1(x_BND), num_asking)
        out_BND: Tensor = x_BND + self.mlp(self.ln_2(x_BND))
        return out_BND


class Transformer(nn.Module):
    """The blocks, under the name the archive gives them."""

    def __init__(self, width: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the class token after all blocks, [B, 1, D]."""
        *before, last = self.resblocks
        for block in before:
            x_BND = block(x_BND)
        first_B1D: Tensor = last(x_BND, num_asking=1)
        return first_B1D


class VisionTransformer(nn.Module):
    """The image encoder itself; arguments as in `ClipVision`."""

    def __init__(self, width: int, depth: int, num_heads: int, patch_px: int, side_px: int, num_features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_px, patch_px, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros((side_px // patch_px) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, depth, num_heads)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.zeros(width, num_features))

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return one feature per picture, [B, D], not normalised."""
        patches_BND = self.conv1(pictures_BCHW).flatten(2).transpose(1, 2)
        first_B1D = self.class_embedding.expand(len(pictures_BCHW), 1, -1)
        tokens_BND = torch.cat([first_B1D, patches_BND], dim=1) + self.positional_embedding
        first_B1D = self.transformer(self.ln_pre(tokens_BND))
        features_BD: Tensor = self.ln_post(first_B1D[:, 0]) @ self.proj
        return features_BD


class ClipVision(nn.Module):
    """CLIP without its text part.

    Args:
        width: Length of a token.
        depth: Number of blocks.
        num_heads: Attention heads per block.
        patch_px: Side of a patch.
        side_px: Side of a picture.
        num_features: Length of a feature.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        patch_px: int = 32,
        side_px: int = 224,
        num_features: int = 512,
    ) -> None:
        super().__init__()
        self.visual = VisionTransformer(width, depth, num_heads, patch_px, side_px, num_features)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return one feature per picture, [B, D], not normalised.

        Args:
            pictures_BCHW: RGB with CLIP's mean and deviation, `side_px` square.
        """
        features_BD: Tensor = self.visual(pictures_BCHW)
        return features_BD


def half_rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image part of a state dictionary in fp32, matrices rounded to fp16 as the official loader does.

    Convolution, linear, attention and projection values are rounded; norms and embeddings are not. The released file
    holds fp16 already, so this changes nothing there.
    """
    kept = ("ln_", "class_embedding", "positional_embedding")
    return {
        name: (value if any(part.startswith(kept) for part in name.split(".")) else value.half()).float()
        for name, value in state.items()
        if name.startswith(PREFIX)
    }
