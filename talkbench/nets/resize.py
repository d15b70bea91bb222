"""From decoded frames to what a vision transformer takes: resized as floats, cropped, normalised.

Values are never rounded to 8 bits on the way, and nothing is antialiased; a bicubic resize may overshoot 0 and 255.
Equal to torchvision's `Resize(size, antialias=False)` and `CenterCrop` on tensors (Vchitect/VBench 45e79ec:
vbench/utils.py, `dino_transform` and `clip_transform`) but for rounding.

Legend: T frames, C colours, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Preprocess:
    """What a network wants to be given.

    Attributes:
        mode: Interpolation.
        crop: Whether the centre square is cut out; otherwise the picture keeps its shape.
        mean: Of red, green and blue in 0 to 1.
        std: Of red, green and blue in 0 to 1.
        side_px: Short side after the resize.
    """

    mode: Literal["bilinear", "bicubic"]
    crop: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    side_px: int = 224

    def __call__(self, frames_THWC: Tensor) -> Tensor:
        """Return frames_TCHW, float32, normalised, of uint8 RGB frames, on the device they are on."""
        mean_C11, std_C11 = (
            torch.tensor(values, device=frames_THWC.device).mul(255)[:, None, None] for values in (self.mean, self.std)
        )
        # One by one, so that only one frame at a time exists as floats at its full size.
        resized = [(self._one(frame_1HWC) - mean_C11) / std_C11 for frame_1HWC in torch.split(frames_THWC, 1)]
        return torch.cat(resized)

    def _one(self, frame_1HWC: Tensor) -> Tensor:
        size = short_side_to(self.side_px, *frame_1HWC.shape[1:3])
        frame_1CHW = functional.interpolate(
            frame_1HWC.permute(0, 3, 1, 2).float().contiguous(), size=size, mode=self.mode
        )
        return centre_crop(frame_1CHW, self.side_px) if self.crop else frame_1CHW


def short_side_to(side_px: int, height: int, width: int) -> tuple[int, int]:
    """Return height and width with the short side at `side_px` and the long side in proportion, rounded down."""
    if height <= width:
        return side_px, int(side_px * width / height)
    return int(side_px * height / width), side_px


def centre_crop(frames_TCHW: Tensor, side_px: int) -> Tensor:
    """Return the centre square; an odd rest goes where round-half-to-even puts it."""
    height, width = frames_TCHW.shape[-2:]
    top, left = round((height - side_px) / 2), round((width - side_px) / 2)
    return frames_TCHW[..., top : top + side_px, left : left + side_px]


def pad_to_multiple(frames_TCHW: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Return frames with edges repeated up to the next multiple of both sides, and where the picture lies in them.

    Half of the padding, rounded down, comes before the picture.
    """
    height, width = frames_TCHW.shape[-2:]
    extra_rows, extra_columns = -height % multiple, -width % multiple
    top, left = extra_rows // 2, extra_columns // 2
    sides = (left, extra_columns - left, top, extra_rows - top)
    padded = functional.pad(frames_TCHW, sides, mode="replicate") if any(sides) else frames_TCHW
    return padded, (slice(top, top + height), slice(left, left + width))


def truncated_to_levels(frames_TCHW: Tensor) -> Tensor:
    """Return pictures in 0 to 1 as uint8 levels, cut off rather than rounded."""
    return frames_TCHW.mul(255).clamp_(0, 255).to(torch.uint8)
