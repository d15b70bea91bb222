"""Names and shapes of the official state dicts at any size, and seeded random tensors for them.

Source: the checkpoints `SoulX-FlashTalk-14B` and `Wan2.1_VAE.pth`. Nothing is read from `model/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from zlib import crc32

import torch
from torch import Tensor

Shape = tuple[int, ...]
TINY_DIT = {
    "dim": 48,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 80,
    "freq_dim": 32,
    "text_len": 12,
    "text_dim": 20,
    "image_dim": 24,
    "audio_layers": 2,
    "audio_channels": 6,
    "audio_hidden": 16,
    "audio_tokens": 4,
    "audio_dim": 10,
}
OFFICIAL_DIT = {
    "dim": 5120,
    "num_heads": 40,
    "num_layers": 40,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "text_len": 512,
    "text_dim": 4096,
    "image_dim": 1280,
    "audio_layers": 12,
    "audio_channels": 768,
    "audio_hidden": 512,
    "audio_tokens": 32,
    "audio_dim": 768,
}


def _linear(name: str, out: int, *inputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, *inputs), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dit_shapes(sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Return name -> shape of the transformer's state dict."""
    dim, hidden, image = sizes["dim"], sizes["audio_hidden"], sizes["image_dim"]
    feature = sizes["audio_layers"] * sizes["audio_channels"]
    shapes = {
        **_linear("patch_embedding", dim, 36, 1, 2, 2),
        **_linear("text_embedding.0", dim, sizes["text_dim"]),
        **_linear("text_embedding.2", dim, dim),
        **_linear("time_embedding.0", dim, sizes["freq_dim"]),
        **_linear("time_embedding.2", dim, dim),
        **_linear("time_projection.1", 6 * dim, dim),
        **_norm("img_emb.proj.0", image),
        **_linear("img_emb.proj.1", image, image),
        **_linear("img_emb.proj.3", dim, image),
        **_norm("img_emb.proj.4", dim),
        **_linear("audio_proj.proj1", hidden, 5 * feature),
        **_linear("audio_proj.proj1_vf", hidden, 8 * feature),
        **_linear("audio_proj.proj2", hidden, hidden),
        **_linear("audio_proj.proj3", sizes["audio_tokens"] * sizes["audio_dim"], hidden),
        **_norm("audio_proj.norm", sizes["audio_dim"]),
        "head.modulation": (1, 2, dim),
        **_linear("head.head", 64, dim),
    }
    for number in range(sizes["num_layers"]):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in _block_shapes(sizes).items()}
    return shapes


def _block_shapes(sizes: Mapping[str, int]) -> dict[str, Shape]:
    dim = sizes["dim"]
    shapes: dict[str, Shape] = {"modulation": (1, 6, dim)}
    for name in "qkvo":
        shapes |= _linear(f"self_attn.{name}", dim, dim)
    for name in ("q", "k", "v", "o", "k_img", "v_img"):
        shapes |= _linear(f"cross_attn.{name}", dim, dim)
    for name in ("self_attn.norm_q", "self_attn.norm_k"):
        shapes[f"{name}.weight"] = (dim,)
    for name in ("cross_attn.norm_q", "cross_attn.norm_k", "cross_attn.norm_k_img"):
        shapes[f"{name}.weight"] = (dim,)
    return shapes | {
        **_norm("norm3", dim),
        **_norm("norm_x", dim),
        **_linear("audio_cross_attn.q_linear", dim, dim),
        **_linear("audio_cross_attn.kv_linear", 2 * dim, sizes["audio_dim"]),
        **_linear("audio_cross_attn.proj", dim, dim),
        **_linear("ffn.0", sizes["ffn_dim"], dim),
        **_linear("ffn.2", dim, sizes["ffn_dim"]),
    }


def _residual(name: str, inputs: int, out: int) -> dict[str, Shape]:
    shapes = {
        f"{name}.residual.0.gamma": (inputs, 1, 1, 1),
        **_linear(f"{name}.residual.2", out, inputs, 3, 3, 3),
        f"{name}.residual.3.gamma": (out, 1, 1, 1),
        **_linear(f"{name}.residual.6", out, out, 3, 3, 3),
    }
    return shapes | (_linear(f"{name}.shortcut", out, inputs, 1, 1, 1) if inputs != out else {})


def _middle(name: str, width: int) -> dict[str, Shape]:
    return {
        **_residual(f"{name}.0", width, width),
        f"{name}.1.norm.gamma": (width, 1, 1),
        **_linear(f"{name}.1.to_qkv", 3 * width, width, 1, 1),
        **_linear(f"{name}.1.proj", width, width, 1, 1),
        **_residual(f"{name}.2", width, width),
    }


def _head(name: str, width: int, out: int) -> dict[str, Shape]:
    return {f"{name}.0.gamma": (width, 1, 1, 1), **_linear(f"{name}.2", out, width, 3, 3, 3)}


def vae_shapes(base: int) -> dict[str, Shape]:
    """Return name -> shape of the autoencoder's state dict, `base` channels at full resolution (96 in the release)."""
    top = 4 * base
    shapes = _linear("encoder.conv1", base, 3, 3, 3, 3)
    encoder = [(base, base), (base, base), base, (base, 2 * base), (2 * base, 2 * base), 2 * base]
    encoder += [(2 * base, top), (top, top), top, (top, top), (top, top)]
    for number, widths in enumerate(encoder):
        name = f"encoder.downsamples.{number}"
        if isinstance(widths, tuple):
            shapes |= _residual(name, *widths)
            continue
        shapes |= _linear(f"{name}.resample.1", widths, widths, 3, 3)
        if number != 2:
            shapes |= _linear(f"{name}.time_conv", widths, widths, 3, 1, 1)
    shapes |= {**_middle("encoder.middle", top), **_head("encoder.head", top, 32)}
    shapes |= {**_linear("conv1", 32, 32, 1, 1, 1), **_linear("conv2", 16, 16, 1, 1, 1)}
    shapes |= {**_linear("decoder.conv1", top, 16, 3, 3, 3), **_middle("decoder.middle", top)}
    decoder = [(top, top)] * 3 + [top] + [(2 * base, top), (top, top), (top, top), top]
    decoder += [(2 * base, 2 * base)] * 3 + [2 * base] + [(base, base)] * 3
    for number, widths in enumerate(decoder):
        name = f"decoder.upsamples.{number}"
        if isinstance(widths, tuple):
            shapes |= _residual(name, *widths)
            continue
        shapes |= _linear(f"{name}.resample.1", widths // 2, widths, 3, 3)
        if number != 11:
            shapes |= _linear(f"{name}.time_conv", 2 * widths, widths, 3, 1, 1)
    return shapes | _head("decoder.head", base, 3)


def random_state(shapes: Mapping[str, Shape], seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return tensors in which nothing is 0 or 1 by chance: gains about 1, biases and modulations clearly not 0."""
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed ^ crc32(name.encode())))
        is_gain = name.endswith("gamma") or (name.endswith("weight") and len(shape) == 1)
        if is_gain:
            tensor = 1 + 0.2 * noise
        elif name.endswith(("bias", "modulation")):
            tensor = 0.2 * noise
        else:
            tensor = noise / math.sqrt(math.prod(shape[1:]))
        state[name] = tensor.to(dtype)
    return state
