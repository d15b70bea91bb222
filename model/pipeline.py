"""All parts of the model, loaded and placed: `build(recipe, weights_dir)`.

Text and image encoders are needed once per stream; on a GPU they visit it for that and leave it again.
Legend: C channels, F frames, H W pixels, T latent frames, h w latent rows and columns, P speakers, L text tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from talkbench.errors import PrerequisiteError
from talkbench.ids import digest

from . import PACKAGE, accelerate, checkpoint, flow, initial, memory
from .attention import choose_kernel
from .conditioning import audio, image, text
from .config import Recipe
from .dit import ContextKV, DiT, Parallel
from .loudness import normalise
from .parallel import sequence
from .parallel.bands import BandedVAE
from .parallel.sequence import SequenceParallel
from .parallel.tiles import TiledVAE
from .parallel.xdit import with_xdit
from .vae import VAE

if TYPE_CHECKING:
    from PIL.Image import Image


_log = logging.getLogger(__name__)

Section = Callable[..., AbstractContextManager[None]]


class Autoencoder(Protocol):
    """The video autoencoder on one device, or split over several."""

    def encode(self, video_BCFHW: Tensor) -> Tensor:
        """Return latents `[B, 16, T, h, w]`."""

    def decode_groups(self, latent_BCThw: Tensor, groups: Sequence[int]) -> Iterator[Tensor]:
        """Yield pixels of so many latent frames at a time."""


@dataclass(frozen=True)
class Conditions:
    """What stays the same for a stream.

    Attributes:
        y_CThw: Mask and reference latent.
        context: Every block's keys and values of text and image.
        motion_CThw: Latent of the image, the motion of the first chunk.
    """

    y_CThw: Tensor
    context: list[ContextKV]
    motion_CThw: Tensor

    def tensors(self) -> list[Tensor]:
        """Return what every forward reads; `read` takes it apart again."""
        return [self.y_CThw, *(tensor for kv in self.context for tensor in vars(kv).values())]

    @staticmethod
    def read(tensors: Sequence[Tensor]) -> tuple[Tensor, list[ContextKV]]:
        """Return `y_CThw` and `context` of `tensors`."""
        y_CThw, *rest = tensors
        return y_CThw, [ContextKV(*rest[start : start + 4]) for start in range(0, len(rest), 4)]


@dataclass(frozen=True)
class Appearance:
    """What a picture becomes, before any network sees it.

    Attributes:
        reference_CThw: Latents of the picture and grey frames; the first is the code of the picture alone.
        image_BMC: Tokens of the image encoder.
    """

    reference_CThw: Tensor
    image_BMC: Tensor

    @property
    def y_CThw(self) -> Tensor:
        """Mask and reference latent `[20, T, h, w]`, which the network gets beside its state."""
        return masked(self.reference_CThw)


def masked(reference_CThw: Tensor) -> Tensor:
    """Return a reference latent with the four mask channels before it: one where the picture is, zero elsewhere."""
    mask_CThw = torch.zeros_like(reference_CThw[:4])
    mask_CThw[:, 0] = 1
    return torch.cat((mask_CThw, reference_CThw))


class Codec:
    """The autoencoder of a recipe, on one device: frames to latents and back.

    Attributes:
        recipe: What was built.
        device: Where it runs.
        vae: The network.
    """

    def __init__(self, recipe: Recipe, device: torch.device, vae: Autoencoder) -> None:
        self.recipe, self.device, self.vae = recipe, device, vae

    @torch.no_grad()
    def decode(self, latent_CThw: Tensor) -> Iterator[Tensor]:
        """Yield frames `[3, F, H, W]` in [-1, 1], in the groups of the recipe."""
        for video_BCFHW in self.vae.decode_groups(latent_CThw[None], self.recipe.compute.decode_groups):
            yield video_BCFHW[0]

    @torch.no_grad()
    def encode(self, video_CFHW: Tensor) -> Tensor:
        """Return latents `[16, T, h, w]` of frames in [-1, 1]."""
        return self.vae.encode(video_CFHW[None])[0]


class Encoders(Codec):
    """Autoencoder and encoders of a recipe, on one device: pixels, text and sound to what the network takes."""

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        *,
        vae: Autoencoder,
        speech: audio.SpeechEncoder,
        text: text.TextEncoder,
        image: image.ImageEncoder,
    ) -> None:
        super().__init__(recipe, device, vae)
        self.speech = speech
        self._text, self._image = text, image
        self._last_prompt: tuple[str, Tensor] | None = None

    def prepare(self, picture: Image) -> Tensor:
        """Return a picture as the recipe's size asks: `[3, H, W]` in [-1, 1], float32, on the CPU."""
        return image.prepare(picture, self.recipe.stream.height, self.recipe.stream.width)

    @torch.no_grad()
    def encode_picture(self, image_CHW: Tensor) -> Appearance:
        """Encode a picture of `prepare`, or of another size that the autoencoder takes."""
        on_device_CHW = image_CHW.to(self.device)
        clip_CFHW = on_device_CHW.new_zeros(3, self.recipe.stream.clip_frames, *image_CHW.shape[1:])
        clip_CFHW[:, 0] = on_device_CHW
        reference_CThw = self.encode(clip_CFHW)
        with self._visiting(self._image):
            image_BMC = self._image.encode(on_device_CHW)
        return Appearance(reference_CThw, image_BMC)

    def encode_text(self, prompt: str) -> Tensor:
        """Return the text context; the last one is kept, since most streams are given the same prompt."""
        if self._last_prompt is None or self._last_prompt[0] != prompt:
            with self._visiting(self._text):
                self._last_prompt = (prompt, self._text.encode(prompt))
        return self._last_prompt[1]

    def encode_speech(self, heard_N: NDArray[np.float32]) -> Tensor:
        """Return the features `[F, layers, channels]` of what was heard, at the loudness of the training."""
        config = self.recipe.stream
        level_N = normalise(heard_N, config.audio_rate_hz, config.loudness_lufs)
        return self.speech.features(level_N, config.frame_rate)

    @contextmanager
    def _visiting(self, encoder: nn.Module) -> Iterator[None]:
        """Have an encoder on the device for a moment."""
        if self.device.type == "cpu":
            yield
            return
        tensors = [*encoder.parameters(), *encoder.buffers()]
        at_home = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.to(self.device)
            yield
        finally:
            # Not copied back: 11 GB, and nothing has changed.
            for tensor, data in zip(tensors, at_home, strict=True):
                tensor.data = data


class Model(Encoders):
    """Network, autoencoder and encoders of a recipe, on one device.

    Attributes:
        weights: ``released`` (those of a folder), ``mini-domain <folder>`` (those of the package), ``random <seed>``.
        beside: Where a GPU computes what the next chunk will need.
    """

    def __init__(
        self,
        recipe: Recipe,
        device: torch.device,
        weights: str,
        *,
        dit: DiT,
        vae: Autoencoder,
        speech: audio.SpeechEncoder,
        text: text.TextEncoder,
        image: image.ImageEncoder,
    ) -> None:
        super().__init__(recipe, device, vae=vae, speech=speech, text=text, image=image)
        self.weights, self.dit = weights, dit
        self._times = [dit.encode_time(flow.NUM_TRAIN_STEPS * sigma) for sigma in self._sigmas[:-1]]
        self._graph = accelerate.GraphedSampler() if recipe.compute.cuda_graph else None
        self.beside = accelerate.SideStream(device) if device.type == "cuda" else None

    @property
    def _sigmas(self) -> tuple[float, ...]:
        return flow.noise_levels(self.recipe.sampler)

    @property
    def identity(self) -> dict[str, Any]:
        """What must agree for a saved stream to go on: the recipe but its place and kernels, and the weights."""
        parts = asdict(self.recipe)
        for name in ("name", "description", "parallel", "compute"):
            del parts[name]
        return {name: digest(_plain(value)) for name, value in parts.items()} | {"weights": self.weights}

    @torch.no_grad()
    def condition(self, image_CHW: Tensor, prompt: str) -> Conditions:
        """Encode the picture and the prompt.

        Args:
            image_CHW: Of `prepare`.
            prompt: Any text; what exceeds the encoder's length is cut.
        """
        text_LC = self.encode_text(prompt)
        appearance = self.encode_picture(image_CHW)
        return Conditions(
            y_CThw=appearance.y_CThw,
            context=self.dit.encode_context(text_LC, appearance.image_BMC),
            motion_CThw=self.encode(image_CHW[:, None].to(self.device)),
        )

    @torch.no_grad()
    def sample(
        self,
        noises: Sequence[Tensor],
        motion_CThw: Tensor,
        conditions: Conditions,
        windows_PFWLC: Tensor,
        section: Section,
    ) -> Tensor:
        """Return the clean latents `[16, T, h, w]` of a chunk; every step is timed as a `dit_step`."""
        inputs = (motion_CThw, windows_PFWLC.to(self.device), *noises, *conditions.tensors())
        if self._graph is None:
            return self._run(section, *inputs)
        with section("dit_step", self.recipe.sampler.num_steps):
            setting = (self.dit.kernel, self.dit.parallel)
            return self._graph(partial(self._run, lambda _: nullcontext()), inputs, setting)

    def _run(self, section: Section, motion_CThw: Tensor, windows_PFWLC: Tensor, *rest: Tensor) -> Tensor:
        """Sample from plain tensors: noises and conditions are the rest."""
        num_noises = self.recipe.sampler.num_steps + 1
        noises, (y_CThw, context) = rest[:num_noises], Conditions.read(rest[num_noises:])
        speech = self.dit.encode_audio(windows_PFWLC)

        def velocity(x_CThw: Tensor, step: int) -> Tensor:
            with section("dit_step"):
                return self.dit(x_CThw, self._times[step], y_CThw, context, speech)

        return flow.sample(velocity, noises, motion_CThw, self._sigmas)


def build(
    recipe: Recipe,
    weights_dir: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    random_seed: int | None = None,
    parallel: Parallel | None = None,
) -> Model:
    """Return a recipe's model with its weights loaded, kernels chosen and, if asked for, compiled.

    Args:
        recipe: What to build.
        weights_dir: Folder with the released repositories' folders; see `checkpoint`.
        device: Where it runs.
        random_seed: Fill the networks with seeded random numbers. With neither folder nor seed a recipe takes the
            weights that come with it, its own random ones, or `weights/` in the working directory.
        parallel: How the tokens are spread; by default over the processes that the recipe asks for.

    Raises:
        PrerequisiteError: If weights or a package are absent, or memory is short; said before anything is loaded.
        TalkbenchError: If the weights do not fit, or the processes are not those that the recipe asks for.
    """
    where = torch.device(device)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)  # streams, events and graphs are those of the current device
    _refuse_if_too_big(recipe, where)
    seed, weights_dir, weights = _weights(recipe, weights_dir, random_seed)
    compute, dtype = recipe.compute, getattr(torch, recipe.compute.dtype)
    kernel = choose_kernel(compute.attention, device=where, dtype=dtype, head_dim=recipe.dit.head_dim)
    if parallel is None:
        parallel = sequence.initialise(recipe.parallel, device=where, dtype=dtype, dit=recipe.dit, kernel=kernel)
        if parallel is not None and recipe.parallel.exchange == "xdit":
            parallel = with_xdit(parallel)
    dit = _dit(recipe, seed, weights_dir, where, dtype)
    nets = _encoder_nets(recipe, seed, weights_dir, where, dtype)
    dit.use(kernel, parallel)
    if compute.fp8:
        accelerate.to_fp8(dit)
    nets.vae.channels_last()
    if compute.compile:
        # Sends around a ring break graphs.
        accelerate.compile_blocks(dit, fullgraph=recipe.parallel.ring == 1)
        nets.vae.compile()
    _log.info("%s: %s weights on %s", recipe.name, weights, where)
    return Model(
        recipe,
        where,
        weights,
        dit=dit,
        vae=_spread(nets.vae, recipe, parallel),
        speech=nets.speech,
        text=nets.text,
        image=nets.image,
    )


def build_encoders(
    recipe: Recipe,
    weights_dir: Path | None = None,
    *,
    device: torch.device | str = "cpu",
    random_seed: int | None = None,
) -> Encoders:
    """Return a recipe's autoencoder and encoders without its network, all on the device to stay.

    Args:
        recipe: Whose.
        weights_dir: As for `build`.
        device: Where they run.
        random_seed: As for `build`.

    Raises:
        PrerequisiteError: If weights or a package are absent.
        TalkbenchError: If the weights do not fit.
    """
    where = torch.device(device)
    seed, weights_dir, _ = _weights(recipe, weights_dir, random_seed)
    nets = _encoder_nets(recipe, seed, weights_dir, where, getattr(torch, recipe.compute.dtype))
    nets.vae.channels_last()
    return Encoders(
        recipe, where, vae=nets.vae, speech=nets.speech, text=nets.text.to(where), image=nets.image.to(where)
    )


def build_codec(recipe: Recipe, weights_dir: Path | None = None, *, device: torch.device | str = "cpu") -> Codec:
    """Return a recipe's autoencoder alone.

    Args:
        recipe: Whose.
        weights_dir: As for `build`.
        device: Where it runs.

    Raises:
        PrerequisiteError: If weights are absent.
        TalkbenchError: If the weights do not fit.
    """
    where = torch.device(device)
    seed, weights_dir, _ = _weights(recipe, weights_dir, None)
    vae = _vae(recipe, seed, weights_dir, where, getattr(torch, recipe.compute.dtype))
    vae.channels_last()
    return Codec(recipe, where, vae)


def _weights(recipe: Recipe, weights_dir: Path | None, random_seed: int | None) -> tuple[int | None, Path | None, str]:
    """Return the seed of random weights or the folder of trained ones, and their name."""
    if random_seed is not None:
        return random_seed, None, f"random {random_seed}"
    if weights_dir is not None:
        return None, weights_dir, "released"
    if recipe.shipped is not None:
        return None, checkpoint.shipped(recipe.shipped), f"mini-domain {recipe.shipped}"
    if recipe.weights_seed is not None:
        return recipe.weights_seed, None, f"random {recipe.weights_seed}"
    return None, None, "released"


def _refuse_if_too_big(recipe: Recipe, device: torch.device) -> None:
    on_gpu = device.type == "cuda"
    available = torch.cuda.mem_get_info(device)[0] if on_gpu else memory.free_host_bytes()
    if (reason := memory.shortage(recipe, available, cuda=on_gpu)) is not None:
        raise PrerequisiteError(f"{reason} `python -m {PACKAGE}.profile --recipe {recipe.name} --dry-run` tells more.")


@dataclass(frozen=True)
class _EncoderNets:
    vae: VAE
    speech: audio.SpeechEncoder
    text: text.TextEncoder
    image: image.ImageEncoder


def _dit(recipe: Recipe, seed: int | None, weights_dir: Path | None, device: torch.device, dtype: torch.dtype) -> DiT:
    """Return the network, with seeded random numbers or the released weights."""
    if seed is not None:
        return initial.made(partial(DiT, recipe.dit), seed, device, dtype)
    files = checkpoint.locate(weights_dir)
    dit = initial.made_empty(partial(DiT, recipe.dit), device, dtype)
    checkpoint.load_dit(dit, files.model)
    return dit.requires_grad_(False).eval()


def _vae(recipe: Recipe, seed: int | None, weights_dir: Path | None, device: torch.device, dtype: torch.dtype) -> VAE:
    """Return the autoencoder, with seeded random numbers or the released weights."""
    if seed is not None:
        return initial.made(partial(VAE, recipe.vae), seed, device, dtype)
    files = checkpoint.locate(weights_dir)
    vae = initial.made_empty(partial(VAE, recipe.vae), device, dtype)
    checkpoint.load(vae, files.vae)
    return vae.requires_grad_(False).eval()


def _encoder_nets(
    recipe: Recipe, seed: int | None, weights_dir: Path | None, device: torch.device, dtype: torch.dtype
) -> _EncoderNets:
    """Return everything but the network; text and image encoders stay on the CPU."""
    vae = _vae(recipe, seed, weights_dir, device, dtype)
    if seed is not None:
        tokenizer = text.tokenizer(replace(recipe.text, tokenizer="bytes"), Path())
        return _EncoderNets(
            vae=vae,
            speech=initial.made(partial(audio.SpeechEncoder, recipe.speech), seed, device, torch.float32),
            text=initial.made(partial(text.TextEncoder, recipe.text, tokenizer), seed, device, dtype).cpu(),
            image=initial.made(partial(image.ImageEncoder, recipe.image), seed, device, torch.float32).cpu(),
        )
    files = checkpoint.locate(weights_dir)
    return _EncoderNets(
        vae=vae,
        speech=audio.load(recipe.speech, files.speech, device=device),
        text=text.load(recipe.text, files.text, files.tokenizer, dtype=dtype),
        image=image.load(recipe.image, files.image),
    )


def _spread(vae: VAE, recipe: Recipe, parallel: Parallel | None) -> Autoencoder:
    if not isinstance(parallel, SequenceParallel) or recipe.parallel.vae == "off":
        return vae
    return {"exact": BandedVAE, "tiled": TiledVAE}[recipe.parallel.vae](vae, parallel.group)


def _plain(value: Any) -> Any:
    """Return a configuration as JSON holds it."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Fraction) else value
