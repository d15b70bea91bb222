"""The video autoencoder in tiles, as the report runs it on several GPUs: fast to write, and not the same picture.

    tiled = TiledVAE(vae, group)         # one tile per process
    tiled = TiledVAE(vae, 8)             # the same eight tiles, one after the other, by this process alone
    tiling_error(vae.decode(latent), tiled.decode(latent), tiled.grid(90, 52))

The picture is cut into a grid; each tile is worked through with a margin of its neighbours' pixels, as if it were a
picture of its own, and the margin is cut off. A convolution then sees a false edge a few pixels outside of the tile,
and the middle attention only its tile, so the result depends on the grid. `bands.py` has the exact split; this one is
here to reproduce the report's and to measure what it costs.

Source: SoulX-FlashTalk at commit 688982e, `flash_talk/wan/modules/vae.py`, which has it from LightX2V,
`lightx2v/models/video_encoders/hf/wan/vae.py`.

Legend: B batch, C channels, F frames, H W pixels, T latent frames, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from talkbench.errors import TalkbenchError

from ..vae import VAE, default_groups

DECODE_HALO = 2
ENCODE_HALO = 1
SEAM_REACH_PX = 8
"""Pixels on either side of a cut that count as the seam: one latent."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in latent rows (columns).

    Attributes:
        start: First row that is worked through.
        stop: Row after the last one.
        keep: First row that is kept, counted from `start`.
        length: Rows that are kept.
    """

    start: int
    stop: int
    keep: int
    length: int


@dataclass(frozen=True)
class TilingError:
    """What tiles cost against the exact result.

    Attributes:
        psnr_db: Over everything, for a range of 2; infinite if nothing differs.
        max_difference: Largest absolute difference.
        max_seam_difference: The same within 8 pixels of a cut; 0 if the grid has none.
    """

    psnr_db: float
    max_difference: float
    max_seam_difference: float


def choose_grid(num_tiles: int, rows: int, columns: int) -> tuple[int, int]:
    """Return the rows and columns of tiles: of the pairs that divide the latent, the one with the squarest tiles.

    Raises:
        TalkbenchError: If no pair divides it. The released code then drops the columns that are left over.
    """
    pairs = [(num_tiles // n, n) for n in range(1, num_tiles + 1) if num_tiles % n == 0]
    grids = [(down, across) for down, across in pairs if rows % down == 0 and columns % across == 0]
    if not grids:
        raise TalkbenchError(
            f"{num_tiles} tiles do not divide a latent of {rows}x{columns} (rows x columns) evenly. "
            "Choose another number of processes or size, or `vae: exact`, which cuts anything."
        )
    return min(grids, key=lambda grid: abs(rows // grid[0] - columns // grid[1]))


def spans(length: int, num_tiles: int, halo: int) -> list[Span]:
    """Cut one axis into equal tiles with `halo` rows on either side; outer tiles have both on their inner side.

    Raises:
        TalkbenchError: If a tile with its halo is longer than the axis.
    """
    if num_tiles == 1:
        return [Span(0, length, 0, length)]
    core = length // num_tiles
    size = core + 2 * halo
    if size > length:
        raise TalkbenchError(
            f"a tile of {core} latent rows with {halo} more on either side does not fit into {length}. "
            "Use fewer processes, a larger size, or `vae: exact`."
        )
    starts = [min(max(i * core - halo, 0), length - size) for i in range(num_tiles)]
    return [Span(start, start + size, i * core - start, core) for i, start in enumerate(starts)]


class TiledVAE:
    """`VAE` in tiles: whole tensors in and out, on every rank.

    Args:
        vae: The same weights on every rank; compiled or not.
        tiles: The processes that do one tile each, or how many tiles this process does alone.
        decode_halo: Latent rows around a tile when decoding (the report's times fit 1, the released code has 2).
        encode_halo: The same when encoding.
    """

    def __init__(
        self,
        vae: VAE,
        tiles: dist.ProcessGroup | int,
        *,
        decode_halo: int = DECODE_HALO,
        encode_halo: int = ENCODE_HALO,
    ) -> None:
        self._vae, self._decode_halo, self._encode_halo = vae, decode_halo, encode_halo
        self._group = None if isinstance(tiles, int) else tiles
        self.num_tiles = tiles if isinstance(tiles, int) else tiles.size()

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the rows and columns of tiles for a latent of this size; raises as `choose_grid` does."""
        return choose_grid(self.num_tiles, rows, columns)

    def encode(self, video_BCFHW: Tensor) -> Tensor:
        """Return latents as `VAE.encode` does, tile by tile.

        Raises:
            TalkbenchError: If a size does not fit or cannot be cut.
        """
        self._vae.check_video(video_BCFHW)
        stride = self._vae.config.spatial_stride
        rows, columns = (side // stride for side in video_BCFHW.shape[3:])
        tiles = self._tiles(rows, columns, self._encode_halo)
        mine = [self._vae.encode(_cut(video_BCFHW, tile, stride)) for tile in self._mine(tiles)]
        return self._assembled(mine, tiles, (rows, columns), 1)

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Return video as `VAE.decode` does, tile by tile; raises as `encode` does."""
        return torch.cat(list(self.decode_groups(latent_BCThw, default_groups(latent_BCThw.shape[2]))), 2)

    def decode_groups(self, latent_BCThw: Tensor, groups: Sequence[int]) -> Iterator[Tensor]:
        """Yield video as `VAE.decode_groups` does, tile by tile; raises as `encode` does, at once."""
        self._vae.check_latent(latent_BCThw, groups)
        rows, columns = latent_BCThw.shape[3:]
        tiles = self._tiles(rows, columns, self._decode_halo)
        mine = [self._vae.decode_groups(_cut(latent_BCThw, tile, 1), groups) for tile in self._mine(tiles)]
        stride = self._vae.config.spatial_stride
        return (self._assembled(pieces, tiles, (rows, columns), stride) for pieces in zip(*mine, strict=True))

    def _tiles(self, rows: int, columns: int, halo: int) -> list[tuple[Span, Span]]:
        """Return all tiles, row by row: rank r does the r-th."""
        down, across = self.grid(rows, columns)
        return list(product(spans(rows, down, halo), spans(columns, across, halo)))

    def _mine(self, tiles: list[tuple[Span, Span]]) -> list[tuple[Span, Span]]:
        return tiles if self._group is None else [tiles[self._group.rank()]]

    def _assembled(
        self, mine: Sequence[Tensor], tiles: list[tuple[Span, Span]], latent_size: tuple[int, int], unit: int
    ) -> Tensor:
        """Return the whole of what the tiles became, their margins cut off; `unit` is their size per latent row."""
        kept = [
            tensor.narrow(3, down.keep * unit, down.length * unit).narrow(4, across.keep * unit, across.length * unit)
            for tensor, (down, across) in zip(mine, self._mine(tiles), strict=True)
        ]
        parts = kept if self._group is None else self._gathered(kept[0])
        across = self.grid(*latent_size)[1]
        return torch.cat([torch.cat(parts[i : i + across], 4) for i in range(0, len(parts), across)], 3)

    def _gathered(self, part: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(self.num_tiles)]
        dist.all_gather(parts, part.contiguous(), group=self._group)
        return parts


def _cut(x_BCFHW: Tensor, tile: tuple[Span, Span], unit: int) -> Tensor:
    down, across = tile
    return x_BCFHW[..., down.start * unit : down.stop * unit, across.start * unit : across.stop * unit]


def tiling_error(exact_BCFHW: Tensor, tiled_BCFHW: Tensor, grid: tuple[int, int]) -> TilingError:
    """Compare a tiled decode with the exact one.

    Args:
        exact_BCFHW: In [-1, 1].
        tiled_BCFHW: Of the same shape.
        grid: Rows and columns of tiles.
    """
    difference_BCFHW = (exact_BCFHW.double() - tiled_BCFHW.double()).abs()
    seam_HW = torch.zeros(exact_BCFHW.shape[3:], dtype=torch.bool, device=exact_BCFHW.device)
    for side_XY, num_tiles in ((seam_HW, grid[0]), (seam_HW.T, grid[1])):
        for i in range(1, num_tiles):
            cut = i * len(side_XY) // num_tiles
            side_XY[max(0, cut - SEAM_REACH_PX) : cut + SEAM_REACH_PX] = True
    squared = difference_BCFHW.square().mean()
    seam = difference_BCFHW[..., seam_HW]
    return TilingError(
        psnr_db=(10 * torch.log10(4 / squared)).item(),
        max_difference=difference_BCFHW.max().item(),
        max_seam_difference=seam.max().item() if seam.numel() else 0.0,
    )
