"""Wan2.1 video autoencoder: 8 x 8 pixels and 4 frames to one latent of 16 channels, and back.

    vae = VAE(VAEConfig())
    latent = vae.encode(video)                                # 4n + 1 frames -> n + 1 latent frames
    for frames in vae.decode_groups(latent, (1, 8)): ...      # 1 frame, then 32, as they are ready

The network is causal in time. A video may therefore be worked through in groups of frames, each layer keeping the few
last frames it saw (`vae_primitives.History`): the numbers are those of one pass over the whole video, the memory is
that of the largest group. The first frame (first latent frame) is a group of its own; what follows is cut as one
likes: many small groups give the first frames early, few large ones keep a GPU busy.

Source: Wan2.1, `wan/modules/vae.py`; SoulX-FlashTalk at commit 688982e, `flash_talk/wan/modules/vae.py`. Parameter
names and shapes are those of the released file `Wan2.1_VAE.pth` (194 tensors).

Legend: B batch, C channels, F frames, H W pixels, T latent frames, h w latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from talkbench.errors import TalkbenchError

from .config import VAEConfig
from .vae_layers import Attention, CausalConv3d, Doubling, Halving, Head, Residual
from .vae_primitives import Borders, History, pointwise

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
"""Per latent channel (Wan2.1, `wan/modules/vae.py`)."""
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
"""Per latent channel (Wan2.1, `wan/modules/vae.py`)."""
GROUP_LATENTS = 8
"""Latent frames of a group unless the caller says otherwise: a 33-frame clip takes two calls."""
WHOLE = Borders()


class Encoder(nn.Module):
    """Video to the mean and log variance of the raw latents, one group of frames at a time."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.base_dim * factor for factor in (1, *config.multipliers)]
        layers: list[nn.Module] = []
        for stage, (wide_in, wide_out) in enumerate(pairwise(widths)):
            layers += [Residual(wide_out if i else wide_in, wide_out) for i in range(config.num_res_blocks)]
            if stage < len(config.halves_time):
                layers.append(Halving(wide_out, halves_time=config.halves_time[stage]))
        deep = widths[-1]
        self.conv1 = CausalConv3d(3, widths[0])
        self.downsamples = nn.ModuleList(layers)
        self.middle = nn.ModuleList([Residual(deep, deep), Attention(deep), Residual(deep, deep)])
        self.head = Head(deep, 2 * config.latent_channels)

    def forward(
        self, video_BCFHW: Tensor, before: Sequence[Tensor] | None, borders: Borders
    ) -> tuple[Tensor, list[Tensor]]:
        """Return raw latents `[B, 2*16, T, h, w]` of a group, and the frames to remember for the next."""
        history = History(before)
        x_BCFHW = self.conv1.causal(video_BCFHW, history, borders)
        for layer in (*self.downsamples, *self.middle, self.head):
            x_BCFHW = layer(x_BCFHW, history, borders)
        return x_BCFHW, history.after


class Decoder(nn.Module):
    """Raw latents to video, one group of latent frames at a time."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = [config.base_dim * factor for factor in reversed(config.multipliers)]
        doubles_time = config.halves_time[::-1]
        layers: list[nn.Module] = []
        width = widths[0]
        for stage, wide in enumerate(widths):
            layers += [Residual(wide if i else width, wide) for i in range(config.num_res_blocks + 1)]
            if stage < len(doubles_time):
                layers.append(Doubling(wide, doubles_time=doubles_time[stage]))
                width = wide // 2
        deep = widths[0]
        self.conv1 = CausalConv3d(config.latent_channels, deep)
        self.middle = nn.ModuleList([Residual(deep, deep), Attention(deep), Residual(deep, deep)])
        self.upsamples = nn.ModuleList(layers)
        self.head = Head(widths[-1], 3)

    def forward(
        self, latent_BCThw: Tensor, before: Sequence[Tensor] | None, borders: Borders
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the video `[B, 3, F, H, W]` of a group, not clamped, and the frames to remember for the next."""
        history = History(before)
        x_BCFHW = self.conv1.causal(latent_BCThw, history, borders)
        for layer in (*self.middle, *self.upsamples, self.head):
            x_BCFHW = layer(x_BCFHW, history, borders)
        return x_BCFHW, history.after


class VAE(nn.Module):
    """Encoder and decoder with the normalisation of their latents.

    Raises:
        ValueError: If the configuration does not have the 16 latent channels whose statistics are known, or its
            stages and halvings do not fit together.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        if config.latent_channels != len(LATENT_MEAN):
            raise ValueError(
                f"latent_channels is {config.latent_channels}; statistics are known for {len(LATENT_MEAN)}"
            )
        if len(config.halves_time) != len(config.multipliers) - 1:
            raise ValueError(f"halves_time {config.halves_time} must name the steps between {config.multipliers}")
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.conv2 = nn.Conv3d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, video_BCFHW: Tensor, borders: Borders = WHOLE) -> Tensor:
        """Return the normalised latents (the mean; nothing is sampled) of a video.

        Args:
            video_BCFHW: RGB in [-1, 1], 4n + 1 frames, sides that are multiples of 8; cast to the weights' dtype.
            borders: What lies around the picture, where it is a part of a larger one.

        Returns:
            `[B, 16, n + 1, H/8, W/8]` in the weights' dtype.

        Raises:
            TalkbenchError: If a size does not fit.
        """
        self.check_video(video_BCFHW)
        stride = self.config.temporal_stride
        num_latents = (video_BCFHW.shape[2] - 1) // stride + 1
        num_frames = [1, *(stride * group for group in default_groups(num_latents)[1:])]
        before, pieces = None, []
        for frames_BCFHW in video_BCFHW.split(num_frames, 2):
            raw_BCThw, before = self.encoder(self._prepared(frames_BCFHW), before, borders)
            pieces.append(raw_BCThw)
        mean_BCThw = pointwise(torch.cat(pieces, 2), self.conv1).chunk(2, 1)[0]
        mu_C111, scale_C111 = _statistics(mean_BCThw.dtype, mean_BCThw.device)
        return (mean_BCThw - mu_C111) * scale_C111

    def decode(self, latent_BCThw: Tensor, borders: Borders = WHOLE) -> Tensor:
        """Return the video of normalised latents, clamped to [-1, 1]: `[B, 3, 4(T-1) + 1, 8h, 8w]`.

        Args:
            latent_BCThw: 16 channels; cast to the weights' dtype.
            borders: What lies around the picture, where it is a part of a larger one.

        Raises:
            TalkbenchError: If a size does not fit.
        """
        return torch.cat(list(self.decode_groups(latent_BCThw, default_groups(latent_BCThw.shape[2]), borders)), 2)

    def decode_groups(self, latent_BCThw: Tensor, groups: Sequence[int], borders: Borders = WHOLE) -> Iterator[Tensor]:
        """Yield the video of `decode` group by group, each as soon as it is decoded.

        Args:
            latent_BCThw: As for `decode`.
            groups: Latent frames per group; they sum to T. The first latent frame gives one video frame, others four.
            borders: As for `decode`.

        Raises:
            TalkbenchError: If a size does not fit; at once, not with the first group.
        """
        self.check_latent(latent_BCThw, groups)
        return self._decode_groups(latent_BCThw, groups, borders)

    def _decode_groups(self, latent_BCThw: Tensor, groups: Sequence[int], borders: Borders) -> Iterator[Tensor]:
        before = None
        for group_BCThw in latent_BCThw.split(list(groups), 2):
            z_BCThw = self._prepared(group_BCThw)
            mu_C111, scale_C111 = _statistics(z_BCThw.dtype, z_BCThw.device)
            video_BCFHW, before = self.decoder(pointwise(z_BCThw / scale_C111 + mu_C111, self.conv2), before, borders)
            yield video_BCFHW.clamp(-1, 1)

    def channels_last(self) -> Self:
        """Lay the weights out channels-last, the order of the activations; call it once they are loaded."""
        for parameter in self.parameters():
            if parameter.dim() == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
            elif parameter.dim() == 4 and parameter.shape[2:] == (3, 3):
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile encoder and decoder: one graph for a first group, one for each size of the later ones.

        Args:
            args: For `torch.compile`.
            kwargs: For `torch.compile`; shapes are static and a graph break is an error.
        """
        # Not `half.compile()`: it compiles code that all modules of a process share, so that every graph, those of the
        # transformer too, counts towards one small limit.
        compiled = partial(torch.compile, *args, fullgraph=True, dynamic=False, **kwargs)
        self.encoder.forward = compiled(self.encoder.forward)  # type: ignore[method-assign]
        self.decoder.forward = compiled(self.decoder.forward)  # type: ignore[method-assign]

    def _prepared(self, x_BCFHW: Tensor) -> Tensor:
        weight = self.conv2.weight
        return x_BCFHW.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last_3d)

    def check_video(self, video_BCFHW: Tensor) -> None:
        """Raise a TalkbenchError if `encode` cannot take a video of this shape."""
        shape, stride = tuple(video_BCFHW.shape), self.config.spatial_stride
        if len(shape) != 5 or shape[1] != 3:
            raise TalkbenchError(f"video of shape {shape}; expected [batch, 3, frames, height, width]")
        _, _, num_frames, height, width = shape
        if num_frames % self.config.temporal_stride != 1:
            nearest = max(0, num_frames - 1) // self.config.temporal_stride * self.config.temporal_stride + 1
            raise TalkbenchError(
                f"video of {num_frames} frames; the autoencoder takes {self.config.temporal_stride}n + 1, "
                f"for example {nearest}. Cut the video or repeat its last frame."
            )
        if height % stride or width % stride or not height * width:
            raise TalkbenchError(
                f"video of {height}x{width} pixels (height x width); both must be multiples of {stride}. "
                "Crop or resize it first."
            )

    def check_latent(self, latent_BCThw: Tensor, groups: Sequence[int]) -> None:
        """Raise a TalkbenchError if `decode_groups` cannot take a latent of this shape, cut like this."""
        shape, channels = tuple(latent_BCThw.shape), self.config.latent_channels
        if len(shape) != 5 or shape[1] != channels or not all(shape):
            raise TalkbenchError(f"latent of shape {shape}; expected [batch, {channels}, frames, rows, columns]")
        if sum(groups) != shape[2] or any(group < 1 for group in groups):
            raise TalkbenchError(
                f"groups {tuple(groups)} do not cut {shape[2]} latent frames; expected positive counts with that sum"
            )


def default_groups(num_latents: int) -> list[int]:
    """Return how many latent frames each call takes: the first alone, the others `GROUP_LATENTS` at a time."""
    full, rest = divmod(num_latents - 1, GROUP_LATENTS)
    return [1, *[GROUP_LATENTS] * full, *[rest] * (rest > 0)]


@cache
def _statistics(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and 1/std of the latents; both are rounded before the division, as in the released code."""
    mu_C, std_C = (torch.tensor(values, dtype=dtype, device=device) for values in (LATENT_MEAN, LATENT_STD))
    return mu_C.view(-1, 1, 1, 1), (1.0 / std_C).view(-1, 1, 1, 1)
