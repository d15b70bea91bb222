"""DINO ViT-B/16: the picture as one vector, the class token.

What is unusual about it:
- pictures keep their shape, so position embeddings are resized for nearly every clip. The target grid is handed to the
  interpolation as scale factors that are 0.1 patches too large; even an axis that keeps its length is resampled.
  transformers' and timm's ViT do not do this and give other numbers;
- rows and columns beyond the last whole patch are dropped;
- of the last block only the class token is used, so only that one is computed: 7 % less work, the same number.

Parameter names and shapes are those of the released file `dino_vitbase16_pretrain.pth` (150 tensors;
facebookresearch/dino 7c446df; Caron et al., Emerging properties in self-supervised vision transformers, 2021).

Legend: B pictures, C colours, H rows, W columns, N tokens, D width, A heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPS = 1e-6
POSITION_OFFSET = 0.1
"""Added to the target grid before it becomes a scale; meant against rounding, it moves every sampling position."""


class Attention(nn.Module):
    """Self-attention with packed queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, num_asking: int | None = None) -> Tensor:
        """Return what the first `num_asking` tokens (by default every one) gather from all."""
        width = x_BND.shape[-1]
        weights, biases = self.qkv.weight.split([width, 2 * width]), self.qkv.bias.split([width, 2 * width])
        query_BND = functional.linear(x_BND[:, :num_asking], weights[0], biases[0])
        key_BND, value_BND = functional.linear(x_BND, weights[1], biases[1]).chunk(2, dim=-1)
        query_BAND, key_BAND, value_BAND = (
            part_BND.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part_BND in (query_BND, key_BND, value_BND)
        )
        mixed_BAND = functional.scaled_dot_product_attention(query_BAND, key_BAND, value_BAND)
        out_BND: Tensor = self.proj(mixed_BAND.transpose(1, 2).flatten(2))
        return out_BND


class Mlp(nn.Module):
    """Two layers with exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Transform every token by itself."""
        out_BND: Tensor = self.fc2(functional.gelu(self.fc1(x_BND)))
        return out_BND


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x_BND: Tensor, num_asking: int | None = None) -> Tensor:
        """Return the first `num_asking` tokens (by default every one) after the block."""
        x_BND = x_BND[:, :num_asking] + self.attn(self.norm1(x_BND), num_asking)
        out_BND: Tensor = x_BND + self.mlp(self.norm2(x_BND))
        return out_BND


class PatchEmbed(nn.Module):
    """One token per patch."""

    def __init__(self, patch_px: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_px, patch_px)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return a grid of tokens, [B, D, rows, columns]."""
        out_BDHW: Tensor = self.proj(pictures_BCHW)
        return out_BDHW


class DinoViT(nn.Module):
    """The vision transformer without its training head.

    Args:
        width: Length of a token.
        depth: Number of blocks.
        num_heads: Attention heads per block.
        patch_px: Side of a patch.
        grid: Patches per side of the pictures it was trained on.
    """

    def __init__(
        self, width: int = 768, depth: int = 12, num_heads: int = 12, patch_px: int = 16, grid: int = 14
    ) -> None:
        super().__init__()
        self.grid = grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, width))
        self.patch_embed = PatchEmbed(patch_px, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)

    def positions(self, rows: int, columns: int, *, square: bool) -> Tensor:
        """Return the position embeddings of a grid of patches, [1, rows * columns, D].

        Args:
            rows: Of the grid.
            columns: Of the grid.
            square: Whether the picture itself is square: only then are embeddings of the trained grid used as they are.
        """
        grid_1ND = self.pos_embed[:, 1:]
        if square and rows * columns == self.grid**2:
            return grid_1ND
        grid_1DHW = grid_1ND.float().view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        scale = ((rows + POSITION_OFFSET) / self.grid, (columns + POSITION_OFFSET) / self.grid)
        return functional.interpolate(grid_1DHW, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return the class token after the last norm, [B, D].

        Args:
            pictures_BCHW: RGB with ImageNet mean and deviation, sides of at least one patch.
        """
        height, width = pictures_BCHW.shape[-2:]
        tokens_BDHW = self.patch_embed(pictures_BCHW)
        positions_1ND = self.positions(*tokens_BDHW.shape[-2:], square=height == width)
        patches_BND = tokens_BDHW.flatten(2).transpose(1, 2) + positions_1ND
        first_1ND = self.cls_token + self.pos_embed[:, :1]
        tokens_BND = torch.cat([first_1ND.expand(len(pictures_BCHW), -1, -1), patches_BND], dim=1)
        *before, last = self.blocks
        for block in before:
            tokens_BND = block(tokens_BND)
        features_BD: Tensor = self.norm(last(tokens_BND, num_asking=1)[:, 0])
        return features_BD
