"""The Wan2.1 video autoencoder over a whole sequence at once: no cache, no groups of frames.

Source: the network of `wan/modules/vae.py` (Wan2.1, as in SoulX-FlashTalk at commit 688982e), described. Weights come
in a plain dict under the names of `Wan2.1_VAE.pth`; widths and depths are read off their shapes.

Legend: C channels, F frames, H W rows and columns at any stage, T latent frames, h w latent rows and columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

Weights = dict[str, Tensor]

MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
DEVIATION = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


def conv3d(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return a convolution without padding."""
    return functional.conv3d(x_CFHW[None], weights[f"{name}.weight"], weights[f"{name}.bias"])[0]


def causal_conv(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return a 3x3x3 convolution that sees two zero frames in front and none behind, zeros around each frame."""
    return conv3d(weights, name, functional.pad(x_CFHW, (1, 1, 1, 1, 2, 0)))


def per_frame_conv(weights: Weights, name: str, x_CFHW: Tensor, stride: int = 1) -> Tensor:
    """Return a 2-D convolution of every frame, without padding."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    frames = [functional.conv2d(frame[None], weight, bias, stride=stride)[0] for frame in x_CFHW.unbind(1)]
    return torch.stack(frames, dim=1)


def norm(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return x / max(|x| over channels, 1e-12) * sqrt(C) * gamma."""
    length = torch.sqrt((x_CFHW**2).sum(0, keepdim=True)).clamp(min=1e-12)
    return x_CFHW / length * math.sqrt(len(x_CFHW)) * weights[f"{name}.gamma"].reshape(-1, 1, 1, 1)


def silu(x: Tensor) -> Tensor:
    """Return x times the logistic function of x."""
    return x * torch.sigmoid(x)


def residual(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return the residual block."""
    inner = causal_conv(weights, f"{name}.residual.2", silu(norm(weights, f"{name}.residual.0", x_CFHW)))
    inner = causal_conv(weights, f"{name}.residual.6", silu(norm(weights, f"{name}.residual.3", inner)))
    widens = f"{name}.shortcut.weight" in weights
    return inner + (conv3d(weights, f"{name}.shortcut", x_CFHW) if widens else x_CFHW)


def attention(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return x plus the single-head attention of every frame over its own positions."""
    qkv = per_frame_conv(weights, f"{name}.to_qkv", norm(weights, f"{name}.norm", x_CFHW))
    frames = []
    for frame in qkv.unbind(1):
        q_CN, k_CN, v_CN = frame.flatten(1).chunk(3)
        scores_NN = q_CN.T @ k_CN / math.sqrt(len(q_CN))
        frames.append((torch.softmax(scores_NN, dim=-1) @ v_CN.T).T.reshape(x_CFHW[:, 0].shape))
    return x_CFHW + per_frame_conv(weights, f"{name}.proj", torch.stack(frames, dim=1))


def middle(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return residual, attention, residual."""
    x_CFHW = attention(weights, f"{name}.1", residual(weights, f"{name}.0", x_CFHW))
    return residual(weights, f"{name}.2", x_CFHW)


def halved(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return half the rows and columns, and frames 0, (0, 1, 2), (2, 3, 4), ... if the stage halves time as well."""
    x_CFHW = per_frame_conv(weights, f"{name}.resample.1", functional.pad(x_CFHW, (0, 1, 0, 1)), stride=2)
    if f"{name}.time_conv.weight" not in weights:
        return x_CFHW
    frames = [x_CFHW[:, :1]]
    for j in range((x_CFHW.shape[1] - 1) // 2):
        frames.append(conv3d(weights, f"{name}.time_conv", x_CFHW[:, 2 * j : 2 * j + 3]))
    return torch.cat(frames, dim=1)


def doubled(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Return twice the rows and columns, and if the stage doubles time, frame 0 once and two frames for each other."""
    if f"{name}.time_conv.weight" in weights:
        frames, later = [x_CFHW[:, 0]], x_CFHW[:, 1:]
        if later.shape[1]:
            pairs = conv3d(weights, f"{name}.time_conv", functional.pad(later, (0, 0, 0, 0, 2, 0)))
            for pair in pairs.unbind(1):
                frames += [pair[: len(x_CFHW)], pair[len(x_CFHW) :]]
        x_CFHW = torch.stack(frames, dim=1)
    x_CFHW = x_CFHW.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    return per_frame_conv(weights, f"{name}.resample.1", functional.pad(x_CFHW, (1, 1, 1, 1)))


def stages(weights: Weights, name: str, x_CFHW: Tensor) -> Tensor:
    """Run the numbered blocks under `name` in order; what a block is shows in its weights."""
    number = 0
    while any(key.startswith(f"{name}.{number}.") for key in weights):
        block = f"{name}.{number}"
        if f"{block}.residual.0.gamma" in weights:
            x_CFHW = residual(weights, block, x_CFHW)
        else:
            x_CFHW = (halved if name.endswith("downsamples") else doubled)(weights, block, x_CFHW)
        number += 1
    return x_CFHW


def statistics(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / deviation of the latent channels, `[C, 1, 1, 1]`, both rounded to `dtype`."""
    mean, deviation = torch.tensor(MEAN, dtype=dtype), torch.tensor(DEVIATION, dtype=dtype)
    return mean.reshape(-1, 1, 1, 1), (1.0 / deviation).reshape(-1, 1, 1, 1)


def encode(state: Weights, video_CFHW: Tensor) -> Tensor:
    """Return the normalised mean latents `[C, T, h, w]` of a video of 4n + 1 frames in [-1, 1]."""
    x = causal_conv(state, "encoder.conv1", video_CFHW)
    x = middle(state, "encoder.middle", stages(state, "encoder.downsamples", x))
    x = causal_conv(state, "encoder.head.2", silu(norm(state, "encoder.head.0", x)))
    moments = conv3d(state, "conv1", x)
    mean, inverse_deviation = statistics(video_CFHW.dtype)
    return (moments[: len(moments) // 2] - mean) * inverse_deviation


def decode(state: Weights, latent_CThw: Tensor) -> Tensor:
    """Return the video `[3, 4T - 3, H, W]` of normalised latents, clamped to [-1, 1]."""
    mean, inverse_deviation = statistics(latent_CThw.dtype)
    x = conv3d(state, "conv2", latent_CThw / inverse_deviation + mean)
    x = middle(state, "decoder.middle", causal_conv(state, "decoder.conv1", x))
    x = stages(state, "decoder.upsamples", x)
    return causal_conv(state, "decoder.head.2", silu(norm(state, "decoder.head.0", x))).clamp(-1, 1)
