"""The diffusion transformer: noise, mask, reference latent, text, image and speech in, velocity out.

What is unusual about it:
- one time for all tokens, motion frames included; nothing but the times differs between the four steps;
- positions start at 0 in every chunk: the stream may be endless;
- text padding takes part in attention, as in training;
- audio reaches a latent frame through its own 32 tokens only, without gate, modulation or positions;
- keys and values of text, image and sound, and the modulation of each step, do not depend on the state: they are
  computed once (`encode_context`, `encode_audio`, `encode_time`) and handed to every forward;
- in training they change with every forward, and a sharded block has its weights only while it runs: there each block
  makes its own from embeddings (`embed`, `velocity`).

The same code runs on one device and, with `DiT.parallel` set, on a shard of the tokens.

Legend: B batch (1), N video tokens, D width, A heads, d head width, T latent frames, h w latent rows and columns,
L text tokens, M image tokens, K audio tokens per latent frame, S tokens per latent frame, P speakers.
Source: arXiv 2512.23379, section 3; SoulX-FlashTalk, `flash_talk/infinite_talk/modules/multitalk_model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from . import rope
from .attention import Kernel, make_kernel, masked_attention
from .config import DiTConfig
from .layers import (
    AudioProjector,
    ImageProjector,
    PromotedLayerNorm,
    RMSNorm,
    gated_sum,
    modulated,
    norm,
    promoted,
    promoted_linear,
)

Grid = tuple[int, int, int]
"""Latent frames, token rows, token columns."""


@dataclass(frozen=True)
class ContextKV:
    """Keys and values of one block's text and image attention; constant for a stream."""

    text_k_BLAd: Tensor
    text_v_BLAd: Tensor
    image_k_BMAd: Tensor
    image_v_BMAd: Tensor


@dataclass(frozen=True)
class AudioKV:
    """Keys and values of one block's audio attention; constant for a chunk."""

    k_TKAd: Tensor
    v_TKAd: Tensor


@dataclass(frozen=True)
class TimeCode:
    """What a time does to the network: `head_D` for the head, `rows_6D` per block (shift, scale, gate; twice)."""

    head_D: Tensor
    rows_6D: tuple[Tensor, ...]


@dataclass(frozen=True)
class Told:
    """What one block is told beside the tokens."""

    rows_6D: Tensor
    context: ContextKV
    audio: AudioKV


@dataclass(frozen=True)
class Embedded:
    """Time, text, image and sound at the network's widths, of which each block makes its own `Told`."""

    head_D: Tensor
    rows_6D: Tensor
    text_BLD: Tensor
    image_BMD: Tensor
    audio_TKC: Tensor


@dataclass(frozen=True)
class Positions:
    """Rotary tables of the tokens at hand, and which of all audio tokens each may see (None: all tokens are here)."""

    cos_Nd: Tensor
    sin_Nd: Tensor
    audio_mask_NM: Tensor | None


class Parallel(Protocol):
    """How tokens are spread over processes; see `model.parallel.sequence`."""

    def bounds(self, num_tokens: int) -> tuple[int, int]:
        """Return the first token of this process's shard, and the one after its last."""

    def shard(self, x_BND: Tensor) -> Tensor:
        """Return this process's tokens."""

    def gather(self, x_BnD: Tensor, num_tokens: int) -> Tensor:
        """Return all tokens, on every process."""

    def attend(self, q_BnAd: Tensor, k_BnAd: Tensor, v_BnAd: Tensor, num_tokens: int) -> Tensor:
        """Attend over the tokens of all processes."""


class SelfAttention(nn.Module):
    """Full attention over all tokens, with rotary positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RMSNorm(config.dim, config.eps)
        self.norm_k = RMSNorm(config.dim, config.eps)

    def forward(
        self, x_BND: Tensor, positions: Positions, num_tokens: int, kernel: Kernel, parallel: Parallel | None
    ) -> Tensor:
        """Return `[B, N, D]`; N is this process's share of `num_tokens`."""
        heads = (self.num_heads, -1)
        q_BNAd = rope.rotate(self.norm_q(self.q(x_BND)).unflatten(-1, heads), positions.cos_Nd, positions.sin_Nd)
        k_BNAd = rope.rotate(self.norm_k(self.k(x_BND)).unflatten(-1, heads), positions.cos_Nd, positions.sin_Nd)
        v_BNAd = self.v(x_BND).unflatten(-1, heads)
        if parallel is None:
            out_BNAd = kernel(q_BNAd, k_BNAd, v_BNAd)
        else:
            out_BNAd = parallel.attend(q_BNAd, k_BNAd, v_BNAd, num_tokens)
        out: Tensor = self.o(out_BNAd.flatten(-2))
        return out


class ContextAttention(nn.Module):
    """Two attentions with one query, over text and over image tokens, summed."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o, self.k_img, self.v_img = (nn.Linear(config.dim, config.dim) for _ in range(6))
        self.norm_q, self.norm_k, self.norm_k_img = (RMSNorm(config.dim, config.eps) for _ in range(3))

    def keys_values(self, text_BLD: Tensor, image_BMD: Tensor) -> ContextKV:
        """Return what the queries of every step and chunk attend to."""
        heads = (self.num_heads, -1)
        return ContextKV(
            self.norm_k(self.k(text_BLD)).unflatten(-1, heads),
            self.v(text_BLD).unflatten(-1, heads),
            self.norm_k_img(self.k_img(image_BMD)).unflatten(-1, heads),
            self.v_img(image_BMD).unflatten(-1, heads),
        )

    def forward(self, x_BND: Tensor, context: ContextKV, kernel: Kernel) -> Tensor:
        """Return `[B, N, D]`."""
        q_BNAd = self.norm_q(self.q(x_BND)).unflatten(-1, (self.num_heads, -1))
        text_BNAd = kernel(q_BNAd, context.text_k_BLAd, context.text_v_BLAd)
        image_BNAd = kernel(q_BNAd, context.image_k_BMAd, context.image_v_BMAd)
        out: Tensor = self.o((text_BNAd + image_BNAd).flatten(-2))
        return out


class AudioAttention(nn.Module):
    """Each latent frame attends to its own audio tokens; no norm, no positions."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_linear = nn.Linear(config.dim, config.dim)
        self.kv_linear = nn.Linear(config.audio.dim, 2 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def keys_values(self, audio_TKC: Tensor) -> AudioKV:
        """Return what the queries of every step attend to."""
        k_TKAd, v_TKAd = self.kv_linear(audio_TKC).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return AudioKV(k_TKAd, v_TKAd)

    def forward(self, x_BND: Tensor, audio: AudioKV, mask_NM: Tensor | None, kernel: Kernel) -> Tensor:
        """Return `[B, N, D]`; with a mask, tokens are a shard and see all audio tokens through it."""
        q_BNAd = self.q_linear(x_BND).unflatten(-1, (self.num_heads, -1))
        if mask_NM is None:
            q_TSAd = q_BNAd[0].unflatten(0, (audio.k_TKAd.shape[0], -1))
            out_BNAd = kernel(q_TSAd, audio.k_TKAd, audio.v_TKAd).flatten(0, 1)[None]
        else:
            k_BMAd, v_BMAd = audio.k_TKAd.flatten(0, 1)[None], audio.v_TKAd.flatten(0, 1)[None]
            out_BNAd = masked_attention(q_BNAd, k_BMAd, v_BMAd, mask_NM)
        out: Tensor = self.proj(out_BNAd.flatten(-2))
        return out


class Block(nn.Module):
    """Self-attention, context attention, audio attention, feed-forward; the outer two modulated by time."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_attn = SelfAttention(config)
        self.norm3 = PromotedLayerNorm(config.dim, eps=config.eps)
        self.cross_attn = ContextAttention(config)
        self.norm_x = PromotedLayerNorm(config.dim, eps=config.eps)
        self.audio_cross_attn = AudioAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim), nn.GELU(approximate="tanh"), nn.Linear(config.ffn_dim, config.dim)
        )

    def forward(
        self,
        x_BND: Tensor,
        told: Told | Embedded,
        positions: Positions,
        num_tokens: int,
        kernel: Kernel,
        parallel: Parallel | None,
    ) -> Tensor:
        """Return the tokens after this block."""
        if isinstance(told, Embedded):
            told = self.make(told)
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = told.rows_6D
        attended = self.self_attn(modulated(x_BND, shift_a, scale_a, self.eps), positions, num_tokens, kernel, parallel)
        x_BND = gated_sum(x_BND, attended, gate_a)
        x_BND = x_BND + self.cross_attn(self.norm3(x_BND), told.context, kernel)
        x_BND = x_BND + self.audio_cross_attn(self.norm_x(x_BND), told.audio, positions.audio_mask_NM, kernel)
        return gated_sum(x_BND, self.ffn(modulated(x_BND, shift_f, scale_f, self.eps)), gate_f)

    def modulate(self, rows_6D: Tensor) -> Tensor:
        """Return this block's shifts, scales and gates at a time."""
        return promoted(self.modulation[0]) + rows_6D

    def make(self, embedded: Embedded) -> Told:
        """Return what this block is told by embeddings."""
        return Told(
            self.modulate(embedded.rows_6D),
            self.cross_attn.keys_values(embedded.text_BLD, embedded.image_BMD),
            self.audio_cross_attn.keys_values(embedded.audio_TKC),
        )


class Head(nn.Module):
    """Tokens to patches of velocity; modulated by the time before its projection."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        rows, columns = config.patch_size[1:]
        self.head = nn.Linear(config.dim, rows * columns * config.out_channels)

    def forward(self, x_BND: Tensor, time_D: Tensor) -> Tensor:
        """Return `[B, N, patch]` in float32 or better."""
        shift_D, scale_D = promoted(self.modulation[0]) + time_D
        return promoted_linear(promoted(norm(x_BND, self.eps)) * (1 + scale_D) + shift_D, self.head)


class DiT(nn.Module):
    """The whole network. Parameter names and shapes are those of the released checkpoint.

    Attributes:
        kernel: Which attention runs; `use` sets the one that suits the device.
        parallel: Spreads the tokens over processes, if set.
        recompute: Whether a backward pass computes each block again instead of keeping what it made.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.kernel: Kernel = make_kernel("flash")
        self.parallel: Parallel | None = None
        self.recompute = False
        patch, dim = config.patch_size, config.dim
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=patch, stride=patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.head = Head(config)
        self.img_emb = ImageProjector(config.image_dim, dim)
        self.audio_proj = AudioProjector(config.audio)
        # Never dropped: captured graphs read them.
        self._positions: dict[tuple[Grid, Parallel | None], Positions] = {}

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.patch_embedding.weight.device

    def each_block(self) -> Iterator[Block]:
        """Iterate over the blocks."""
        for block in self.blocks:
            assert isinstance(block, Block)  # noqa: S101 - says so to the type checker
            yield block

    def use(self, kernel: Kernel, parallel: Parallel | None = None) -> None:
        """Choose the attention kernel, and how tokens are spread over processes."""
        self.kernel, self.parallel = kernel, parallel

    def encode_time(self, time: float) -> TimeCode:
        """Return what a time in 0 (data) to 1000 (noise) does to every block."""
        head_D, rows_6D = self._embed_time(time)
        return TimeCode(head_D, tuple(block.modulate(rows_6D) for block in self.each_block()))

    def encode_context(self, text_LC: Tensor, image_BMC: Tensor) -> list[ContextKV]:
        """Return every block's keys and values of the prompt and the reference image.

        Args:
            text_LC: `[L, text_dim]`, L at most `text_len`; padded with zero rows before the projection, not masked.
            image_BMC: `[1, M, image_dim]`.

        Raises:
            ValueError: If the text is longer than `text_len`.
        """
        text_BLD, image_BMD = self._embed_context(text_LC, image_BMC)
        return [block.cross_attn.keys_values(text_BLD, image_BMD) for block in self.each_block()]

    def encode_audio(self, windows_PFWLC: Tensor) -> list[AudioKV]:
        """Return every block's keys and values of a chunk's speech windows `[1, F, window, layers, channels]`.

        Raises:
            ValueError: If there are several speakers: this network tells them apart by nothing.
        """
        tokens_TKC = self._embed_audio(windows_PFWLC)
        return [block.audio_cross_attn.keys_values(tokens_TKC) for block in self.each_block()]

    def embed(self, time: float, text_LC: Tensor, image_BMC: Tensor, windows_PFWLC: Tensor) -> Embedded:
        """Return everything that `velocity` is told, without touching a block; arguments and errors as `encode_*`."""
        return Embedded(
            *self._embed_time(time), *self._embed_context(text_LC, image_BMC), self._embed_audio(windows_PFWLC)
        )

    def _embed_time(self, time: float) -> tuple[Tensor, Tensor]:
        """Return `[D]` for the head and `[6, D]` for all blocks."""
        half = self.config.freq_dim // 2
        angles = time * rope.BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        wave = torch.cat((angles.cos(), angles.sin())).to(self.device, promoted(self.head.modulation).dtype)
        head_D = _promoted_sequence(wave, self.time_embedding)
        return head_D, _promoted_sequence(head_D, self.time_projection).unflatten(0, (6, -1))

    def _embed_context(self, text_LC: Tensor, image_BMC: Tensor) -> tuple[Tensor, Tensor]:
        missing = self.config.text_len - text_LC.shape[0]
        if missing < 0:
            raise ValueError(f"{text_LC.shape[0]} text tokens, at most {self.config.text_len} allowed")
        padded_LC = functional.pad(text_LC.to(self.device, self.dtype), (0, 0, 0, missing))
        return self.text_embedding(padded_LC[None]), self.img_emb(image_BMC.to(self.device, self.dtype))

    def _embed_audio(self, windows_PFWLC: Tensor) -> Tensor:
        if windows_PFWLC.shape[0] != 1:
            raise ValueError(f"sound of {windows_PFWLC.shape[0]} speakers; expected one")
        (tokens_TKC,) = self.audio_proj(windows_PFWLC.to(self.device, self.dtype))
        return tokens_TKC

    def forward(
        self, x_CThw: Tensor, time: TimeCode, y_CThw: Tensor, context: Sequence[ContextKV], audio: Sequence[AudioKV]
    ) -> Tensor:
        """Return the velocity, noise minus data, `[16, T, h, w]` in float32.

        Args:
            x_CThw: State of the sampler, `[16, T, h, w]`.
            time: Of `encode_time`.
            y_CThw: Mask and reference latent, `[20, T, h, w]`.
            context: Of `encode_context`.
            audio: Of `encode_audio`.
        """
        told = [Told(*each) for each in zip(time.rows_6D, context, audio, strict=True)]
        return self._through(x_CThw, y_CThw, told, time.head_D, audio[0].k_TKAd.shape[1])

    def velocity(self, x_CThw: Tensor, y_CThw: Tensor, embedded: Embedded) -> Tensor:
        """Return what `forward` does, each block making its keys, values and modulation from the embeddings."""
        told = [embedded] * len(self.blocks)
        return self._through(x_CThw, y_CThw, told, embedded.head_D, embedded.audio_TKC.shape[1])

    def _through(
        self, x_CThw: Tensor, y_CThw: Tensor, told: Sequence[Told | Embedded], head_D: Tensor, audio_tokens: int
    ) -> Tensor:
        joined = torch.cat((x_CThw, y_CThw.to(x_CThw.dtype))).to(self.dtype)
        x_BND, grid = self._patchify(joined)
        num_tokens = x_BND.shape[1]
        positions = self._positions_of(grid, audio_tokens)
        x_BND = x_BND if self.parallel is None else self.parallel.shard(x_BND)
        recompute = self.recompute and torch.is_grad_enabled()
        for block, own in zip(self.blocks, told, strict=True):
            inputs = (x_BND, own, positions, num_tokens, self.kernel, self.parallel)
            x_BND = checkpoint(block, *inputs, use_reentrant=False) if recompute else block(*inputs)
        out_BND = self.head(x_BND, head_D)
        return self._unpatchify(out_BND if self.parallel is None else self.parallel.gather(out_BND, num_tokens), grid)

    def _patchify(self, x_CThw: Tensor) -> tuple[Tensor, Grid]:
        """Return the tokens `[1, N, D]` of patches, and how many there are along each axis.

        Patches do not overlap, so the convolution is a matrix product: its result is contiguous, and it does not depend
        on cuDNN, whose bfloat16 Conv3d some releases of torch avoid at a great cost (pytorch/pytorch issue 174051).
        """
        rows, columns = self.config.patch_size[1:]
        patches_ThwCrc = x_CThw.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(1, 2, 4, 0, 3, 5)
        grid = (patches_ThwCrc.shape[0], patches_ThwCrc.shape[1], patches_ThwCrc.shape[2])
        embedding = self.patch_embedding
        x_ND = functional.linear(patches_ThwCrc.flatten(3).flatten(0, 2), embedding.weight.flatten(1), embedding.bias)
        return x_ND[None], grid

    def _positions_of(self, grid: Grid, audio_tokens: int) -> Positions:
        key = (grid, self.parallel)
        if key not in self._positions:
            wide = promoted(self.head.modulation).dtype
            cos_Nd, sin_Nd = rope.tables(grid, self.config.head_dim, device=self.device, dtype=wide)
            mask_NM = None
            if self.parallel is not None:
                start, stop = self.parallel.bounds(cos_Nd.shape[0])
                cos_Nd, sin_Nd = cos_Nd[start:stop].contiguous(), sin_Nd[start:stop].contiguous()
                frame_N = torch.arange(start, stop, device=self.device) // (grid[1] * grid[2])
                frame_M = torch.arange(grid[0] * audio_tokens, device=self.device) // audio_tokens
                mask_NM = frame_N[:, None] == frame_M
            self._positions[key] = Positions(cos_Nd, sin_Nd, mask_NM)
        return self._positions[key]

    def _unpatchify(self, x_BND: Tensor, grid: Grid) -> Tensor:
        frames, rows, columns = grid
        _, patch_rows, patch_columns = self.config.patch_size
        x = x_BND[0].unflatten(0, grid).unflatten(-1, (patch_rows, patch_columns, self.config.out_channels))
        return x.permute(5, 0, 1, 3, 2, 4).reshape(-1, frames, rows * patch_rows, columns * patch_columns)


def _promoted_sequence(x: Tensor, layers: nn.Sequential) -> Tensor:
    """Apply layers in float32 whatever their weights are stored in."""
    for layer in layers:
        x = promoted_linear(x, layer) if isinstance(layer, nn.Linear) else layer(x)
    return x
