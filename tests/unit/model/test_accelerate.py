"""What makes a GPU faster changes no number: one compiled block, replayed graphs, speech computed ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import accelerate, flow
from model.config import VAEConfig
from model.data import buckets
from model.parallel.emulate import EmulatedRank
from model.pipeline import Conditions, Model, build
from model.recipes import recipe
from model.stream import Stream
from model.vae import VAE
from talkbench.errors import TalkbenchError

CHUNK = 17_920


def new_model(**compute: Any) -> Model:
    """Return the smallest model that has every part: 32x48 pixels, two blocks."""
    wanted = recipe("tiny")
    return build(
        replace(
            wanted,
            dit=replace(wanted.dit, num_layers=2),
            shipped=None,
            vae=replace(wanted.vae, base_dim=4),
            stream=replace(wanted.stream, height=32, width=48),
            compute=replace(wanted.compute, decode_groups=(1, 8), **compute),
        )
    )


plain = cache(new_model)


def picture(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


def speech(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def conditions(model: Model, seed: int) -> Conditions:
    return model.condition(model.prepare(picture(seed)), f"prompt {seed}")


def sampled(model: Model, given: Conditions, num_motion: int, seed: int = 0) -> Tensor:
    """Return a chunk after as many motion latents, from a seed's noise and sound."""
    generator = torch.Generator().manual_seed(seed)
    noises = flow.draw_noise((16, 9, 4, 6), 4, torch.float32, generator)
    windows = torch.randn(1, 33, 5, 2, 64, generator=generator)
    motion = torch.randn(16, num_motion, 4, 6, generator=generator)
    return model.sample(noises, motion, given, windows, lambda *_: nullcontext())


@pytest.fixture
def graphs() -> Iterator[list[object]]:
    """Yield the list of graphs that `torch.compile` makes from here on, by backend `count_into`."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def counting(graphs: list[object]) -> Callable[..., Any]:
    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    return backend


def test_a_block_compiles_once_for_all_streams_chunks_and_steps_and_once_per_count_of_processes(
    graphs: list[object],
) -> None:
    model = new_model()
    given = [conditions(model, seed) for seed in (0, 1)]
    exact = sampled(model, given[1], 2)
    accelerate.compile_blocks(model.dit, backend=counting(graphs))
    for each in given:
        for num_motion in (1, 2):
            found = sampled(model, each, num_motion)
    assert len(graphs) == 1
    assert (found - exact).abs().max() < 1e-5
    kernel = model.dit.kernel
    for num_processes in (2, 4, 8):
        model.dit.use(kernel, EmulatedRank(num_processes, kernel))
        for each in given:
            sampled(model, each, 1)
    model.dit.use(kernel)
    sampled(model, given[0], 1)
    assert len(graphs) == 4


def test_a_training_may_compile_every_size_of_clip_with_and_without_gradients_for_each_of_its_networks() -> None:
    with torch._dynamo.config.patch(recompile_limit=8):
        accelerate.compile_blocks(new_model().dit)
        assert torch._dynamo.config.recompile_limit >= 2 * 3 * len(buckets.of(recipe("flashtalk_14b")))


def test_the_autoencoder_compiles_five_graphs_for_a_stream(graphs: list[object]) -> None:
    vae = VAE(VAEConfig(base_dim=4, multipliers=(1, 1), num_res_blocks=0, halves_time=(True,))).requires_grad_(False)
    vae.compile(backend=counting(graphs))
    for _ in range(2):
        for num_frames in (1, 3, 17):  # the picture, the end of a chunk, a clip that starts with the picture
            vae.encode(torch.zeros(1, 3, num_frames, 8, 12))
        list(vae.decode_groups(torch.zeros(1, 16, 9, 4, 6), (1, 8)))
    assert len(graphs) == 5


class Tape(TorchDispatchMode):
    """A CUDA graph as far as a CPU can be one: operators and addresses are recorded, Python runs no more.

    What was computed during the capture is lost, as on a GPU, where nothing is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.given_pool: object = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        fresh = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.steps.append((func, args, kwargs, [x for x in fresh if x.untyped_storage()._cdata not in old]))
        return result

    def forget(self) -> None:
        for *_, fresh in self.steps:
            for tensor in fresh:
                tensor.fill_(torch.nan if tensor.is_floating_point() else 0)

    def pool(self) -> object:
        return self

    def replay(self) -> None:
        for func, args, kwargs, fresh in self.steps:
            result = func(*args, **kwargs)
            news = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            for tensor, new in zip(fresh, news, strict=bool(fresh)):
                tensor.copy_(new)


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Return the graphs that are captured from here on."""
    found: list[Tape] = []

    @contextmanager
    def capture(tape: Tape, *, pool: object, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        with tape:
            yield
        tape.forget()
        tape.given_pool = pool
        found.append(tape)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return found


def test_a_replayed_graph_follows_new_noise_sound_motion_and_streams_without_being_captured_again(
    tapes: list[Tape],
) -> None:
    model, eager = new_model(cuda_graph=True), plain()
    given = [conditions(model, seed) for seed in (0, 1)]
    for seed in range(3):
        for each in given:
            for num_motion in (1, 2):
                found, exact = (sampled(one, each, num_motion, seed) for one in (model, eager))
                assert torch.equal(found, exact)
    assert len(tapes) == 2
    assert [tape.given_pool for tape in tapes] == [None, tapes[0]]


def test_a_graph_is_not_replayed_where_tokens_are_spread_otherwise(tapes: list[Tape]) -> None:
    model, eager = new_model(cuda_graph=True), plain()
    given, kernel, rank = conditions(model, 0), model.dit.kernel, EmulatedRank(4, model.dit.kernel)
    for seed in range(6):
        parallel = rank if seed % 2 else None
        for one in (model, eager):
            one.dit.use(kernel, parallel)
        found, exact = (sampled(one, given, 1, seed) for one in (model, eager))
        assert torch.equal(found, exact)
    assert len(tapes) == 2


def test_what_a_graph_returned_stays_when_it_runs_again(tapes: list[Tape]) -> None:
    model = new_model(cuda_graph=True)
    given = conditions(model, 0)
    sampled(model, given, 1)
    first = sampled(model, given, 1, seed=1)
    kept = first.clone()
    sampled(model, given, 1, seed=2)
    assert tapes and torch.equal(first, kept)


class Beside:
    """A side stream that does its work at once, and says what of it was asked for and used."""

    def __init__(self) -> None:
        self.started: list[Tensor] = []
        self.joined: list[Tensor] = []

    def start(self, work: Callable[[], Tensor]) -> Tensor:
        self.started.append(work())
        return self.started[-1]

    def join(self, result: Tensor) -> Tensor:
        self.joined.append(result)
        return result

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.started), len(self.joined)


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Beside:
    found = Beside()
    monkeypatch.setattr(plain(), "beside", found)
    return found


def frames(stream: Stream) -> np.ndarray:
    return np.concatenate([piece.frames_FHWC for piece in stream])


def finished(sound: np.ndarray) -> Stream:
    stream = Stream(plain(), picture())
    stream.push(sound)
    stream.finish()
    return stream


@cache
def expected(num_samples: int) -> np.ndarray:
    """Return the frames of a sound without looking ahead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain(), "beside", None)
        return frames(finished(speech(num_samples)))


def test_speech_that_is_there_is_computed_beside_the_chunk_before_and_changes_no_frame(beside: Beside) -> None:
    sound = speech(2 * CHUNK + 2000)
    assert np.array_equal(frames(finished(sound)), expected(sound.size))
    assert beside.counts == (2, 2)  # the last of three chunks is short


def test_speech_that_comes_later_is_not_guessed(beside: Beside) -> None:
    sound = speech(2 * CHUNK + 2000)
    stream, found = Stream(plain(), picture()), []
    for start in range(0, sound.size, CHUNK + 100):
        stream.push(sound[start : start + CHUNK + 100])
        found += [piece.frames_FHWC for piece in stream]
    stream.finish()
    found += [piece.frames_FHWC for piece in stream]
    assert np.array_equal(np.concatenate(found), expected(sound.size))
    assert beside.counts == (0, 0)


def test_a_cancelled_stream_uses_nothing_that_was_computed_ahead(beside: Beside) -> None:
    stream = finished(speech(2 * CHUNK + 2000))
    next(iter(stream))
    stream.cancel()
    assert list(stream) == []
    assert beside.counts == (1, 0)


def test_a_restored_stream_computes_again_what_the_saved_one_had_ahead(beside: Beside, tmp_path: Path) -> None:
    sound = speech(2 * CHUNK + 2000)
    stream = finished(sound)
    first = next(iter(stream)).frames_FHWC
    stream.save(tmp_path / "stream.safetensors")
    restored = Stream.restore(plain(), tmp_path / "stream.safetensors")
    assert np.array_equal(np.concatenate((first, frames(restored))), expected(sound.size))
    assert beside.counts == (2, 1)


def test_a_stream_saved_on_another_kind_of_device_is_refused(tmp_path: Path) -> None:
    stream = finished(speech(CHUNK))
    of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    stream._state = replace(stream._state, noise=of_a_gpu)
    stream.save(tmp_path / "stream.safetensors")
    with pytest.raises(TalkbenchError, match="another kind of device, whose noise cannot be drawn on cpu"):
        Stream.restore(plain(), tmp_path / "stream.safetensors")


def test_a_chunk_that_is_begun_again_takes_its_own_speech_not_that_of_the_next(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = speech(2 * CHUNK + 2000)
    stream = finished(sound)

    def fail(_: Tensor) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as once:
        once.setattr(plain(), "encode", fail)
        with pytest.raises(MemoryError):
            next(iter(stream))
    assert beside.counts == (1, 0)
    assert np.array_equal(frames(stream), expected(sound.size))
    assert beside.counts == (3, 2)


def test_an_encoder_is_back_home_after_its_visit_and_was_not_copied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, move, encoder = SimpleNamespace(type="cuda"), torch.Tensor.to, nn.Linear(2, 2)
    encoder.places = nn.Buffer(torch.arange(2), persistent=False)
    monkeypatch.setattr(plain(), "device", gpu)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, to, *rest: x.clone() if to is gpu else move(x, to, *rest))

    def addresses() -> list[int]:
        return [tensor.data_ptr() for tensor in (*encoder.parameters(), *encoder.buffers())]

    at_home = addresses()
    with pytest.raises(MemoryError), plain()._visiting(encoder):
        assert not set(addresses()) & set(at_home)
        raise MemoryError
    assert addresses() == at_home
