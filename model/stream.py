"""The chunk loop: sound pushed in as it arrives, frames out as they are decoded, without end and in flat memory.

    stream = Stream(model, image)
    for samples in microphone:              # any block size, 16 kHz mono
        stream.push(samples)
        for piece in stream:                # whatever is ready: usually nothing, then 28 frames at once
            show(piece.frames_FHWC)
    stream.finish()                         # the rest of the sound
    for piece in stream: ...

Between chunks the stream carries the motion latents, the noise generator and the last seconds of sound, nothing else;
`save` writes them, `Stream.restore` goes on to the same frames. If a chunk fails, the stream stays before it.

Unlike the released code, every frame of the sound is delivered: the last chunk is filled up with silence and cut.
On a GPU the speech features of a chunk are computed beside the chunk before, if its sound is already there.

Legend: C channels, F frames, H W pixels, T latent frames, h w latent rows and columns.
Source: SoulX-FlashTalk, `flash_talk/src/pipeline/flash_talk_pipeline.py`, `flash_talk/inference.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from talkbench import atomic
from talkbench.errors import TalkbenchError

from . import color, flow
from .conditioning import audio
from .timing import Timeline

if TYPE_CHECKING:
    from PIL.Image import Image

    from .pipeline import Model

Samples = npt.NDArray[np.float32]
STATE_VERSION = 1


@dataclass(frozen=True)
class Piece:
    """Consecutive frames, on their way from the device.

    Attributes:
        first_frame: Their place in the stream; frame f plays at f / frame_rate.
        chunk: The chunk they belong to.
        last_of_chunk: Whether the chunk is complete with them.
    """

    first_frame: int
    chunk: int
    last_of_chunk: bool
    _host_FHWC: Tensor = field(repr=False)
    _finite: Tensor = field(repr=False)
    _copied: torch.cuda.Event | None = field(default=None, repr=False)

    @property
    def frames_FHWC(self) -> npt.NDArray[np.uint8]:
        """RGB frames on the host; waits for the copy.

        Raises:
            FloatingPointError: If the network returned something that is no number.
        """
        if self._copied is not None:
            self._copied.synchronize()
        if not bool(self._finite):
            raise FloatingPointError(f"chunk {self.chunk} holds values that are not finite; its frames mean nothing")
        frames: npt.NDArray[np.uint8] = self._host_FHWC.numpy()
        return frames

    @property
    def num_frames(self) -> int:
        """How many frames."""
        return int(self._host_FHWC.shape[0])


@dataclass(frozen=True)
class _State:
    """What a chunk takes and leaves: motion latents, past sound, the noise generator's state, its number."""

    motion_CThw: Tensor
    heard_N: Samples
    noise: Tensor
    chunk: int = 0


@dataclass(frozen=True)
class _Ahead:
    """What the next chunk will be told, if it hears this."""

    heard_N: Samples
    windows_PFWLC: Tensor


class Stream:
    """One talking avatar.

    Args:
        model: All parts, loaded.
        image: Reference picture, of any size; resized and cropped to the recipe's.
        prompt: Text; the recipe's default if None.
        seed: Of the noise; the recipe's default if None.
        released_behaviour: Reproduce the released program where it loses frames or precision: a last chunk that is not
            full is dropped, colours are corrected in the decoder's precision, and levels are cut off, not rounded.
        timeline: Collects how long each part takes.
    """

    def __init__(
        self,
        model: Model,
        image: Image,
        *,
        prompt: str | None = None,
        seed: int | None = None,
        released_behaviour: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        self.model, self.config = model, model.recipe.stream
        self.prompt = self.config.prompt if prompt is None else prompt
        self.seed = self.config.seed if seed is None else seed
        self.released_behaviour = released_behaviour
        self._timeline = timeline
        self._begin(model.prepare(image))

    def _begin(self, image_CHW: Tensor) -> None:
        self._image_CHW = image_CHW
        self._conditions = self.model.condition(image_CHW, self.prompt)
        exact = torch.promote_types(self.model.dit.dtype, torch.float32)
        self._color_dtype = self.model.dit.dtype if self.released_behaviour else exact
        self._colors = color.statistics(image_CHW.to(self.model.device), self._color_dtype)
        self._generator = torch.Generator(self.model.device).manual_seed(self.seed)
        silence_N = np.zeros(self.config.audio_seconds * self.config.audio_rate_hz, np.float32)
        self._state = _State(self._conditions.motion_CThw, silence_N, self._generator.get_state())
        self._pending: list[Samples] = []
        self._num_pushed = 0
        self._finished = False
        self._ahead: _Ahead | None = None

    @property
    def num_frames(self) -> int:
        """Frames that the sound so far asks for."""
        if self.released_behaviour:
            return self._num_pushed // self.config.samples_per_chunk * self.config.new_frames
        return -(-self._num_pushed // self.config.samples_per_frame)

    @property
    def num_delivered(self) -> int:
        """Frames delivered so far."""
        return min(self._state.chunk * self.config.new_frames, self.num_frames)

    def push(self, samples_N: Samples) -> None:
        """Append sound: mono float32 in [-1, 1] at the recipe's rate, any number of samples.

        Raises:
            TalkbenchError: If the stream is finished, or the samples are not finite numbers on one axis.
        """
        if self._finished:
            raise TalkbenchError("the stream is finished: it takes no more sound. Start another.")
        block = np.array(samples_N, np.float32)  # a copy: the caller may fill the same buffer again
        if block.ndim != 1 or not np.isfinite(block).all():
            raise TalkbenchError(f"sound of shape {block.shape}: expected finite samples on one axis (mono).")
        if block.size:
            self._pending.append(block)
            self._num_pushed += block.size

    def finish(self) -> None:
        """Say that no more sound comes: what is left becomes the last chunk."""
        self._finished = True

    def cancel(self) -> None:
        """Forget sound that is not played yet; the stream ends where it is."""
        self._num_pushed -= self._num_pending
        self._pending.clear()
        self._finished = True
        self._state = replace(self._state)  # a chunk under way finds that it is no longer wanted

    def __iter__(self) -> Iterator[Piece]:
        """Yield frames for which there is sound; ends when more is needed, and goes on when asked again."""
        while (samples_N := self._next_samples()) is not None:
            yield from self._pieces(samples_N)

    def play(self, blocks: Iterable[Samples]) -> Iterator[Piece]:
        """Push all of a sound and finish; yield frames as soon as there is sound for them."""
        for block in blocks:
            self.push(block)
            yield from self
        self.finish()
        yield from self

    @property
    def _num_pending(self) -> int:
        return sum(block.size for block in self._pending)

    def _next_samples(self, skip: int = 0) -> Samples | None:
        """Return the sound of the next chunk, or one `skip` later, without taking it; None if it is not there yet."""
        wanted = self.config.samples_per_chunk
        held = self._num_pending - skip * wanted
        if held < wanted and (not self._finished or held <= 0 or self.released_behaviour):
            return None
        if len(self._pending) > 1:
            self._pending = [np.concatenate(self._pending)]
        head = self._pending[0][skip * wanted :][:wanted]
        return np.pad(head, (0, wanted - head.size))

    def _pieces(self, samples_N: Samples) -> Iterator[Piece]:
        """Yield the next chunk's frames; the state moves on, all at once, before the last piece is handed out."""
        config, state = self.config, self._state
        heard_N = _later(state.heard_N, samples_N)
        self._generator.set_state(state.noise)
        latent_CThw = self._sample(self._prepared_windows(heard_N), state.motion_CThw)
        self._look_ahead(heard_N)
        after = partial(_State, heard_N=heard_N, noise=self._generator.get_state(), chunk=state.chunk + 1)
        finite = latent_CThw.isfinite().all()
        decoded = self.model.decode(latent_CThw)
        tails: list[Tensor] = []
        stop = 0
        for _ in self.model.recipe.compute.decode_groups:
            with self._section("decode"):
                video_CFHW = next(decoded)
            with self._section("color"):
                video_CFHW = color.correct(video_CFHW, self._colors, config.color_strength, self._color_dtype)
            start, stop = stop, stop + video_CFHW.shape[1]
            piece = self._piece(video_CFHW, start, state.chunk, finite)
            tails.append(video_CFHW[:, -config.motion_frames :])
            if stop == config.clip_frames:
                with self._section("encode"):
                    motion_CThw = self.model.encode(torch.cat(tails, dim=1)[:, -config.motion_frames :])
                if not self._advance(state, after(motion_CThw)):
                    return
            if piece is not None:
                yield piece
                if stop < config.clip_frames and self._state is not state:
                    return

    def _prepared_windows(self, heard_N: Samples) -> Tensor:
        """Return the speech windows of a chunk, computed ahead if this is what was expected to be heard."""
        ahead, beside, self._ahead = self._ahead, self.model.beside, None
        if ahead is None or beside is None or not np.array_equal(ahead.heard_N, heard_N):
            return self._audio_windows(heard_N)
        return beside.join(ahead.windows_PFWLC)

    def _look_ahead(self, heard_N: Samples) -> None:
        """Start on the speech of the chunk after the one that heard this, if its sound is there."""
        beside = self.model.beside
        if beside is None or (samples_N := self._next_samples(skip=1)) is None:
            return
        next_N = _later(heard_N, samples_N)
        self._ahead = _Ahead(next_N, beside.start(partial(self._audio_windows, next_N)))

    def _audio_windows(self, heard_N: Samples) -> Tensor:
        config = self.config
        with self._section("audio"):
            features_FLC = self.model.encode_speech(heard_N)
            first = features_FLC.shape[0] - config.clip_frames
            return audio.windows(features_FLC, first, config.clip_frames, self.model.recipe.dit.audio.window)

    def _sample(self, windows_PFWLC: Tensor, motion_CThw: Tensor) -> Tensor:
        model = self.model
        recipe = model.recipe
        noises = flow.draw_noise(recipe.latent_shape, recipe.sampler.num_steps, model.dit.dtype, self._generator)
        return model.sample(noises, motion_CThw, self._conditions, windows_PFWLC, self._section)

    def _piece(self, video_CFHW: Tensor, start: int, chunk: int, finite: Tensor) -> Piece | None:
        """Return the frames of a decoded part that are new and have sound, or None if there are none."""
        config = self.config
        stop = start + video_CFHW.shape[1]
        begin = max(start, config.motion_frames)
        offset = chunk * config.new_frames - config.motion_frames
        end = min(stop, self.num_frames - offset)
        if end <= begin:
            return None
        last = end == min(config.clip_frames, self.num_frames - offset)
        return self._to_host(video_CFHW[:, begin - start : end - start], offset + begin, chunk, last, finite)

    def _to_host(self, video_CFHW: Tensor, first_frame: int, chunk: int, last: bool, finite: Tensor) -> Piece:
        with self._section("copy"):
            levels = ((video_CFHW + 1) / 2).clamp(0, 1) * 255
            levels = levels.floor() if self.released_behaviour else levels.round()
            frames_FHWC = levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous()
            if frames_FHWC.device.type != "cuda":
                return Piece(first_frame, chunk, last, frames_FHWC, finite)
            host_FHWC = torch.empty(frames_FHWC.shape, dtype=torch.uint8, pin_memory=True)
            host_FHWC.copy_(frames_FHWC, non_blocking=True)
            host_finite = torch.empty((), dtype=torch.bool, pin_memory=True)
            host_finite.copy_(finite, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
            return Piece(first_frame, chunk, last, host_FHWC, host_finite, copied)

    def _advance(self, before: _State, after: _State) -> bool:
        """Move from one state to the next; return False if the stream has gone another way meanwhile."""
        if self._state is not before:
            return False
        rest_N = self._pending[0][self.config.samples_per_chunk :]
        self._pending = [rest_N, *self._pending[1:]] if rest_N.size else self._pending[1:]
        self._state = after
        return True

    def _section(self, name: str, count: int = 1) -> AbstractContextManager[None]:
        return nullcontext() if self._timeline is None else self._timeline.section(name, count)

    def save(self, path: Path) -> None:
        """Write everything that the next chunk depends on; the file appears whole or not at all."""
        from safetensors.torch import save

        tensors = {
            "image_CHW": self._image_CHW,
            "motion_CThw": self._state.motion_CThw,
            "noise": self._state.noise,
            "heard_N": torch.from_numpy(self._state.heard_N),
            "pending_N": torch.from_numpy(np.concatenate([*self._pending, np.zeros(0, np.float32)])),
        }
        facts = {
            "version": STATE_VERSION,
            "model": self.model.identity,
            "prompt": self.prompt,
            "seed": self.seed,
            "released_behaviour": self.released_behaviour,
            "chunk": self._state.chunk,
            "num_pushed": self._num_pushed,
            "finished": self._finished,
        }
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        atomic.write_bytes(path, save(packed, metadata={"stream": json.dumps(facts)}))

    @classmethod
    def restore(cls, model: Model, path: Path, *, timeline: Timeline | None = None) -> Stream:
        """Return the stream that `save` wrote; its next frames are those that the saved one would have made.

        Raises:
            TalkbenchError: If the file is no stream, or was made by another model or kind of device.
        """
        tensors, facts = _read_state(path)
        if facts["model"] != model.identity:
            differing = [name for name, value in facts["model"].items() if value != model.identity.get(name)]
            raise TalkbenchError(
                f"{path} is a stream of another model: {', '.join(differing)} differ. "
                "Use the recipe and weights it was started with."
            )
        stream = cls.__new__(cls)
        stream.model, stream.config = model, model.recipe.stream
        stream.prompt, stream.seed = facts["prompt"], facts["seed"]
        stream.released_behaviour = facts["released_behaviour"]
        stream._timeline = timeline
        stream._begin(tensors["image_CHW"])
        if tensors["noise"].shape != stream._state.noise.shape:
            raise TalkbenchError(
                f"{path} was saved on another kind of device, whose noise cannot be drawn on {model.device}. "
                "Go on where it was started."
            )
        motion_CThw = tensors["motion_CThw"].to(model.device)
        stream._state = _State(motion_CThw, tensors["heard_N"].numpy(), tensors["noise"], facts["chunk"])
        stream._pending = [tensors["pending_N"].numpy()] if tensors["pending_N"].numel() else []
        stream._num_pushed, stream._finished = facts["num_pushed"], facts["finished"]
        return stream


def _later(heard_N: Samples, samples_N: Samples) -> Samples:
    """Return what is heard after `samples_N`: as much as before, ending with them."""
    return np.concatenate((heard_N, samples_N))[-heard_N.size :]


def _read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["stream"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TalkbenchError(f"{path} is not a saved stream: {error}. Save one with `Stream.save`.") from error
    if facts.get("version") != STATE_VERSION:
        raise TalkbenchError(f"{path} has version {facts.get('version')}, this program reads {STATE_VERSION}.")
    return tensors, facts
