"""The diffusion transformer as loops and explicit formulas, in float32, float64 or the released bfloat16 roundings.

Source: the forward pass of SoulX-FlashTalk at commit 688982e (`infinite_talk/modules/multitalk_model.py` and
`multitalk_attention.py`), as a description of its formulas. Weights come in a plain dict under the official names.

"wide" is the type that formulas are evaluated in before their result is rounded to the model's type: float32 under
bfloat16, otherwise the model's type itself.

Legend: C channels, T latent frames, h w latent rows and columns, N tokens in the order (frame, row, column), S tokens
of a latent frame, D width, A heads, d head width, M keys, L text rows, K audio tokens of a latent frame, P speakers,
F video frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Sizes = dict[str, int]  # dim, num_heads, num_layers, freq_dim, text_len, audio_tokens, audio_dim
Grid = tuple[int, int, int]  # latent frames, token rows, token columns

BLOCK_EPS = 1e-6
PROJECTION_EPS = 1e-5
SPEAKER_POSITIONS = (2.0, 22.0)
SPEAKER_RANGES = ((0.0, 4.0), (20.0, 24.0))
BACKGROUND_POSITION = 12.0


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type that formulas are evaluated in."""
    return torch.float32 if dtype is torch.bfloat16 else dtype


def linear(weights: Weights, name: str, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x W^T + b over the last axis, summed wide and rounded once to `dtype`."""
    weight, bias = weights[f"{name}.weight"].to(wide(dtype)), weights[f"{name}.bias"].to(wide(dtype))
    return (x.to(wide(dtype)) @ weight.reshape(weight.shape[0], -1).T + bias).to(dtype)


def layer_norm(x: Tensor, eps: float, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) over the last axis, times weight plus bias if given; not rounded."""
    x = x.to(wide(x.dtype))
    centred = x - x.mean(-1, keepdim=True)
    result = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    if weight is not None and bias is not None:
        result = result * weight.to(x.dtype) + bias.to(x.dtype)
    return result


def affine_norm(weights: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    """Return the layer norm with the weight and bias called `name`, rounded to x's type."""
    return layer_norm(x, eps, weights[f"{name}.weight"], weights[f"{name}.bias"]).to(x.dtype)


def rms_norm(z: Tensor, weight: Tensor) -> Tensor:
    """Return z / sqrt(mean(z^2) + 1e-6) over all channels of all heads, rounded, then times the weight."""
    z_wide = z.to(wide(z.dtype))
    return (z_wide / torch.sqrt((z_wide**2).mean(-1, keepdim=True) + BLOCK_EPS)).to(z.dtype) * weight.to(z.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU by its tanh approximation, rounded to x's type."""
    z = x.to(wide(x.dtype))
    return (0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))).to(x.dtype)


def gelu_exact(x: Tensor) -> Tensor:
    """Return x times the normal distribution function of x, rounded to x's type."""
    z = x.to(wide(x.dtype))
    return (0.5 * z * (1 + torch.erf(z / math.sqrt(2)))).to(x.dtype)


def silu(x: Tensor) -> Tensor:
    """Return x times the logistic function of x."""
    return x / (1 + torch.exp(-x))


def attention(q_NAd: Tensor, k_MAd: Tensor, v_MAd: Tensor, dtype: torch.dtype) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v head by head, the heads joined: [N, A * d] in `dtype`.

    Operands are rounded to `dtype` as they enter and the result as it leaves. As in the fused kernels, the exponentials
    are rounded before they meet v, their sum is not.
    """
    q_NAd, k_MAd, v_MAd = (tensor.to(dtype).to(wide(dtype)) for tensor in (q_NAd, k_MAd, v_MAd))
    heads = []
    for head in range(q_NAd.shape[1]):
        scores_NM = q_NAd[:, head] @ k_MAd[:, head].T / math.sqrt(q_NAd.shape[2])
        weights_NM = torch.exp(scores_NM - scores_NM.amax(-1, keepdim=True))
        mixed_Nd = weights_NM.to(dtype).to(wide(dtype)) @ v_MAd[:, head]
        heads.append(mixed_Nd / weights_NM.sum(-1, keepdim=True))
    return torch.cat(heads, dim=-1).to(dtype)


def rotate(x_NAd: Tensor, angles_NI: Tensor) -> Tensor:
    """Turn the channel pair (2i, 2i + 1) of every head by the angle i of its token, in the type of the angles."""
    result = torch.empty(x_NAd.shape, dtype=angles_NI.dtype)
    for i in range(x_NAd.shape[2] // 2):
        a, b = x_NAd[:, :, 2 * i].to(angles_NI.dtype), x_NAd[:, :, 2 * i + 1].to(angles_NI.dtype)
        cos, sin = torch.cos(angles_NI[:, i])[:, None], torch.sin(angles_NI[:, i])[:, None]
        result[:, :, 2 * i] = a * cos - b * sin
        result[:, :, 2 * i + 1] = a * sin + b * cos
    return result


def rope_angles(grid: Grid, head_dim: int) -> Tensor:
    """Return the angle of every token and pair, float64 [N, d / 2]: pairs of the frame, the row, the column."""
    spatial = 2 * (head_dim // 6)
    widths = (head_dim - 2 * spatial, spatial, spatial)
    rows = []
    for frame in range(grid[0]):
        for row in range(grid[1]):
            for column in range(grid[2]):
                angles = []
                for position, width in zip((frame, row, column), widths, strict=True):
                    angles += [position * 10000.0 ** (-2 * i / width) for i in range(width // 2)]
                rows.append(angles)
    return torch.tensor(rows, dtype=torch.float64)


def rope(x_NAd: Tensor, grid: Grid) -> Tensor:
    """Rotate queries or keys by their place in the grid, in float64, returned wide."""
    return rotate(x_NAd, rope_angles(grid, x_NAd.shape[2])).to(wide(x_NAd.dtype))


def patch_tokens(weights: Weights, latent_CThw: Tensor, dtype: torch.dtype) -> Tensor:
    """Return one token per latent frame and 2 x 2 patch: [N, D]."""
    patches = []
    for frame in range(latent_CThw.shape[1]):
        for row in range(latent_CThw.shape[2] // 2):
            for column in range(latent_CThw.shape[3] // 2):
                patch_C22 = latent_CThw[:, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                patches.append(patch_C22.reshape(-1))
    return linear(weights, "patch_embedding", torch.stack(patches), dtype)


def time_vectors(weights: Weights, sizes: Sizes, time: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return e [D] and e6 [6, D], both wide."""
    half = sizes["freq_dim"] // 2
    angles = [time * 10000.0 ** (-j / half) for j in range(half)]
    sinusoid = torch.tensor([wave(angle) for wave in (math.cos, math.sin) for angle in angles], dtype=torch.float64)
    full = wide(dtype)
    hidden = silu(linear(weights, "time_embedding.0", sinusoid.to(full), full))
    e_D = linear(weights, "time_embedding.2", hidden, full)
    return e_D, linear(weights, "time_projection.1", silu(e_D), full).reshape(6, sizes["dim"])


def text_context(weights: Weights, sizes: Sizes, text_LD: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the text rows after the MLP; rows of zeros fill up to `text_len` before it: [text_len, D]."""
    padded = torch.zeros(sizes["text_len"], text_LD.shape[1], dtype=dtype)
    padded[: len(text_LD)] = text_LD.to(dtype)
    hidden = gelu_tanh(linear(weights, "text_embedding.0", padded, dtype))
    return linear(weights, "text_embedding.2", hidden, dtype)


def image_context(weights: Weights, image_1LD: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the projected image tokens: [image tokens, D]."""
    normed = affine_norm(weights, "img_emb.proj.0", image_1LD[0].to(dtype), PROJECTION_EPS)
    hidden = gelu_exact(linear(weights, "img_emb.proj.1", normed, dtype))
    return affine_norm(weights, "img_emb.proj.4", linear(weights, "img_emb.proj.3", hidden, dtype), PROJECTION_EPS)


def audio_tokens(weights: Weights, sizes: Sizes, audio_PF5LC: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the audio tokens of each latent frame, speakers joined on the token axis: [T, K * P, audio dim]."""
    speakers = []
    for audio_F5LC in audio_PF5LC.to(dtype):
        hidden = [torch.relu(linear(weights, "audio_proj.proj1", audio_F5LC[0].reshape(-1), dtype))]
        for k in range(1, (len(audio_F5LC) - 1) // 4 + 1):
            first, second, third, last = (audio_F5LC[4 * k + offset] for offset in (-3, -2, -1, 0))
            entries = [first[0], first[1], first[2], second[2], third[2], last[2], last[3], last[4]]
            flat = torch.stack(entries).reshape(-1)
            hidden.append(torch.relu(linear(weights, "audio_proj.proj1_vf", flat, dtype)))
        joined = torch.relu(linear(weights, "audio_proj.proj2", torch.stack(hidden), dtype))
        tokens = linear(weights, "audio_proj.proj3", joined, dtype)
        tokens_TKC = tokens.reshape(len(hidden), sizes["audio_tokens"], sizes["audio_dim"])
        speakers.append(affine_norm(weights, "audio_proj.norm", tokens_TKC, PROJECTION_EPS))
    return torch.cat(speakers, dim=1)


def heads(x: Tensor, num_heads: int) -> Tensor:
    """Return [N, D] as [N, A, d]."""
    return x.reshape(len(x), num_heads, -1)


def self_attention(weights: Weights, name: str, u_ND: Tensor, grid: Grid, num_heads: int) -> tuple[Tensor, ...]:
    """Return the projected attention over all tokens [N, D], and the rotated queries and keys [N, A, d]."""
    dtype = u_ND.dtype
    q = rms_norm(linear(weights, f"{name}.q", u_ND, dtype), weights[f"{name}.norm_q.weight"])
    k = rms_norm(linear(weights, f"{name}.k", u_ND, dtype), weights[f"{name}.norm_k.weight"])
    v = linear(weights, f"{name}.v", u_ND, dtype)
    q_NAd, k_NAd = rope(heads(q, num_heads), grid), rope(heads(k, num_heads), grid)
    joined = attention(q_NAd, k_NAd, heads(v, num_heads), dtype)
    return linear(weights, f"{name}.o", joined, dtype), q_NAd, k_NAd


def context_attention(
    weights: Weights, name: str, u_ND: Tensor, text_LD: Tensor, image_LD: Tensor, num_heads: int
) -> Tensor:
    """Return the projected sum of attention over the text rows and attention over the image tokens: [N, D]."""
    dtype = u_ND.dtype
    q = heads(rms_norm(linear(weights, f"{name}.q", u_ND, dtype), weights[f"{name}.norm_q.weight"]), num_heads)
    total = torch.zeros_like(u_ND)
    for suffix, context_LD in (("", text_LD), ("_img", image_LD)):
        k = rms_norm(linear(weights, f"{name}.k{suffix}", context_LD, dtype), weights[f"{name}.norm_k{suffix}.weight"])
        v = linear(weights, f"{name}.v{suffix}", context_LD, dtype)
        mixed = attention(q, heads(k, num_heads), heads(v, num_heads), dtype)
        total = total + mixed
    return linear(weights, f"{name}.o", total, dtype)


def audio_attention(
    weights: Weights, name: str, u_ND: Tensor, audio_TKC: Tensor, num_heads: int, positions_N: Tensor | None
) -> Tensor:
    """Return the projected attention of each latent frame over its own audio tokens: [N, D].

    With `positions_N`, the places of two speakers' tokens on a line, queries and keys are rotated by them first.
    """
    dtype, width = u_ND.dtype, u_ND.shape[1]
    per_frame = len(u_ND) // len(audio_TKC)
    frames = []
    for frame, audio_KC in enumerate(audio_TKC):
        rows = slice(frame * per_frame, (frame + 1) * per_frame)
        q = heads(linear(weights, f"{name}.q_linear", u_ND[rows], dtype), num_heads)
        kv = linear(weights, f"{name}.kv_linear", audio_KC, dtype)
        k, v = heads(kv[:, :width], num_heads), heads(kv[:, width:], num_heads)
        if positions_N is not None:
            keys_at = torch.tensor(SPEAKER_POSITIONS).repeat_interleave(len(audio_KC) // 2)
            q, k = rotate_line(q, positions_N[rows]), rotate_line(k, keys_at)
        frames.append(attention(q, k, v, dtype))
    return linear(weights, f"{name}.proj", torch.cat(frames), dtype)


def rotate_line(x_NAd: Tensor, positions_N: Tensor) -> Tensor:
    """Rotate all pairs of each head by places on one line, base 10000, wide."""
    width = x_NAd.shape[2]
    frequencies = torch.tensor([10000.0 ** (-2 * i / width) for i in range(width // 2)])
    return rotate(x_NAd, positions_N.to(wide(x_NAd.dtype))[:, None] * frequencies.to(wide(x_NAd.dtype)))


def speaker_positions(q_NAd: Tensor, k_NAd: Tensor, masks_3hw: Tensor, grid: Grid) -> Tensor:
    """Return where on the speakers' line each token lies, from its attention to the first latent frame: [N].

    Args:
        q_NAd: Rotated queries of the self-attention.
        k_NAd: Rotated keys of the self-attention.
        masks_3hw: Speaker 1, speaker 2 and background on the latent grid; positive inside.
        grid: Latent frames, token rows, token columns.
    """
    masks_3S = (masks_3hw[:, ::2, ::2] > 0).reshape(3, -1).to(q_NAd.dtype)
    keys_SAd = k_NAd[: grid[1] * grid[2]]
    maps_3N = torch.zeros(3, len(q_NAd), dtype=q_NAd.dtype)
    for head in range(q_NAd.shape[1]):
        scores_NS = q_NAd[:, head] @ keys_SAd[:, head].T / math.sqrt(q_NAd.shape[2])
        weights_NS = torch.softmax(scores_NS, dim=-1)
        for c in range(3):
            maps_3N[c] += (weights_NS * masks_3S[c]).sum(-1) / masks_3S[c].sum() / q_NAd.shape[1]
    positions = torch.full((len(q_NAd),), BACKGROUND_POSITION, dtype=q_NAd.dtype)
    winner_N = maps_3N.argmax(0)
    for c, (low, high) in enumerate(SPEAKER_RANGES):
        lowest, highest = maps_3N[c].min(), maps_3N[c].max()
        scaled = (maps_3N[c] - lowest) / (highest - lowest + 1e-8) * (high - low) + low
        positions = torch.where(winner_N == c, scaled, positions)
    return positions


def modulated(x_ND: Tensor, scale_D: Tensor, shift_D: Tensor) -> Tensor:
    """Return LN(x) * (1 + scale) + shift wide; the layer norm itself is rounded to x's type first."""
    normed = layer_norm(x_ND, BLOCK_EPS).to(x_ND.dtype)
    return normed.to(wide(x_ND.dtype)) * (1 + scale_D) + shift_D


def block(
    weights: Weights,
    sizes: Sizes,
    name: str,
    x_ND: Tensor,
    e6_6D: Tensor,
    context: tuple[Tensor, Tensor],
    audio_TKC: Tensor,
    grid: Grid,
    masks_3hw: Tensor | None,
) -> Tensor:
    """Return the tokens after one block, in their type."""
    dtype, num_heads = x_ND.dtype, sizes["num_heads"]
    m_6D = weights[f"{name}.modulation"][0].to(e6_6D.dtype) + e6_6D
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = m_6D

    u = modulated(x_ND, scale_a, shift_a).to(dtype)
    attended, q_NAd, k_NAd = self_attention(weights, f"{name}.self_attn", u, grid, num_heads)
    x_ND = (x_ND.to(gate_a.dtype) + attended.to(gate_a.dtype) * gate_a).to(dtype)

    u = affine_norm(weights, f"{name}.norm3", x_ND, BLOCK_EPS)
    x_ND = x_ND + context_attention(weights, f"{name}.cross_attn", u, *context, num_heads)

    positions = None if masks_3hw is None else speaker_positions(q_NAd, k_NAd, masks_3hw, grid)
    u = affine_norm(weights, f"{name}.norm_x", x_ND, BLOCK_EPS)
    x_ND = x_ND + audio_attention(weights, f"{name}.audio_cross_attn", u, audio_TKC, num_heads, positions)

    u = modulated(x_ND, scale_f, shift_f).to(dtype)
    hidden = gelu_tanh(linear(weights, f"{name}.ffn.0", u, dtype))
    fed = linear(weights, f"{name}.ffn.2", hidden, dtype)
    return (x_ND.to(gate_f.dtype) + fed.to(gate_f.dtype) * gate_f).to(dtype)


def head(weights: Weights, x_ND: Tensor, e_D: Tensor, grid: Grid) -> Tensor:
    """Return the velocity [C, T, h, w], wide."""
    shift_D, scale_D = weights["head.modulation"][0].to(e_D.dtype) + e_D
    patches = linear(weights, "head.head", modulated(x_ND, scale_D, shift_D), e_D.dtype)
    channels = patches.shape[1] // 4
    result = torch.empty(channels, grid[0], 2 * grid[1], 2 * grid[2], dtype=patches.dtype)
    for token, values in enumerate(patches):
        frame, place = divmod(token, grid[1] * grid[2])
        row, column = divmod(place, grid[2])
        for p in range(2):
            for q in range(2):
                start = (2 * p + q) * channels
                result[:, frame, 2 * row + p, 2 * column + q] = values[start : start + channels]
    return result


def forward(
    state: Weights,
    sizes: Sizes,
    x_CThw: Tensor,
    time: float,
    text_LD: Tensor,
    image_1LD: Tensor,
    y_CThw: Tensor,
    audio_PF5LC: Tensor,
    dtype: torch.dtype,
    masks_3hw: Tensor | None = None,
) -> Tensor:
    """Return the velocity of one sample, noise minus data.

    Args:
        state: Weights under the official names; rounded to `dtype` here.
        sizes: dim, num_heads, num_layers, freq_dim, text_len, audio_tokens, audio_dim.
        x_CThw: Noisy latent, 16 channels.
        time: 0 (clean) to 1000 (noise).
        text_LD: Text rows at their true length.
        image_1LD: Image tokens.
        y_CThw: Four mask channels, then the reference latent.
        audio_PF5LC: Speech features of each speaker and frame, with two neighbours on both sides.
        dtype: float32, float64, or bfloat16 with the roundings of the released code.
        masks_3hw: Speaker 1, speaker 2, background on the latent grid, when there are two speakers.

    Returns:
        `[C, T, h, w]` in float32 (float64 if `dtype` is).
    """
    weights = {name: tensor.to(dtype) for name, tensor in state.items()}
    grid = (x_CThw.shape[1], x_CThw.shape[2] // 2, x_CThw.shape[3] // 2)
    x_ND = patch_tokens(weights, torch.cat([x_CThw, y_CThw.to(x_CThw.dtype)]).to(dtype), dtype)
    e_D, e6_6D = time_vectors(weights, sizes, time, dtype)
    context = (text_context(weights, sizes, text_LD, dtype), image_context(weights, image_1LD, dtype))
    audio_TKC = audio_tokens(weights, sizes, audio_PF5LC, dtype)
    for number in range(sizes["num_layers"]):
        x_ND = block(weights, sizes, f"blocks.{number}", x_ND, e6_6D, context, audio_TKC, grid, masks_3hw)
    return head(weights, x_ND, e_D, grid)
