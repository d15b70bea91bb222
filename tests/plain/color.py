"""Transfer of the reference image's Lab statistics, frame by frame, plainly.

Source: `infinite_talk/utils/multitalk_utils.py`, SoulX-FlashTalk at commit 688982e, described: sRGB (IEC 61966-2-1)
to CIE XYZ with white point D65 to CIE L*a*b*.

Legend: C channels, F frames, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
FROM_XYZ = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
WHITE = (0.95047, 1.0, 1.08883)
EPSILON = 0.008856
KAPPA = 903.3


def lab(rgb_CHW: Tensor) -> Tensor:
    """Return L, a, b of an image in [0, 1]."""
    linear = [torch.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92) for c in rgb_CHW]
    f = []
    for row, white in zip(TO_XYZ, WHITE, strict=True):
        t = (row[0] * linear[0] + row[1] * linear[1] + row[2] * linear[2]) / white
        t = t.clamp(1e-8, 1)
        f.append(torch.where(t > EPSILON, t ** (1 / 3), (KAPPA * t + 16) / 116))
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def rgb(lab_CHW: Tensor) -> Tensor:
    """Return the image in [0, 1] of L, a, b."""
    light, a, b = lab_CHW
    fy = (light + 16) / 116
    fx, fz = a / 500 + fy, fy - b / 200
    x = torch.where(fx**3 > EPSILON, fx**3, (116 * fx - 16) / KAPPA) * WHITE[0]
    y = torch.where(light > KAPPA * EPSILON, fy**3, light / KAPPA) * WHITE[1]
    z = torch.where(fz**3 > EPSILON, fz**3, (116 * fz - 16) / KAPPA) * WHITE[2]
    result = []
    for row in FROM_XYZ:
        c = row[0] * x + row[1] * y + row[2] * z
        # negative values take the linear branch; the floor only keeps the branch not taken finite
        gamma = 1.055 * c.clamp(min=1e-12) ** (1 / 2.4) - 0.055
        result.append(torch.where(c > 0.0031308, gamma, 12.92 * c).clamp(0, 1))
    return torch.stack(result)


def correct(video_CFHW: Tensor, image_CHW: Tensor, strength: float) -> Tensor:
    """Return the video, in [-1, 1], with each frame's Lab mean and deviation replaced by those of the image.

    Args:
        video_CFHW: In [-1, 1].
        image_CHW: The reference, in [-1, 1].
        strength: 0 leaves the video, 1 replaces it by the corrected one.
    """
    reference = lab((image_CHW + 1) / 2)
    frames = []
    for number in range(video_CFHW.shape[1]):
        frame = (video_CFHW[:, number] + 1) / 2
        moved = []
        for ours, theirs in zip(lab(frame), reference, strict=True):
            deviation = ours.std(correction=0)
            if deviation < 1e-8:
                deviation = torch.ones_like(deviation)
            moved.append((ours - ours.mean()) * (theirs.std(correction=0) / deviation) + theirs.mean())
        frames.append((1 - strength) * frame + strength * rgb(torch.stack(moved)))
    return torch.stack(frames, dim=1) * 2 - 1
