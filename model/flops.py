"""How large a recipe is and how much arithmetic it needs: parameters and FLOPs of every part, from its sizes alone.

One multiply-add is two FLOPs; only products count, as an operator-level count of the network would. Nothing here needs
torch or weights. Bytes are in `memory.py`, seconds in `predict.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from .config import DiTConfig, ImageEncoderConfig, Recipe, SpeechConfig, TextConfig, VAEConfig

TEXT_BUCKETS = 32
"""Relative positions that umT5 tells apart (config.json of google/umt5-xxl)."""


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Return the parameters of a linear layer."""
    return inputs * outputs + bias * outputs


def parameters(recipe: Recipe) -> dict[str, int]:
    """Return the parameters of each network as loaded from its file; the image tower without its unused last layers."""
    return {
        "dit": sum(dit_parameters(recipe.dit, recipe.vae).values()),
        "vae": vae_parameters(recipe.vae),
        "text": text_parameters(recipe.text),
        "image": image_parameters(recipe.image),
        "speech": speech_parameters(recipe.speech),
    }


def dit_parameters(config: DiTConfig, vae: VAEConfig) -> dict[str, int]:
    """Return the parameters of the diffusion transformer by group; blocks summed over all layers."""
    width, audio, layers = config.dim, config.audio, config.num_layers
    patch = config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    feature = audio.num_layers * audio.channels
    square = linear(width, width)
    return {
        "patch_embedding": linear(config.in_channels * patch, width),
        "text_embedding": linear(config.text_dim, width) + square,
        "time_embedding": linear(config.freq_dim, width) + square,
        "time_projection": linear(width, 6 * width),
        "img_emb": 2 * config.image_dim + linear(config.image_dim, config.image_dim) + linear(config.image_dim, width)
        + 2 * width,
        "audio_proj": linear(audio.window * feature, audio.hidden)
        + linear(_group_window(config, vae) * feature, audio.hidden)
        + linear(audio.hidden, audio.hidden) + linear(audio.hidden, audio.tokens * audio.dim) + 2 * audio.dim,
        "block.modulation": layers * 6 * width,
        "block.self_attn": layers * (4 * square + 2 * width),
        "block.norm3": layers * 2 * width,
        "block.cross_attn": layers * (6 * square + 3 * width),
        "block.ffn": layers * (linear(width, config.ffn_dim) + linear(config.ffn_dim, width)),
        "block.audio_cross_attn": layers * (2 * square + linear(audio.dim, 2 * width)),
        "block.norm_x": layers * 2 * width,
        "head": 2 * width + linear(width, config.out_channels * patch),
    }  # fmt: skip


def _group_window(config: DiTConfig, vae: VAEConfig) -> int:
    """Return how many speech features a latent frame after the first sees: its frames, and the window around them."""
    return config.audio.window + vae.temporal_stride - 1


def block_flops(recipe: Recipe) -> dict[str, int]:
    """Return the FLOPs of one transformer block on a whole clip, all keys and values computed anew.

    Source: the multiply-adds of WanAttentionBlock in `flash_talk/infinite_talk/modules/multitalk_model.py`.
    """
    config, tokens = recipe.dit, recipe.num_tokens
    width, audio = config.dim, config.audio
    context, sounds = config.text_len + recipe.image.num_tokens, recipe.latent_frames * audio.tokens
    return {
        "qkvo": 8 * tokens * width**2,
        "self_attention": 4 * tokens**2 * width,
        "context_qo": 4 * tokens * width**2,
        "context_kv": 4 * context * width**2,
        "context_attention": 4 * tokens * context * width,
        "audio_qo": 4 * tokens * width**2,
        "audio_kv": 4 * sounds * audio.dim * width,
        "audio_attention": 4 * tokens * audio.tokens * width,
        "ffn": 4 * tokens * width * config.ffn_dim,
    }


def embedding_flops(recipe: Recipe) -> int:
    """Return the FLOPs of a forward outside the blocks: embeddings, audio projector, head."""
    config, audio, tokens = recipe.dit, recipe.dit.audio, recipe.num_tokens
    width, patch = config.dim, config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    feature = audio.num_layers * audio.channels
    groups = recipe.latent_frames - 1
    products = (
        tokens * width * patch * (config.in_channels + config.out_channels)
        + config.text_len * width * (config.text_dim + width)
        + width * (config.freq_dim + width + 6 * width)
        + recipe.image.num_tokens * config.image_dim * (config.image_dim + width)
        + (audio.window + groups * _group_window(config, recipe.vae)) * feature * audio.hidden
        + recipe.latent_frames * audio.hidden * (audio.hidden + audio.tokens * audio.dim)
    )
    return 2 * products


def dit_flops(recipe: Recipe, *, cached: bool = False) -> int:
    """Return the FLOPs of one forward of the diffusion transformer, over all GPUs together.

    Args:
        recipe: Sizes.
        cached: Leave out keys and values of context and audio, which do not depend on the step.
    """
    parts = block_flops(recipe)
    left_out = parts["context_kv"] + parts["audio_kv"] if cached else 0
    return recipe.dit.num_layers * (sum(parts.values()) - left_out) + embedding_flops(recipe)


def chunk_flops(recipe: Recipe) -> int:
    """Return the FLOPs of one cycle: every step, the decode of a clip, the encode of its last frames."""
    steps = recipe.sampler.num_steps * dit_flops(recipe)
    return steps + decode_flops(recipe, recipe.latent_frames) + encode_flops(recipe, recipe.stream.motion_frames)


@dataclass(frozen=True)
class Layer:
    """A convolution, or the attention, of the autoencoder.

    Attributes:
        inputs: Channels read.
        outputs: Channels written.
        taps: Positions of the kernel; 0 for the attention's two products.
        shape: Frames, rows, columns written.
        extra: Parameters beside the kernel and its bias: those of the norm in front.
    """

    inputs: int
    outputs: int
    taps: int
    shape: tuple[int, int, int]
    extra: int = 0

    @property
    def parameters(self) -> int:
        """Kernel, bias, norm."""
        return self.taps and self.inputs * self.outputs * self.taps + self.outputs + self.extra

    @property
    def flops(self) -> int:
        """Of all positions; the attention sees the positions of one frame."""
        frames, rows, columns = self.shape
        if not self.taps:
            return 4 * frames * (rows * columns) ** 2 * self.inputs
        return 2 * frames * rows * columns * self.inputs * self.outputs * self.taps


def encoder_layers(config: VAEConfig, num_frames: int, rows: int, columns: int) -> Iterator[Layer]:
    """Yield the layers that encode `num_frames` frames (4n + 1) of `rows` x `columns` pixels.

    Source: Encoder3d in Wan2.1 `wan/modules/vae.py`.
    """
    dims = [config.base_dim * factor for factor in (1, *config.multipliers)]
    frames = num_frames
    yield Layer(3, dims[0], 27, (frames, rows, columns))
    for stage, (inputs, width) in enumerate(pairwise(dims)):
        for number in range(config.num_res_blocks):
            yield from _residual(width if number else inputs, width, (frames, rows, columns))
        if stage < len(config.halves_time):
            rows, columns = rows // 2, columns // 2
            yield Layer(width, width, 9, (frames, rows, columns))
            if config.halves_time[stage]:
                frames = (frames - 1) // 2 + 1
                yield Layer(width, width, 3, (frames - 1, rows, columns))
    codes, shape = 2 * config.latent_channels, (frames, rows, columns)
    yield from _middle(dims[-1], shape)
    yield Layer(dims[-1], codes, 27, shape, extra=dims[-1])
    yield Layer(codes, codes, 1, shape)


def decoder_layers(config: VAEConfig, num_latents: int, rows: int, columns: int) -> Iterator[Layer]:
    """Yield the layers that decode `num_latents` latent frames of `rows` x `columns`.

    Source: Decoder3d in Wan2.1 `wan/modules/vae.py`.
    """
    widths = [config.base_dim * factor for factor in reversed(config.multipliers)]
    frames = num_latents
    yield Layer(config.latent_channels, config.latent_channels, 1, (frames, rows, columns))
    yield Layer(config.latent_channels, widths[0], 27, (frames, rows, columns))
    yield from _middle(widths[0], (frames, rows, columns))
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for number in range(config.num_res_blocks + 1):
            yield from _residual(width if number else inputs, width, (frames, rows, columns))
        if stage < len(config.halves_time):
            if config.halves_time[-1 - stage]:
                yield Layer(width, 2 * width, 3, (frames - 1, rows, columns))
                frames = 2 * frames - 1
            rows, columns = rows * 2, columns * 2
            inputs = width // 2
            yield Layer(width, inputs, 9, (frames, rows, columns))
    yield Layer(widths[-1], 3, 27, (frames, rows, columns), extra=widths[-1])


def _residual(inputs: int, width: int, shape: tuple[int, int, int]) -> Iterator[Layer]:
    yield Layer(inputs, width, 27, shape, extra=inputs)
    yield Layer(width, width, 27, shape, extra=width)
    if inputs != width:
        yield Layer(inputs, width, 1, shape)


def _middle(width: int, shape: tuple[int, int, int]) -> Iterator[Layer]:
    yield from _residual(width, width, shape)
    yield Layer(width, 3 * width, 1, shape, extra=width)
    yield Layer(width, width, 0, shape)
    yield Layer(width, width, 1, shape)
    yield from _residual(width, width, shape)


def vae_parameters(config: VAEConfig) -> int:
    """Return the parameters of encoder and decoder."""
    layers = [*encoder_layers(config, 1, 8, 8), *decoder_layers(config, 1, 1, 1)]
    return sum(layer.parameters for layer in layers)


def encode_flops(recipe: Recipe, num_frames: int) -> int:
    """Return the FLOPs of encoding `num_frames` frames of the recipe's size."""
    layers = encoder_layers(recipe.vae, num_frames, recipe.stream.height, recipe.stream.width)
    return sum(layer.flops for layer in layers)


def decode_flops(recipe: Recipe, num_latents: int) -> int:
    """Return the FLOPs of decoding `num_latents` latent frames of the recipe's size, the first of a clip among them.

    As the released graph counts; `model.vae` leaves out the two thirds of the first frame's convolutions that only see
    zeros: 2.4 % of a clip's decode, 16 % of the encode of five frames.
    """
    return sum(layer.flops for layer in decoder_layers(recipe.vae, num_latents, *recipe.latent_size))


def text_parameters(config: TextConfig) -> int:
    """Return the parameters of the umT5 encoder."""
    attention = 4 * config.dim * config.attention_dim + TEXT_BUCKETS * config.num_heads
    layer = attention + 3 * config.dim * config.ffn_dim + 2 * config.dim
    return config.vocab_size * config.dim + config.num_layers * layer + config.dim


def image_parameters(config: ImageEncoderConfig) -> int:
    """Return the parameters of the image tower that are used: all blocks but the last, no final norm, no head."""
    ends = 3 * config.patch_size**2 * config.dim + config.dim * (1 + config.num_tokens) + 2 * config.dim
    attention = linear(config.dim, 3 * config.dim) + linear(config.dim, config.dim)
    mlp = linear(config.dim, config.ffn_dim) + linear(config.ffn_dim, config.dim)
    return ends + (config.num_layers - 1) * (attention + mlp + 4 * config.dim)


def speech_parameters(config: SpeechConfig) -> int:
    """Return the parameters of wav2vec 2.0 without its pre-training heads."""
    width, channels = config.dim, config.conv_channels
    first, *later = config.conv_kernels
    extractor = first * channels + 2 * channels + sum(later) * channels**2
    projection = 2 * channels + linear(channels, width)
    kernel = config.position_kernel
    position = width * (width // config.position_groups) * kernel + kernel + width
    layer = 4 * linear(width, width) + linear(width, config.ffn_dim) + linear(config.ffn_dim, width) + 4 * width
    mask_embedding = width
    return extractor + projection + mask_embedding + position + 2 * width + config.num_layers * layer


def speech_flops(recipe: Recipe) -> int:
    """Return the FLOPs of encoding the sound that a chunk hears."""
    config, stream = recipe.speech, recipe.stream
    width, channels = config.dim, config.conv_channels
    length, inputs, total = stream.audio_seconds * stream.audio_rate_hz, 1, 0
    for kernel, stride in zip(config.conv_kernels, config.conv_strides, strict=True):
        length = (length - kernel) // stride + 1
        total += 2 * length * kernel * inputs * channels
        inputs = channels
    frames = int(stream.audio_seconds * stream.frame_rate)
    position = width * (width // config.position_groups) * config.position_kernel
    layer = 4 * width**2 + 2 * width * config.ffn_dim
    total += 2 * frames * (channels * width + position + config.num_layers * layer)
    return total + config.num_layers * 4 * frames**2 * width
