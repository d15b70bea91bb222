"""S3FD, a single-shot face detector on six scales, small enough for every frame at quarter size.

What is unusual about it:
- the first scale has three scores for "no face", of which the largest counts (max-out background);
- the third pool rounds up, so grids are not powers of two of the image;
- one square prior per cell, of four times the cell's step.

Parameter names and shapes are those of the released file `sfd_face.pth` (65 tensors; Zhang et al., S3FD: Single Shot
Scale-invariant Face Detector, 2017; joonson/syncnet_python: detectors/s3fd).

Legend: B images, C channels, H and W pixels, P priors (cells of all six scales).
"""

from __future__ import annotations

from functools import lru_cache, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional

POOLS_ROUND_UP = (False, False, True, False, False)
MIN_SIDE_PX = reduce(lambda side, rounds_up: 2 * side - rounds_up, reversed(POOLS_ROUND_UP), 1)
"""Of an image of which the last pool still has a pixel: 28."""
STEPS = (4, 8, 16, 32, 64, 128)
PRIOR_PX = (16, 32, 64, 128, 256, 512)
MEAN_RGB = (123.0, 117.0, 104.0)
_CENTRE_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_NORMALISED = {15: "L2Norm3_3", 22: "L2Norm4_3", 29: "L2Norm5_3"}


class ChannelNorm(nn.Module):
    """Divides each cell by its length over the channels, then scales each channel."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the normalised features."""
        length = x_BCHW.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10
        return x_BCHW / length * self.weight[:, None, None]


def _trunk() -> nn.ModuleList:
    layers: list[nn.Module] = []
    inputs = 3
    stages = [(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]
    for (width, count), rounds_up in zip(stages, POOLS_ROUND_UP, strict=True):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.MaxPool2d(2, 2, ceil_mode=rounds_up))
    layers += [nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(1024, 1024, 1), nn.ReLU(inplace=True)]
    return nn.ModuleList(layers)


class S3FD(nn.Module):
    """The detector."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = _trunk()
        self.L2Norm3_3 = ChannelNorm(256, 10.0)
        self.L2Norm4_3 = ChannelNorm(512, 8.0)
        self.L2Norm5_3 = ChannelNorm(512, 5.0)
        self.extras = nn.ModuleList(
            [
                nn.Conv2d(1024, 256, 1),
                nn.Conv2d(256, 512, 3, stride=2, padding=1),
                nn.Conv2d(512, 128, 1),
                nn.Conv2d(128, 256, 3, stride=2, padding=1),
            ]
        )
        widths = (256, 512, 512, 1024, 512, 256)
        self.loc = nn.ModuleList(nn.Conv2d(width, 4, 3, padding=1) for width in widths)
        self.conf = nn.ModuleList(
            nn.Conv2d(width, 4 if scale == 0 else 2, 3, padding=1) for scale, width in enumerate(widths)
        )

    def sources(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the features of the six scales.

        Args:
            images_BCHW: RGB in 0 to 255.
        """
        weight = next(self.vgg.parameters())
        x_BCHW = images_BCHW.to(weight.device, weight.dtype) - _mean_C11(weight.device).to(weight.dtype)
        found = []
        for number, layer in enumerate(self.vgg):
            x_BCHW = layer(x_BCHW)
            if number in _NORMALISED:
                found.append(getattr(self, _NORMALISED[number])(x_BCHW))
        found.append(x_BCHW)
        for number, layer in enumerate(self.extras):
            x_BCHW = functional.relu(layer(x_BCHW))
            if number % 2:
                found.append(x_BCHW)
        return found

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities of a face [B, P] and boxes [B, P, 4] (left, top, right, bottom; 1 is the whole side).

        Args:
            images_BCHW: RGB in 0 to 255.
        """
        offsets, faces, grids = [], [], []
        for scale, source_BCHW in enumerate(self.sources(images_BCHW)):
            scores_BCHW = self.conf[scale](source_BCHW)
            background_B1HW = scores_BCHW[:, :-1].amax(dim=1, keepdim=True)
            both_BCHW = torch.cat([background_B1HW, scores_BCHW[:, -1:]], dim=1)
            faces.append(both_BCHW.softmax(dim=1)[:, 1].flatten(1))
            offsets.append(self.loc[scale](source_BCHW).permute(0, 2, 3, 1).flatten(1, 2))
            grids.append((source_BCHW.shape[2], source_BCHW.shape[3]))
        offsets_BP4 = torch.cat(offsets, dim=1)
        height, width = images_BCHW.shape[2:]
        priors_P4 = priors(height, width, tuple(grids), offsets_BP4.device).to(offsets_BP4.dtype)
        return torch.cat(faces, dim=1), decode(offsets_BP4, priors_P4)


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def _mean_C11(device: torch.device) -> Tensor:
    return torch.tensor(MEAN_RGB, device=device)[:, None, None]


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def priors(height: int, width: int, grids: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return centre x, centre y, width and height of every prior in units of the image's sides, [P, 4].

    Made once per size of image and device; usable in and out of inference mode.
    """
    found = []
    for (rows, columns), step, size in zip(grids, STEPS, PRIOR_PX, strict=True):
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        centres = torch.stack([x.flatten() * step / width, y.flatten() * step / height], dim=1)
        found.append(torch.cat([centres, torch.tensor([size / width, size / height]).expand(len(centres), 2)], dim=1))
    return torch.cat(found).to(device)


def decode(offsets_BP4: Tensor, priors_P4: Tensor) -> Tensor:
    """Return boxes as corners from what the network says relative to the priors."""
    centres = priors_P4[:, :2] + offsets_BP4[..., :2] * _CENTRE_VARIANCE * priors_P4[:, 2:]
    sizes = priors_P4[:, 2:] * torch.exp(offsets_BP4[..., 2:] * _SIZE_VARIANCE)
    corners = centres - sizes / 2
    return torch.cat([corners, corners + sizes], dim=-1)
