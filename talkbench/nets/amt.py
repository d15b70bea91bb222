"""AMT-S: the picture halfway between two pictures.

What is unusual about it:
- one number per pair, the mean of both pictures over everything, is subtracted first; what a picture is encoded to
  therefore belongs to its pair and cannot be kept for the next one;
- two flows, from the middle to each picture, start at 1/16 and are refined at 1/8, 1/4 and 1/2; each time they are
  corrected by looking up how all positions of one picture correlate with all of the other (`Correlation`);
- at full size there are three flows per direction, whose three pictures are averaged and corrected.

Parameter names and shapes are those of the released file `amt-s.pth` (213 tensors; MCG-NKU/AMT 70f988f; Li et
al., AMT: all-pairs multi-field transforms for frame interpolation, 2023). The file is licensed CC BY-NC 4.0.

Legend: B pairs, C channels, H rows, W columns; 0 and 1 stand for the first and the second picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from talkbench.nets.amt_correlation import LEVELS, WINDOW, Correlation

MIDDLE = 0.5
"""Time of the picture that is made: 0 is the first picture, 1 the second."""
SIDE_CHANNELS = 20
NUM_FLOWS = 3
MULTIPLE_PX = 16
"""Sides must be multiples of this, after scaling."""
MIN_SIDE_PX = 128
"""Below this the coarsest correlation has a side of one, and positions in it are undefined."""


def resized(x_BCHW: Tensor, factor: float) -> Tensor:
    """Return maps enlarged or reduced by a factor, bilinear."""
    if factor == 1:
        return x_BCHW
    return functional.interpolate(x_BCHW, scale_factor=factor, mode="bilinear", align_corners=False)


def warped(x_BCHW: Tensor, flow_B2HW: Tensor) -> Tensor:
    """Return maps sampled where the flow (in pixels; x, then y) points; beyond the edge, the edge."""
    height, width = x_BCHW.shape[-2:]
    x_W = torch.linspace(-1, 1, width, device=x_BCHW.device)
    y_H = torch.linspace(-1, 1, height, device=x_BCHW.device)
    at_BHW2 = torch.stack(
        [
            x_W + flow_B2HW[:, 0].float() / ((width - 1) / 2),
            y_H[:, None] + flow_B2HW[:, 1].float() / ((height - 1) / 2),
        ],
        dim=-1,
    )
    return functional.grid_sample(
        x_BCHW, at_BHW2.to(x_BCHW.dtype), mode="bilinear", padding_mode="border", align_corners=True
    )


def conv_prelu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution and a PReLU with a slope per channel."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class Bottleneck(nn.Module):
    """Three convolutions around a shortcut; norms own no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs // 4, 1)
        self.conv2 = nn.Conv2d(outputs // 4, outputs // 4, 3, stride, 1)
        self.conv3 = nn.Conv2d(outputs // 4, outputs, 1)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride)) if stride > 1 else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the maps after the block."""
        y_BCHW = x_BCHW
        for conv in (self.conv1, self.conv2, self.conv3):
            y_BCHW = functional.relu(functional.instance_norm(conv(y_BCHW)))
        if self.downsample is not None:
            x_BCHW = functional.instance_norm(self.downsample(x_BCHW))
        return functional.relu(x_BCHW + y_BCHW)


class FeatureEncoder(nn.Module):
    """What is correlated: 84 channels at 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3)
        self.layer1 = nn.Sequential(Bottleneck(32, 32, 1), Bottleneck(32, 32, 1))
        self.layer2 = nn.Sequential(Bottleneck(32, 64, 2), Bottleneck(64, 64, 1))
        self.layer3 = nn.Sequential(Bottleneck(64, 96, 2), Bottleneck(96, 96, 1))
        self.conv2 = nn.Conv2d(96, 84, 1)

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Return features of pictures."""
        x_BCHW = functional.relu(functional.instance_norm(self.conv1(pictures_BCHW)))
        features_BCHW: Tensor = self.conv2(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return features_BCHW


class ContextEncoder(nn.Module):
    """What is warped: features at 1/2, 1/4, 1/8 and 1/16."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid1 = nn.Sequential(conv_prelu(3, 20, 2), conv_prelu(20, 20))
        self.pyramid2 = nn.Sequential(conv_prelu(20, 32, 2), conv_prelu(32, 32))
        self.pyramid3 = nn.Sequential(conv_prelu(32, 44, 2), conv_prelu(44, 44))
        self.pyramid4 = nn.Sequential(conv_prelu(44, 56, 2), conv_prelu(56, 56))

    def forward(self, pictures_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features of pictures, finest first."""
        first = self.pyramid1(pictures_BCHW)
        second = self.pyramid2(first)
        third = self.pyramid3(second)
        return first, second, third, self.pyramid4(third)


class ResBlock(nn.Module):
    """Five convolutions, two of which change only the last channels, around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv_prelu(width, width)
        self.conv2 = conv_prelu(SIDE_CHANNELS, SIDE_CHANNELS)
        self.conv3 = conv_prelu(width, width)
        self.conv4 = conv_prelu(SIDE_CHANNELS, SIDE_CHANNELS)
        self.conv5 = nn.Conv2d(width, width, 3, 1, 1)
        self.prelu = nn.PReLU(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return the maps after the block."""
        y_BCHW = x_BCHW
        for whole, part in ((self.conv1, self.conv2), (self.conv3, self.conv4)):
            y_BCHW = whole(y_BCHW)
            y_BCHW = torch.cat([y_BCHW[:, :-SIDE_CHANNELS], part(y_BCHW[:, -SIDE_CHANNELS:])], dim=1)
        out_BCHW: Tensor = self.prelu(x_BCHW + self.conv5(y_BCHW))
        return out_BCHW


class Decoder(nn.Module):
    """Doubles the size: flows first, then whatever else is made at this level."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.convblock = nn.Sequential(
            conv_prelu(inputs, width), ResBlock(width), nn.ConvTranspose2d(width, outputs, 4, 2, 1)
        )

    def forward(self, *maps_BCHW: Tensor) -> Tensor:
        """Return the decoded channels of concatenated maps."""
        out_BCHW: Tensor = self.convblock(torch.cat(maps_BCHW, dim=1))
        return out_BCHW


class Update(nn.Module):
    """Corrects features and flows by looking at the correlations at 1/8.

    Args:
        num_features: Channels of the features that are corrected.
        factor: How much finer than 1/8 features and flows are.
    """

    def __init__(self, num_features: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.convc1 = nn.Conv2d(2 * LEVELS * WINDOW**2, 64, 1)
        self.convf1 = nn.Conv2d(4, 40, 7, 1, 3)
        self.convf2 = nn.Conv2d(40, 20, 3, 1, 1)
        self.conv = nn.Conv2d(84, 68, 3, 1, 1)
        self.gru = self._two(68 + 4 + num_features, 76)
        self.feat_head = self._two(76, num_features)
        self.flow_head = self._two(76, 4)

    @staticmethod
    def _two(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inputs, 76, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(76, outputs, 3, 1, 1))

    def forward(self, features: Tensor, flows: Tensor, correlation: Correlation) -> tuple[Tensor, Tensor]:
        """Return corrected features and flows (to picture 0, to picture 1), all [B, C, H, W]."""
        coarse = resized(features, 1 / self.factor)
        coarse_flows = resized(flows, 1 / self.factor) / self.factor
        seen = functional.leaky_relu(self.convc1(correlation.lookup(coarse_flows)), 0.1)
        moved = functional.leaky_relu(self.convf1(coarse_flows), 0.1)
        moved = functional.leaky_relu(self.convf2(moved), 0.1)
        both = functional.leaky_relu(self.conv(torch.cat([seen, moved], dim=1)), 0.1)
        state = self.gru(torch.cat([both, coarse_flows, coarse], dim=1))
        return (
            features + resized(self.feat_head(state), self.factor),
            flows + self.factor * resized(self.flow_head(state), self.factor),
        )


class AmtS(nn.Module):
    """The interpolating network."""

    def __init__(self) -> None:
        super().__init__()
        self.feat_encoder = FeatureEncoder()
        self.encoder = ContextEncoder()
        self.decoder4 = Decoder(113, 112, 48)
        self.decoder3 = Decoder(136, 132, 36)
        self.decoder2 = Decoder(100, 96, 24)
        self.decoder1 = Decoder(64, 60, 8 * NUM_FLOWS)
        self.update4 = Update(44, 1)
        self.update3 = Update(32, 2)
        self.update2 = Update(20, 4)
        self.comb_block = nn.Sequential(
            nn.Conv2d(3 * NUM_FLOWS, 6 * NUM_FLOWS, 3, 1, 1),
            nn.PReLU(6 * NUM_FLOWS),
            nn.Conv2d(6 * NUM_FLOWS, 3, 3, 1, 1),
        )

    def forward(self, first_BCHW: Tensor, second_BCHW: Tensor, scale: float = 1.0) -> Tensor:
        """Return the pictures halfway between, [B, 3, H, W] in 0 to 1.

        Args:
            first_BCHW: RGB in 0 to 1; sides times `scale` are multiples of 16 and at least 128.
            second_BCHW: As `first_BCHW`.
            scale: Size at which motion is estimated, as a share of full size.
        """
        mean_B111 = torch.cat([first_BCHW, second_BCHW], dim=1).mean(dim=(1, 2, 3), keepdim=True)
        first, second = first_BCHW - mean_B111, second_BCHW - mean_B111
        decoded = self._decode(torch.cat([resized(first, scale), resized(second, scale)]))
        flows = resized(decoded[:, : 4 * NUM_FLOWS], 1 / scale) / scale
        masks, residuals = resized(decoded[:, 4 * NUM_FLOWS :], 1 / scale).tensor_split([NUM_FLOWS], dim=1)
        made = []
        for number in range(NUM_FLOWS):
            x, end = 2 * number, 2 * (number + NUM_FLOWS)
            mask = masks[:, number : number + 1]
            blended = mask * warped(first, flows[:, x : x + 2]) + (1 - mask) * warped(second, flows[:, end : end + 2])
            made.append(blended + mean_B111 + residuals[:, 3 * number : 3 * number + 3])
        correction: Tensor = self.comb_block(torch.cat(made, dim=1))
        return (torch.stack(made).mean(dim=0) + correction).clamp(0, 1)

    def _decode(self, pictures: Tensor) -> Tensor:
        """Return flows to picture 0 (3 x 2), to picture 1 (3 x 2), masks (3), residuals (3 x 3) of stacked pictures."""
        correlation = Correlation(*self.feat_encoder(pictures).chunk(2))
        fine, middle, coarse, coarsest = (level.chunk(2) for level in self.encoder(pictures))
        time = coarsest[0].new_full((len(coarsest[0]), 1, *coarsest[0].shape[-2:]), MIDDLE)

        flows, features = self.decoder4(*coarsest, time).tensor_split([4], dim=1)
        features, flows = self.update4(features, flows, correlation)
        for decoder, update, context in (
            (self.decoder3, self.update3, coarse),
            (self.decoder2, self.update2, middle),
        ):
            residual, features = decoder(features, *self._towards_middle(context, flows), flows).tensor_split(
                [4], dim=1
            )
            features, flows = update(features, residual + 2 * resized(flows, 2), correlation)

        decoded = self.decoder1(features, *self._towards_middle(fine, flows), flows)
        residuals, masks, colours = decoded.tensor_split([4 * NUM_FLOWS, 5 * NUM_FLOWS], dim=1)
        to_first, to_second = (2 * resized(flows, 2)).chunk(2, dim=1)
        base = torch.cat([to_first] * NUM_FLOWS + [to_second] * NUM_FLOWS, dim=1)
        return torch.cat([residuals + base, torch.sigmoid(masks), colours], dim=1)

    @staticmethod
    def _towards_middle(context: tuple[Tensor, Tensor], flows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of both pictures, moved to the middle."""
        return warped(context[0], flows[:, :2]), warped(context[1], flows[:, 2:])
