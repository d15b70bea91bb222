"""The released sizes on a GPU that computes nothing: devices, dtypes, arithmetic, memory, and what crosses the bus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from model import accelerate, color, flops, flow, memory, vae
from model.conditioning import audio, image, text
from model.config import Recipe
from model.dit import AudioKV, ContextKV, DiT, TimeCode
from model.kernels import FlashKernel
from model.parallel.bands import BandedVAE
from model.parallel.emulate import EmulatedRank
from model.parallel.mesh import Mesh
from model.parallel.sequence import SequenceParallel
from model.pipeline import Model
from model.recipes import recipe
from model.stand_in import picture_of
from model.stream import Stream
from model.vae import VAE
from tests.unit.model.fake_gpu import CUDA, LIBRARY, Observed, Transfer, fake_gpu, made

RECIPE = recipe("flashtalk_14b")
NUM_GPUS = 8
BF16, F32 = torch.bfloat16, torch.float32
TABLE = Transfer("cuda", (10_530, 64), F32, non_blocking=False)
"""Cosines or sines of all tokens' positions."""


class Flash(FlashKernel):
    """The operator that `scaled_dot_product_attention` would choose on a GPU."""

    def __call__(self, q_BNAd: Tensor, k_BMAd: Tensor, v_BMAd: Tensor) -> Tensor:
        return self.with_lse(q_BNAd, k_BMAd, v_BMAd)[0]


@pytest.fixture
def gpu() -> Iterator[None]:
    if not LIBRARY.is_file():
        pytest.skip("this build of torch does not lend out its device guards")
    vae._statistics.cache_clear()
    with fake_gpu():
        yield
    vae._statistics.cache_clear()


@pytest.fixture
def processes() -> Iterator[dist.ProcessGroup]:
    """Yield a group of eight of which this is the first, and nobody else there."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=NUM_GPUS)
    yield dist.group.WORLD
    dist.destroy_process_group()


def zeros(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=CUDA)


def observed(function: Callable[[], Any]) -> tuple[Any, Observed]:
    with Observed() as seen:
        return function(), seen


def is_a(tensor: Tensor, dtype: torch.dtype, *shape: int) -> bool:
    return (tensor.device, tensor.dtype, tuple(tensor.shape)) == (CUDA, dtype, shape)


def network(num_layers: int = RECIPE.dit.num_layers) -> DiT:
    dit = made(partial(DiT, replace(RECIPE.dit, num_layers=num_layers)), BF16)
    dit.use(Flash())
    return dit


def conditions(dit: DiT) -> tuple[TimeCode, Tensor, list[ContextKV], list[AudioKV]]:
    """Return what a forward takes beside its state."""
    context = dit.encode_context(zeros(20, 4096, dtype=BF16), zeros(1, 257, 1280))
    return dit.encode_time(937.5), zeros(20, 9, 90, 52, dtype=BF16), context, dit.encode_audio(zeros(1, 33, 5, 12, 768))


def test_a_forward_stays_on_the_device_multiplies_in_bfloat16_and_does_the_arithmetic_that_is_predicted(
    gpu: None,
) -> None:
    dit = network()
    given, once = observed(lambda: conditions(dit))
    velocity, seen = observed(lambda: dit(zeros(16, 9, 90, 52), *given))
    assert is_a(velocity, F32, 16, 9, 90, 52)
    assert is_a(given[2][0].text_k_BLAd, BF16, 1, 512, 40, 128)
    assert is_a(given[3][0].v_TKAd, BF16, 9, 32, 40, 128)
    assert is_a(given[0].rows_6D[-1], F32, 6, 5120)
    assert seen.transfers == [TABLE, TABLE]  # the first time only
    head = 2 * RECIPE.num_tokens * 5120 * 64
    assert seen.flops[F32] == head
    assert seen.flops[BF16] + head + once.flops.total() == pytest.approx(flops.dit_flops(RECIPE), rel=1e-4)
    # Complex: the rotation of positions. Unsigned: the kernel's unused random state.
    assert set(seen.dtypes) <= {BF16, F32, torch.complex64, torch.uint64}
    estimate = memory.estimate(RECIPE)
    assert 0.5 < seen.peak_bytes / estimate.transformer < 1
    assert once.live_bytes == pytest.approx(estimate.caches, rel=0.03)


def first_frame_saving(layers: Iterator[flops.Layer]) -> int:
    """Return what the first frame of a video does not cost: two of three time slices of its kernels meet zeros."""
    return sum(layer.flops * 2 // 3 for layer in layers if layer.taps == 27)


def test_the_autoencoder_stays_on_the_device_in_bfloat16_and_does_the_arithmetic_that_is_predicted(gpu: None) -> None:
    net = made(partial(VAE, RECIPE.vae), BF16).channels_last()
    size = (RECIPE.stream.height, RECIPE.stream.width)
    net.encode(zeros(1, 3, 1, *size))  # makes the latents' statistics
    latent, encoded = observed(lambda: net.encode(zeros(1, 3, 5, *size)))
    clip, whole = observed(lambda: net.encode(zeros(1, 3, 33, *size)))
    (first, later), decoded = observed(lambda: list(net.decode_groups(zeros(1, 16, 9, 90, 52), (1, 8))))
    assert is_a(latent, BF16, 1, 16, 2, 90, 52)
    assert is_a(clip, BF16, 1, 16, 9, 90, 52)
    assert is_a(first, BF16, 1, 3, 1, *size)
    assert is_a(later, BF16, 1, 3, 32, *size)
    saved = first_frame_saving(flops.encoder_layers(RECIPE.vae, 1, *size))
    assert encoded.flops.total() == pytest.approx(flops.encode_flops(RECIPE, 5) - saved, rel=0.01)
    saved = first_frame_saving(flops.decoder_layers(RECIPE.vae, 1, 90, 52))
    assert decoded.flops.total() == pytest.approx(flops.decode_flops(RECIPE, 9) - saved, rel=0.01)
    estimate = memory.estimate(RECIPE)
    for seen in (encoded, whole, decoded):
        assert seen.flops[BF16] > 0.99 * seen.flops.total()  # the rest is attention, which this torch writes out
        assert seen.transfers == []
        assert seen.largest_numel < 2**31  # beyond it, torch's channels-last upsampling gives zeros without a word
        assert seen.peak_bytes < estimate.autoencoder
    assert decoded.peak_bytes > estimate.autoencoder / 2


def test_the_encoders_of_a_stream_stay_on_the_device(gpu: None) -> None:
    tower = made(partial(image.ImageEncoder, RECIPE.image), F32)
    assert is_a(tower.encode(zeros(3, 720, 416)), F32, 1, 257, 1280)
    words = made(partial(text.TextEncoder, RECIPE.text), BF16)
    ids, mask = zeros(1, 512, dtype=torch.int64), zeros(1, 512, dtype=torch.int64)
    assert is_a(words.net(input_ids=ids, attention_mask=mask).last_hidden_state, BF16, 1, 512, 4096)


def test_speech_crosses_the_bus_once_without_waiting(gpu: None) -> None:
    encoder = made(partial(audio.SpeechEncoder, RECIPE.speech), F32)
    features, seen = observed(lambda: encoder.features(np.zeros(128_000, np.float32)))
    assert is_a(features, F32, 200, 12, 768)
    assert is_a(audio.windows(features, 167, 33, 5), F32, 1, 33, 5, 12, 768)
    assert seen.transfers == [Transfer("cuda", (128_000,), F32, non_blocking=True)]
    assert seen.flops.total() == pytest.approx(flops.speech_flops(RECIPE), rel=0.01)


def test_colours_are_corrected_in_float32_on_the_device(gpu: None) -> None:
    reference = color.statistics(zeros(3, 720, 416))
    video, seen = observed(lambda: color.correct(zeros(3, 32, 720, 416, dtype=BF16), reference, 1.0))
    assert is_a(video, F32, 3, 32, 720, 416)
    assert seen.transfers == []
    assert seen.dtypes == {BF16, F32, torch.bool}


@pytest.mark.parametrize("emulated", [False, True])
def test_a_rank_of_eight_does_its_share_on_the_device(gpu: None, processes: dist.ProcessGroup, emulated: bool) -> None:
    layers = 2
    dit = network(layers)
    mesh = Mesh(0, NUM_GPUS, 1, processes, processes, None)
    dit.use(Flash(), EmulatedRank(NUM_GPUS, Flash()) if emulated else SequenceParallel(mesh, Flash()))
    given, state = conditions(dit), zeros(16, 9, 90, 52)
    dit(state, *given)
    velocity, seen = observed(lambda: dit(state, *given))
    assert is_a(velocity, F32, 16, 9, 90, 52)
    assert seen.transfers == []
    share = layers * sum(flops.block_flops(RECIPE).values()) / NUM_GPUS
    assert seen.flops.total() == pytest.approx(share, rel=0.05)


def test_a_band_of_eight_does_its_share_on_the_device(gpu: None, processes: dist.ProcessGroup) -> None:
    net = BandedVAE(made(partial(VAE, RECIPE.vae), BF16).channels_last(), processes)
    net.encode(zeros(1, 3, 1, 720, 416))
    pieces, seen = observed(lambda: list(net.decode_groups(zeros(1, 16, 9, 90, 52), (1, 8))))
    assert [piece.shape[2] for piece in pieces] == [1, 32]
    assert is_a(net.encode(zeros(1, 3, 5, 720, 416)), BF16, 1, 16, 2, 90, 52)
    assert seen.transfers == []
    assert seen.flops.total() == pytest.approx(flops.decode_flops(RECIPE, 9) * 12 / 90, rel=0.05)


class Here:
    """What stands in for events and streams of a GPU."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def record(self) -> None:
        pass

    def start(self, work: Callable[[], Tensor]) -> Tensor:
        return work()

    def join(self, result: Tensor) -> Tensor:
        return result


def fake_model(monkeypatch: pytest.MonkeyPatch, wanted: Recipe) -> Model:
    """Return all parts on the fake GPU; what asks the CUDA runtime is replaced."""
    monkeypatch.setattr(torch.cuda, "Event", Here)
    monkeypatch.setattr(accelerate, "SideStream", Here)
    generator = torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda _: generator)
    monkeypatch.setattr(
        flow, "draw_noise", lambda shape, steps, dtype, _: [zeros(*shape, dtype=dtype)] + [zeros(*shape)] * steps
    )
    monkeypatch.setattr(Model, "_visiting", lambda *_: nullcontext())
    words = made(partial(text.TextEncoder, recipe("tiny").text, text.tokenizer(recipe("tiny").text, Path())), BF16)
    monkeypatch.setattr(words, "encode", lambda _: zeros(20, 4096, dtype=BF16))
    return Model(
        wanted,
        CUDA,
        "none",
        dit=network(wanted.dit.num_layers),
        vae=made(partial(VAE, wanted.vae), BF16).channels_last(),
        speech=made(partial(audio.SpeechEncoder, wanted.speech), F32),
        text=words,
        image=made(partial(image.ImageEncoder, wanted.image), F32),
    )


def test_a_chunk_takes_up_its_sound_and_hands_down_its_frames_and_never_waits(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = replace(RECIPE, dit=replace(RECIPE.dit, num_layers=1), image=replace(RECIPE.image, num_layers=2))
    stream = Stream(fake_model(monkeypatch, wanted), picture_of(wanted))
    stream.push(np.zeros(2 * wanted.stream.samples_per_chunk, np.float32))
    pieces = iter(stream)
    first, start = observed(partial(next, pieces))
    second, later = observed(partial(next, pieces))
    assert (first.num_frames, second.num_frames) == (28, 28)
    up = Transfer("cuda", (128_000,), F32, non_blocking=True)
    down = [
        Transfer("cpu", (28, 720, 416, 3), torch.uint8, non_blocking=True),
        Transfer("cpu", (), torch.bool, non_blocking=True),
    ]
    assert start.transfers == [up, TABLE, TABLE, up, *down]  # the second chunk's sound is heard beside the first
    assert later.transfers == down
    assert stream._state.motion_CThw.dtype == BF16
    assert torch.float64 not in start.dtypes | later.dtypes
