"""Colour correction: every frame gets the reference image's mean and spread in Lab.

reference = color.statistics(image_CHW)                     # once per stream
video_CFHW = color.correct(video_CFHW, reference, strength=1.0)

Without it the colours drift, as each chunk starts from the last frames of the one before.
Source: SoulX-FlashTalk at commit 688982e, `flash_talk/src/pipeline/flash_talk_pipeline.py`; sRGB (IEC 61966-2-1) and
CIE Lab under D65. The matrices are written out channel by channel: a matrix product might run in TF32.

Legend: C channels, F frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Matrix = Sequence[Sequence[float]]

_TO_XYZ: Matrix = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_TO_RGB: Matrix = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
_WHITE = (0.95047, 1.0, 1.08883)
_EPSILON, _KAPPA = 0.008856, 903.3

_PIXELS_AT_ONCE = 1 << 20
"""Some fifty passes over a few frames stay in the cache; over a whole clip they take twice as long on a CPU."""


@dataclass(frozen=True)
class Statistics:
    """Lab statistics of an image.

    Attributes:
        mean_C: Of L, a, b over the pixels.
        std_C: Population standard deviation.
    """

    mean_C: Tensor
    std_C: Tensor


def statistics(image_CHW: Tensor, dtype: torch.dtype = torch.float32) -> Statistics:
    """Return the statistics of the reference image.

    Args:
        image_CHW: In [-1, 1].
        dtype: Of the arithmetic, as in `correct`.
    """
    mean_CF, std_CF = _spread(_to_lab(image_CHW[:, None].to(dtype)))
    return Statistics(mean_CF[:, 0], std_CF[:, 0])


def correct(video_CFHW: Tensor, reference: Statistics, strength: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return frames with the Lab statistics of a reference; each frame by itself.

    Args:
        video_CFHW: In [-1, 1]; not changed.
        reference: Of the reference image, on the same device.
        strength: 1 gives frames the reference's statistics wholly, less blends with the frame; 0 returns `video_CFHW`.
        dtype: Of the arithmetic. The released code computes in the decoder's bfloat16, which is off by up to 8 of 255
            steps; for parity only.

    Returns:
        video_CFHW in [-1, 1], of `dtype`.
    """
    video_CFHW = video_CFHW.to(dtype)
    if strength == 0:
        return video_CFHW
    at_once = max(1, _PIXELS_AT_ONCE // video_CFHW[0, 0].numel())
    return torch.cat([_corrected(part, reference, strength) for part in video_CFHW.split(at_once, dim=1)], dim=1)


def _corrected(video_CFHW: Tensor, reference: Statistics, strength: float) -> Tensor:
    lab_CFHW = _to_lab(video_CFHW)
    mean_CF, std_CF = _spread(lab_CFHW)
    gain_CF = reference.std_C[:, None] / std_CF.masked_fill(std_CF < 1e-8, 1)
    lab_CFHW.sub_(mean_CF[..., None, None]).mul_(gain_CF[..., None, None]).add_(reference.mean_C[:, None, None, None])
    corrected_CFHW = _from_lab(lab_CFHW).mul_(2).sub_(1)
    if strength == 1:
        return corrected_CFHW
    return corrected_CFHW.mul_(strength).add_(video_CFHW, alpha=1 - strength)


def _spread(lab_CFHW: Tensor) -> tuple[Tensor, Tensor]:
    variance_CF, mean_CF = torch.var_mean(lab_CFHW, dim=(2, 3), correction=0)
    return mean_CF, variance_CF.sqrt_()


def _to_lab(video_CFHW: Tensor) -> Tensor:
    """Return L, a, b of sRGB values in [-1, 1]."""
    value_CFHW = (video_CFHW + 1).mul_(0.5)
    power_CFHW = (value_CFHW + 0.055).div_(1.055).pow_(2.4)
    linear_CFHW = torch.where(value_CFHW > 0.04045, power_CFHW, value_CFHW.div_(12.92))
    xyz_CFHW = _mixed(
        linear_CFHW, [[weight / white for weight in row] for row, white in zip(_TO_XYZ, _WHITE, strict=True)]
    )
    xyz_CFHW.clamp_(1e-8, 1)
    chosen_CFHW = xyz_CFHW > _EPSILON
    root_CFHW = xyz_CFHW.pow(1 / 3)
    x, y, z = root_CFHW.where(chosen_CFHW, xyz_CFHW.mul_(_KAPPA).add_(16).div_(116))
    return torch.stack([y * 116 - 16, x.sub_(y).mul_(500), (y - z).mul_(200)])


def _from_lab(lab_CFHW: Tensor) -> Tensor:
    """Return sRGB values in [0, 1]; the input is used up."""
    light, a, b = lab_CFHW
    y_root = (light + 16).div_(116)
    x_root, z_root = a.div_(500).add_(y_root), b.div_(-200).add_(y_root)
    x, z = (_expanded(root).mul_(white) for root, white in ((x_root, _WHITE[0]), (z_root, _WHITE[2])))
    y = torch.where(light > _KAPPA * _EPSILON, y_root.pow_(3), light.div(_KAPPA))
    linear_CFHW = _mixed((x, y, z), _TO_RGB)
    # Powers of negative numbers are NaN, and never chosen.
    power_CFHW = linear_CFHW.pow(1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(linear_CFHW > 0.0031308, power_CFHW, linear_CFHW.mul_(12.92)).clamp_(0, 1)


def _expanded(root_FHW: Tensor) -> Tensor:
    """Return the inverse of Lab's compression of X or Z."""
    cube_FHW = root_FHW.pow(3)
    return torch.where(cube_FHW > _EPSILON, cube_FHW, root_FHW.mul(116).sub_(16).div_(_KAPPA))


def _mixed(planes: Tensor | Sequence[Tensor], matrix: Matrix) -> Tensor:
    """Return the product of a matrix with the channels."""
    first, second, third = planes
    mixed_CFHW = first.new_empty((3, *first.shape))
    for mixed_FHW, (one, two, three) in zip(mixed_CFHW, matrix, strict=True):
        torch.mul(first, one, out=mixed_FHW).add_(second, alpha=two).add_(third, alpha=three)
    return mixed_CFHW
