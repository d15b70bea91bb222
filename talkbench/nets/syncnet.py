"""SyncNet v2: one network for mouths, one for sound, whose outputs are close where the two belong together.

What is unusual about it:
- pixels are BGR in 0 to 255, not normalised; sound is 13 MFCC by 20 columns (0.2 s), not normalised either;
- one window of the lip network is five frames, but only its first convolution spans time. Run over the whole frame
  axis it gives every window at once, equal to the windowed result but for rounding and a fifth of the work.

Parameter names and shapes are those of the released file `syncnet_v2.model` (102 tensors; joonson/syncnet_python:
SyncNetModel.py, network `S`; Chung and Zisserman, Out of time, 2016).

Legend: T frames, N windows, C channels, H = W = 224, M = 20 columns, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

WINDOW_FRAMES = 5
"""Frames that one lip feature sees; T frames give T - 4 features."""
WINDOW_COLUMNS = 20
"""MFCC columns that one audio feature sees."""
CROP_PX = 224


def _sound_layers(widths: Sequence[int]) -> nn.Sequential:
    a, b, c, d, e = widths
    return nn.Sequential(
        nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU(inplace=True), nn.Identity(),
        nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(3, (1, 2)),
        nn.Conv2d(b, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(inplace=True),
        nn.Conv2d(c, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace=True),
        nn.Conv2d(d, d, 3, padding=1), nn.BatchNorm2d(d), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2),
        nn.Conv2d(d, e, (5, 4)), nn.BatchNorm2d(e), nn.ReLU(inplace=True),
    )  # fmt: skip


def _lip_layers(widths: Sequence[int]) -> nn.Sequential:
    a, b, e = widths

    def flat(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Conv3d:
        return nn.Conv3d(inputs, outputs, (1, kernel, kernel), (1, stride, stride), (0, padding, padding))

    def pool(padding: int = 0) -> nn.MaxPool3d:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))

    return nn.Sequential(
        nn.Conv3d(3, a, (WINDOW_FRAMES, 7, 7), (1, 2, 2)), nn.BatchNorm3d(a), nn.ReLU(inplace=True), pool(),
        flat(a, b, 5, 2, 1), nn.BatchNorm3d(b), nn.ReLU(inplace=True), pool(1),
        flat(b, b, 3, 1, 1), nn.BatchNorm3d(b), nn.ReLU(inplace=True),
        flat(b, b, 3, 1, 1), nn.BatchNorm3d(b), nn.ReLU(inplace=True),
        flat(b, b, 3, 1, 1), nn.BatchNorm3d(b), nn.ReLU(inplace=True), pool(),
        flat(b, e, 6), nn.BatchNorm3d(e), nn.ReLU(inplace=True),
    )  # fmt: skip


def _projection(width: int, num_features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, num_features)
    )


class SyncNet(nn.Module):
    """The pair of networks.

    Args:
        channel_divisor: Divides every hidden width; 1 is the released size, more makes a net of the same architecture
            and parameter names for small domains.
        num_features: Length of a feature.
    """

    def __init__(self, channel_divisor: int = 1, num_features: int = 1024) -> None:
        super().__init__()

        def widths(*full: int) -> list[int]:
            return [width // channel_divisor for width in full]

        self.num_features = num_features
        last = 512 // channel_divisor
        self.netcnnaud = _sound_layers(widths(64, 192, 384, 256, 512))
        self.netfcaud = _projection(last, num_features)
        self.netfclip = _projection(last, num_features)
        self.netcnnlip = _lip_layers(widths(96, 256, 512))

    def lip_features(self, frames_TCHW: Tensor) -> Tensor:
        """Return one feature per window of five consecutive frames, [T - 4, D].

        Args:
            frames_TCHW: BGR crops of 224x224 in 0 to 255, any dtype, T >= 5; consecutive.
        """
        weight = next(self.netcnnlip.parameters())
        frames_CTHW = frames_TCHW.to(weight.device, weight.dtype).transpose(0, 1)
        lips_CT11 = self.netcnnlip(frames_CTHW[None])[0]
        features: Tensor = self.netfclip(lips_CT11.flatten(1).T)
        return features

    def audio_features(self, windows_NCM: Tensor) -> Tensor:
        """Return one feature per window of sound, [N, D].

        Args:
            windows_NCM: 13 coefficients by 20 columns; window i of a clip at 25 frames per second starts at column 4 i.
        """
        weight = next(self.netcnnaud.parameters())
        sound_NC = self.netcnnaud(windows_NCM.to(weight.device, weight.dtype)[:, None]).flatten(1)
        features: Tensor = self.netfcaud(sound_NC)
        return features

    def forward(self, frames_TCHW: Tensor, windows_NCM: Tensor) -> tuple[Tensor, Tensor]:
        """Return lip and audio features."""
        return self.lip_features(frames_TCHW), self.audio_features(windows_NCM)


def sized_like(state: Mapping[str, Tensor]) -> SyncNet:
    """Return a network, not yet filled, of the sizes of a state dictionary; of the released size if it is another's."""
    first, last = state.get("netcnnlip.0.bias"), state.get("netfclip.3.bias")
    if first is None or last is None or first.numel() not in range(1, 97):
        return SyncNet()
    return SyncNet(96 // first.numel(), last.numel())


def ready(net: SyncNet) -> SyncNet:
    """Make a loaded network faster, in place: convolutions take over their normalisation, lips lie channels last.

    Features move by rounding only. Names and shapes are no longer those of the file.
    """
    net.eval()
    for layers in (net.netcnnaud, net.netcnnlip):
        for number in range(len(layers) - 1):
            convolution, norm = layers[number], layers[number + 1]
            if isinstance(convolution, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                layers[number] = fuse_conv_bn_eval(convolution, norm)
                layers[number + 1] = nn.Identity()
    net.netcnnlip.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return net
