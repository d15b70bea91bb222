"""Layers of the Wan2.1 video autoencoder; `vae.py` puts them together.

Every layer is called as `layer(x_BCFHW, history, borders)`, see `vae_primitives.py`. What is unusual:
- a first frame alone sees only the last time slice of a causal kernel, the other two meet zeros: a third of the work;
- norms are per pixel and nothing attends over time, so only 3x3 convolutions and the middle attention look beyond a
  pixel, and only causal convolutions beyond a frame.

Parameter names and shapes are those of the released file `Wan2.1_VAE.pth` (Wan2.1, `wan/modules/vae.py`).

Legend: B batch, C channels, F frames, H W rows and columns of the stage at hand, N = B*F pictures, M positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .vae_primitives import Borders, History, as_pictures, as_video, convolve, join, pointwise


class Norm(nn.Module):
    """Scale every pixel's channels to a root mean square of one, then by `gamma`.

    Args:
        channels: C.
        num_ones: Trailing axes of size one that the released parameter has.
    """

    def __init__(self, channels: int, num_ones: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_ones))
        self._scale = channels**0.5

    def forward(self, x_BCFHW: Tensor) -> Tensor:
        """Return pictures or video of the same shape; axis 1 holds the channels."""
        unit_BCFHW: Tensor = functional.normalize(x_BCFHW, dim=1, eps=1e-12)
        return unit_BCFHW * (self.gamma * self._scale)

    def activated(self, x_BCFHW: Tensor) -> Tensor:
        """Return the norm's SiLU: one pass over memory once compiled."""
        return functional.silu(self(x_BCFHW))


class CausalConv3d(nn.Conv3d):
    """3x3x3 convolution that sees this frame and the two before it, and zeros beyond the picture."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def causal(self, x_BCFHW: Tensor, history: History, borders: Borders) -> Tensor:
        """Return as many frames as came in."""
        x_BCFHW = borders.around(x_BCFHW)
        joined_BCFHW = history.prepend(x_BCFHW, 2)
        if history.first and x_BCFHW.shape[2] == 1:
            y_NCHW = convolve(as_pictures(x_BCFHW), self.weight[:, :, 2], self, borders.padding)
            return as_video(y_NCHW, x_BCFHW.shape[0])
        del x_BCFHW  # gigabytes at full resolution, and the input is not needed any more
        return convolve(joined_BCFHW, self.weight, self, (0, *borders.padding))


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice, plus the input; a 1x1x1 convolution carries it over where the width changes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": Norm(in_channels),
                "2": CausalConv3d(in_channels, out_channels),
                "3": Norm(out_channels),
                "6": CausalConv3d(out_channels, out_channels),
            }
        )
        same = in_channels == out_channels
        self.shortcut = None if same else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x_BCFHW: Tensor, history: History, borders: Borders) -> Tensor:
        """Return the video at the new width."""
        layers: Any = self.residual.values()
        norm0, conv0, norm1, conv1 = layers
        # One expression, so that no name holds an activation while the next is made: at full resolution they are large.
        y_BCFHW: Tensor = conv1.causal(
            norm1.activated(conv0.causal(norm0.activated(x_BCFHW), history, borders)), history, borders
        )
        return y_BCFHW + (x_BCFHW if self.shortcut is None else pointwise(x_BCFHW, self.shortcut))


class Attention(nn.Module):
    """Single-head attention over the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, num_ones=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCFHW: Tensor, _history: History, borders: Borders) -> Tensor:
        """Return the video after attention."""
        x_NCHW = as_pictures(x_BCFHW)
        qkv_NMC = pointwise(self.norm(x_NCHW), self.to_qkv).flatten(2).mT
        width = x_NCHW.shape[1]
        q_NMC, kv_NMC = qkv_NMC.split([width, 2 * width], dim=2)
        k_NMC, v_NMC = borders.everywhere(kv_NMC).chunk(2, dim=2)
        y_NMC = functional.scaled_dot_product_attention(q_NMC[:, None], k_NMC[:, None], v_NMC[:, None])[:, 0]
        y_NCHW = pointwise(y_NMC.mT.unflatten(2, x_NCHW.shape[2:]), self.proj)
        return x_BCFHW + as_video(y_NCHW, x_BCFHW.shape[0])


class Halving(nn.Module):
    """Half the rows and columns, then, if asked, half the frames.

    The first frame of a video passes the time step untouched and is the first that it looks at: output 1 + j reads
    frames 2j, 2j+1, 2j+2.
    """

    def __init__(self, channels: int, *, halves_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if halves_time else None

    def forward(self, x_BCFHW: Tensor, history: History, borders: Borders) -> Tensor:
        """Return the video with fewer pixels and, if asked, frames."""
        conv: Any = self.resample["1"]
        y_NCHW = convolve(borders.after(as_pictures(x_BCFHW)), conv.weight, conv, (0, 0))
        y_BCFHW = as_video(y_NCHW, x_BCFHW.shape[0])
        return y_BCFHW if self.time_conv is None else self._halve_time(y_BCFHW, self.time_conv, history)

    @staticmethod
    def _halve_time(x_BCFHW: Tensor, conv: nn.Conv3d, history: History) -> Tensor:
        if not history.first:
            return convolve(history.prepend(x_BCFHW, 1), conv.weight, conv, (0, 0, 0))
        history.remember(x_BCFHW, 1)
        if x_BCFHW.shape[2] == 1:
            return x_BCFHW
        return join([x_BCFHW[:, :, :1], convolve(x_BCFHW, conv.weight, conv, (0, 0, 0))], 2)


class Doubling(nn.Module):
    """Twice the frames, if asked, then twice the rows and columns at half the width.

    The first frame of a video stays one frame and is not part of the history of the time step: what follows starts
    with zeros before it.
    """

    def __init__(self, channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3)})
        self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if doubles_time else None

    def forward(self, x_BCFHW: Tensor, history: History, borders: Borders) -> Tensor:
        """Return the video with more pixels and, if asked, frames."""
        batch = x_BCFHW.shape[0]
        if self.time_conv is not None:
            x_BCFHW = self._double_time(x_BCFHW, self.time_conv, history)
        x_NCHW = _doubled(as_pictures(x_BCFHW))
        conv: Any = self.resample["1"]
        return as_video(convolve(borders.around(x_NCHW), conv.weight, conv, borders.padding), batch)

    @staticmethod
    def _double_time(x_BCFHW: Tensor, conv: nn.Conv3d, history: History) -> Tensor:
        head_BCFHW, x_BCFHW = x_BCFHW.split([1, x_BCFHW.shape[2] - 1], 2) if history.first else (None, x_BCFHW)
        joined_BCFHW = history.prepend(x_BCFHW, 2)
        if head_BCFHW is not None and x_BCFHW.shape[2] == 0:
            return head_BCFHW
        # The first half of the channels is the earlier frame of a pair.
        y_BCFHW = convolve(joined_BCFHW, conv.weight, conv, (0, 0, 0))
        pairs_BFHW2C: Tensor = y_BCFHW.movedim(1, -1).unflatten(-1, (2, -1))
        y_BCFHW = pairs_BFHW2C.movedim(-2, 2).flatten(1, 2).movedim(-1, 1)
        return y_BCFHW if head_BCFHW is None else join([head_BCFHW, y_BCFHW], 2)


def _doubled(x_NCHW: Tensor) -> Tensor:
    """Return every pixel as two by two, channels-last.

    Not `interpolate`, whose CUDA kernel returns zeros for channels-last results above 2^31 values (pytorch issue
    141831): 33 frames of 720x720 at 192 channels.
    """
    pictures, channels, height, width = x_NCHW.shape
    x_NH1W1C = x_NCHW.movedim(1, -1)[:, :, None, :, None]
    x_NHWC = x_NH1W1C.expand(-1, -1, 2, -1, 2, -1).reshape(pictures, 2 * height, 2 * width, channels)
    return x_NHWC.movedim(-1, 1)


class Head(nn.ModuleDict):
    """Norm, SiLU, convolution to the output channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__({"0": Norm(in_channels), "2": CausalConv3d(in_channels, out_channels)})

    def forward(self, x_BCFHW: Tensor, history: History, borders: Borders) -> Tensor:
        """Return the video at the output width."""
        layers: Any = self.values()
        norm, conv = layers
        y_BCFHW: Tensor = conv.causal(norm.activated(x_BCFHW), history, borders)
        return y_BCFHW
