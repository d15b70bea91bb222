"""What a model is, as frozen dataclasses; the defaults are the released 14B model.

Source: SoulX-FlashTalk at commit 688982e, `config.json` of Wan-AI/Wan2.1-I2V-14B-480P and of
TencentGameMate/chinese-wav2vec2-base. Complete configurations are functions in `recipes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from typing import Literal

DEFAULT_PROMPT = "A person is talking. Only the foreground characters are moving, the background remains static."


@dataclass(frozen=True)
class AudioTokensConfig:
    """From speech features to the audio tokens of each latent frame.

    Attributes:
        window: Neighbouring features that a frame sees.
        num_layers: Layers of the speech encoder, all of them used.
        channels: Channels of a feature.
        hidden: Width between the two halves of the projector.
        tokens: Audio tokens per latent frame.
        dim: Width of an audio token.
    """

    window: int = 5
    num_layers: int = 12
    channels: int = 768
    hidden: int = 512
    tokens: int = 32
    dim: int = 768


@dataclass(frozen=True)
class DiTConfig:
    """The diffusion transformer.

    Attributes:
        dim: Model width; must divide into `num_heads` heads of an even width.
        in_channels: Latent, four mask channels, reference latent.
        freq_dim: Width of the time sinusoid.
        text_len: Text rows after padding; padding rows take part in attention.
        eps: Of the norms in the blocks; the audio and image projections use 1e-5.
    """

    dim: int = 5120
    num_heads: int = 40
    num_layers: int = 40
    ffn_dim: int = 13824
    in_channels: int = 36
    out_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_len: int = 512
    text_dim: int = 4096
    image_dim: int = 1280
    eps: float = 1e-6
    audio: AudioTokensConfig = field(default_factory=AudioTokensConfig)

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.dim // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """The Wan2.1 video autoencoder: 8 x 8 pixels and 4 frames per latent.

    Attributes:
        base_dim: Channels at full resolution; deeper stages multiply it.
        multipliers: Per stage, from full resolution down.
        num_res_blocks: Per encoder stage; a decoder stage has one more.
        halves_time: Which halvings between stages also halve time.
    """

    base_dim: int = 96
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    halves_time: tuple[bool, ...] = (False, True, True)
    latent_channels: int = 16

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent row or column."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame after the first."""
        return 2 ** sum(self.halves_time)


@dataclass(frozen=True)
class TextConfig:
    """The umT5-xxl encoder.

    Attributes:
        attention_dim: All heads together.
        tokenizer: ``umt5`` reads the folder `google/umt5-xxl`; ``bytes`` (no files) is for test recipes.
        max_tokens: Longer prompts are cut.
    """

    vocab_size: int = 256_384
    dim: int = 4096
    attention_dim: int = 4096
    num_heads: int = 64
    ffn_dim: int = 10_240
    num_layers: int = 24
    max_tokens: int = 512
    tokenizer: Literal["umt5", "bytes"] = "umt5"


@dataclass(frozen=True)
class ImageEncoderConfig:
    """The image tower of XLM-RoBERTa CLIP ViT-H/14; the last block is not used."""

    dim: int = 1280
    num_heads: int = 16
    num_layers: int = 32
    ffn_dim: int = 5120
    image_size: int = 224
    patch_size: int = 14

    @property
    def num_tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class SpeechConfig:
    """wav2vec 2.0; the defaults are chinese-wav2vec2-base."""

    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072
    conv_channels: int = 512
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16


@dataclass(frozen=True)
class SamplerConfig:
    """Few-step stochastic sampler.

    Attributes:
        num_steps: Network evaluations per chunk.
        shift: Warps the times towards noise.
    """

    num_steps: int = 4
    shift: float = 5.0


@dataclass(frozen=True)
class StreamConfig:
    """The chunk loop.

    Attributes:
        height: Pixels; a multiple of 16.
        width: Pixels; a multiple of 16.
        clip_frames: Frames the network sees at once; 4n + 1.
        motion_frames: Last frames of a chunk that condition the next; 4n + 1.
        audio_seconds: Past sound that the speech encoder hears.
        loudness_lufs: Integrated loudness that the sound is brought to before encoding.
        color_strength: 0 leaves the frames, 1 gives them the reference image's Lab statistics.
    """

    height: int = 720
    width: int = 416
    clip_frames: int = 33
    motion_frames: int = 5
    frame_rate: Fraction = Fraction(25)
    audio_rate_hz: int = 16_000
    audio_seconds: int = 8
    loudness_lufs: float = -23.0
    color_strength: float = 1.0
    prompt: str = DEFAULT_PROMPT
    seed: int = 9999

    @property
    def new_frames(self) -> int:
        """Frames delivered per chunk."""
        return self.clip_frames - self.motion_frames

    @property
    def samples_per_frame(self) -> int:
        """Audio samples per video frame; whole by `Recipe`'s check."""
        return int(self.audio_rate_hz / self.frame_rate)

    @property
    def samples_per_chunk(self) -> int:
        """Audio samples that a chunk consumes."""
        return self.new_frames * self.samples_per_frame

    @property
    def chunk_seconds(self) -> float:
        """Playing time of a chunk."""
        return float(self.new_frames / self.frame_rate)


@dataclass(frozen=True)
class ParallelConfig:
    """How one stream is spread over GPUs; the product of the degrees is the number of processes.

    Attributes:
        ulysses: GPUs that share heads; must divide the number of heads.
        ring: Groups that pass keys and values around.
        vae: ``exact`` splits rows and exchanges borders; ``tiled`` is the report's approximation; ``off`` replicates.
        exchange: ``torch`` is ours, on plain collectives; ``xdit`` is xDiT's USP, for even shards.
    """

    ulysses: int = 1
    ring: int = 1
    vae: Literal["exact", "tiled", "off"] = "exact"
    exchange: Literal["torch", "xdit"] = "torch"

    @property
    def num_processes(self) -> int:
        """Processes, one per GPU."""
        return self.ulysses * self.ring


@dataclass(frozen=True)
class ComputeConfig:
    """Arithmetic and kernels.

    Attributes:
        dtype: Of weights and activations; ``float32`` on a CPU.
        attention: ``auto`` takes the best kernel that is there; a name that is not there is refused.
        compile: `torch.compile` per block, with static shapes.
        cuda_graph: One CUDA graph over the sampler's steps.
        fp8: Linear layers of the blocks in 8-bit floating point: faster, and not the same numbers.
        decode_groups: Latent frames per decoder call.
    """

    dtype: Literal["bfloat16", "float32", "float64"] = "bfloat16"
    attention: str = "auto"
    compile: bool = False
    cuda_graph: bool = False
    fp8: bool = False
    decode_groups: tuple[int, ...] = (1, 8)


@dataclass(frozen=True)
class Recipe:
    """A complete configuration.

    Attributes:
        weights_seed: Of random weights: what training of a toy recipe starts from, and what a recipe without `shipped`
            runs with.
        shipped: Folder of trained weights that come with the package (`weights/`), if any.

    Raises:
        ValueError: If sizes do not fit together; the message names both.
    """

    name: str
    description: str
    dit: DiTConfig = field(default_factory=DiTConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)
    image: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    weights_seed: int | None = None
    shipped: str | None = None

    def __post_init__(self) -> None:
        dit, stream = self.dit, self.stream
        row, column = (self.vae.spatial_stride * patch for patch in dit.patch_size[1:])
        if stream.height % row or stream.width % column or min(stream.height, stream.width) < row:
            step = lcm(row, column)
            raise ValueError(f"size {stream.height}x{stream.width} (height x width): both must be multiples of {step}")
        for name, frames in (("clip_frames", stream.clip_frames), ("motion_frames", stream.motion_frames)):
            if frames % self.vae.temporal_stride != 1:
                raise ValueError(f"{name} is {frames}; expected {self.vae.temporal_stride}n + 1")
        if stream.motion_frames >= stream.clip_frames:
            raise ValueError(f"motion_frames {stream.motion_frames} leave nothing new of {stream.clip_frames} frames")
        if (stream.audio_rate_hz / stream.frame_rate).denominator != 1:
            raise ValueError(f"{stream.audio_rate_hz} Hz is not a whole number of samples per frame")
        if dit.dim % dit.num_heads or dit.head_dim % 2:
            raise ValueError(f"width {dit.dim} does not divide into {dit.num_heads} heads of even width")
        if dit.num_heads % self.parallel.ulysses:
            raise ValueError(f"{dit.num_heads} heads do not divide by a Ulysses degree of {self.parallel.ulysses}")
        expected = (self.speech.num_layers, self.speech.dim, self.text.dim, self.image.dim)
        if (dit.audio.num_layers, dit.audio.channels, dit.text_dim, dit.image_dim) != expected:
            raise ValueError("the widths of speech, text or image encoder do not match what the DiT expects")
        if sum(self.compute.decode_groups) != self.latent_frames:
            raise ValueError(f"decode_groups {self.compute.decode_groups} do not sum to {self.latent_frames} latents")

    @property
    def latent_frames(self) -> int:
        """Latent frames of a clip (T)."""
        return (self.stream.clip_frames - 1) // self.vae.temporal_stride + 1

    @property
    def latent_size(self) -> tuple[int, int]:
        """Latent rows and columns (h, w)."""
        return self.stream.height // self.vae.spatial_stride, self.stream.width // self.vae.spatial_stride

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape of a clip's latents, `[16, T, h, w]`."""
        return (self.dit.out_channels, self.latent_frames, *self.latent_size)

    @property
    def tokens_per_frame(self) -> int:
        """DiT tokens per latent frame (S)."""
        rows, columns = self.latent_size
        return (rows // self.dit.patch_size[1]) * (columns // self.dit.patch_size[2])

    @property
    def num_tokens(self) -> int:
        """DiT tokens of a clip (N)."""
        return self.latent_frames * self.tokens_per_frame
