"""The video autoencoder on several processes, exactly: each holds a band of the picture at every layer.

    banded = BandedVAE(vae, group)
    video = banded.decode(latent)        # the whole latent in, the whole video out, on every rank

The longer latent axis is cut into bands of whole latent rows (or columns). A 3x3 convolution needs one row of each
neighbour: `Bands` fetches it, and hands out zeros at the edge of the picture, where one process would pad. The middle
attention needs the keys and values of all positions. Nothing else in the network looks beyond a pixel, so the numbers
are those of one process up to rounding. The layers do not know: they ask `vae_primitives.Borders`, and get this kind.

Every call is a collective: all ranks of the group make the same calls with the same inputs, and consume `decode_groups`
to the same point.

Legend: B batch, C channels, F frames, H W pixels, T latent frames, h w latent rows and columns,
N pictures, M positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from talkbench.errors import TalkbenchError

from ..vae import VAE, default_groups
from ..vae_primitives import Borders, join
from .sequence import shard_sizes


class Bands(Borders):
    """How a picture is cut into bands, and what this process has to fetch from the others.

    Args:
        rows: Latent rows of the picture (h).
        columns: Latent columns of the picture (w).
        group: The processes; rank r holds band r, counted from the top (left).

    Raises:
        TalkbenchError: If there are more processes than rows along the longer axis.
    """

    def __init__(self, rows: int, columns: int, group: dist.ProcessGroup) -> None:
        self.rank, self.num_ranks, self._group = group.rank(), group.size(), group
        length, name = (rows, "rows") if rows >= columns else (columns, "columns")
        if self.num_ranks > length:
            raise TalkbenchError(
                f"{self.num_ranks} processes cannot share {length} latent {name} ({rows}x{columns}); each needs one. "
                f"Use at most {length} processes, or `vae: off`."
            )
        self._dim = -2 if rows >= columns else -1
        self.padding = (0, 1) if rows >= columns else (1, 0)
        self.sizes = shard_sizes(length, self.num_ranks)

    def cut(self, x_BCFHW: Tensor) -> Tensor:
        """Return this process's band of a whole video or latent."""
        unit = x_BCFHW.shape[self._dim] // sum(self.sizes)
        start = list(accumulate(self.sizes, initial=0))[self.rank]
        return x_BCFHW.narrow(self._dim, start * unit, self.sizes[self.rank] * unit)

    def join(self, band_BCFHW: Tensor) -> Tensor:
        """Return the whole video or latent on every rank."""
        return self._gathered(band_BCFHW, band_BCFHW.dim() + self._dim).contiguous()

    def around(self, x_NCHW: Tensor) -> Tensor:
        """Return the band between its neighbours' nearest rows."""
        before, behind = self._neighbours(x_NCHW)
        return join([before, x_NCHW, behind], self._dim)

    def after(self, x_NCHW: Tensor) -> Tensor:
        """Return the band with the next one's first row behind it, and zeros behind it along the other axis."""
        _, behind = self._neighbours(x_NCHW)
        across = (0, 1, 0, 0) if self._dim == -2 else (0, 0, 0, 1)
        return functional.pad(join([x_NCHW, behind], self._dim), across)

    def everywhere(self, x_NMC: Tensor) -> Tensor:
        """Return the positions of all bands, band by band."""
        return self._gathered(x_NMC, 1)

    def _neighbours(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row before the band and the one behind it, zeros at the picture's edge.

        One all-to-all, empty but for the neighbours: `torch.compile` keeps it in its graph, unlike sends and receives.
        """
        first = x_NCHW.narrow(self._dim, 0, 1)
        last = x_NCHW.narrow(self._dim, x_NCHW.shape[self._dim] - 1, 1)
        neighbours = [rank for rank in (self.rank - 1, self.rank + 1) if 0 <= rank < self.num_ranks]
        counts = [first.numel() if rank in neighbours else 0 for rank in range(self.num_ranks)]
        sent = [(first if rank < self.rank else last).movedim(1, -1).flatten() for rank in neighbours]
        packed = torch.cat([*sent, first.new_empty(0)])
        arrived = torch.empty_like(packed)
        dist.all_to_all_single(arrived, packed, counts, counts, group=self._group)
        edge = first.new_zeros(()).expand(first.shape)
        rows = {
            rank: row.view(first.movedim(1, -1).shape).movedim(-1, 1)
            for rank, row in zip(neighbours, arrived.split(first.numel()), strict=False)
        }
        return rows.get(self.rank - 1, edge), rows.get(self.rank + 1, edge)

    def _gathered(self, x: Tensor, dim: int) -> Tensor:
        """Return the parts of all ranks joined along an axis, whose lengths are in proportion to the bands."""
        # An all-to-all again, since it takes unequal parts: everybody is sent a copy of the same part.
        unit = x.shape[dim] // self.sizes[self.rank]
        part = x.movedim(dim, 0)
        counts = [size * unit for size in self.sizes]
        parts = x.new_empty(sum(counts), *part.shape[1:])
        sent = part.repeat(self.num_ranks, *[1] * (part.dim() - 1))
        dist.all_to_all_single(parts, sent, counts, [len(part)] * self.num_ranks, group=self._group)
        return parts.movedim(0, dim)


class BandedVAE:
    """`VAE` over the processes of a group: whole tensors in and out, on every rank.

    Args:
        vae: The same weights on every rank; compiled or not.
        group: The processes that share the work.
    """

    def __init__(self, vae: VAE, group: dist.ProcessGroup) -> None:
        self._vae, self._group = vae, group

    def encode(self, video_BCFHW: Tensor) -> Tensor:
        """Return what `VAE.encode` returns.

        Raises:
            TalkbenchError: If a size does not fit, or there are more processes than rows.
        """
        self._vae.check_video(video_BCFHW)
        stride = self._vae.config.spatial_stride
        bands = Bands(video_BCFHW.shape[3] // stride, video_BCFHW.shape[4] // stride, self._group)
        return bands.join(self._vae.encode(bands.cut(video_BCFHW), bands))

    def decode(self, latent_BCThw: Tensor) -> Tensor:
        """Return what `VAE.decode` returns; raises as `encode` does."""
        return torch.cat(list(self.decode_groups(latent_BCThw, default_groups(latent_BCThw.shape[2]))), 2)

    def decode_groups(self, latent_BCThw: Tensor, groups: Sequence[int]) -> Iterator[Tensor]:
        """Yield what `VAE.decode_groups` yields; raises as `encode` does, at once."""
        self._vae.check_latent(latent_BCThw, groups)
        bands = Bands(latent_BCThw.shape[3], latent_BCThw.shape[4], self._group)
        return map(bands.join, self._vae.decode_groups(bands.cut(latent_BCThw), groups, bands))
