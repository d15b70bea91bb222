"""Sizes, arithmetic and memory of a recipe equal the released model's, and what the networks themselves say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model import flops, memory
from model.config import DiTConfig, Recipe, VAEConfig
from model.recipes import recipe

RELEASED = recipe("flashtalk_14b")
BY_GROUP = {
    "patch_embedding": 742_400, "text_embedding": 47_196_160, "time_embedding": 27_535_360,
    "time_projection": 157_317_120, "img_emb": 8_211_200, "audio_proj": 74_214_400, "block.modulation": 1_228_800,
    "block.self_attn": 4_195_532_800, "block.norm3": 409_600, "block.cross_attn": 6_293_299_200,
    "block.ffn": 5_663_068_160, "block.audio_cross_attn": 2_412_544_000, "block.norm_x": 409_600, "head": 337_984,
}  # fmt: skip


def sized(height: int, width: int) -> Recipe:
    return replace(RELEASED, stream=replace(RELEASED.stream, height=height, width=width))


def test_parameters_are_those_of_the_released_files() -> None:
    assert flops.dit_parameters(DiTConfig(), VAEConfig()) == BY_GROUP
    assert flops.parameters(RELEASED) == {
        "dit": 18_882_046_784, "vae": 126_892_531, "text": 5_680_910_336, "image": 611_086_080, "speech": 94_371_712,
    }  # fmt: skip


def test_parameters_are_those_that_the_networks_have() -> None:
    torch = pytest.importorskip("torch")
    from model.dit import DiT
    from model.vae import VAE

    for name in ("tiny", "small"):
        chosen = recipe(name)
        with torch.device("meta"):
            nets = {"dit": DiT(chosen.dit), "vae": VAE(chosen.vae)}
        for part, net in nets.items():
            assert flops.parameters(chosen)[part] == sum(p.numel() for p in net.parameters()), (name, part)


@pytest.mark.parametrize(
    ("size", "gigaflops", "forward"),
    [
        ((720, 416), [2208.3, 2270.8, 1104.2, 80.6, 165.8, 1104.2, 4.5, 6.9, 2981.2], 397.1),
        ((768, 448), [2536.7, 2996.5, 1268.4, 80.6, 190.5, 1268.4, 4.5, 7.9, 3424.6], 471.2),
    ],
)
def test_a_forward_needs_the_multiply_adds_of_its_parts(
    size: tuple[int, int], gigaflops: list[float], forward: float
) -> None:
    chosen = sized(*size)
    assert [value / 1e9 for value in flops.block_flops(chosen).values()] == pytest.approx(gigaflops, abs=0.05)
    assert flops.dit_flops(chosen) / 1e12 == pytest.approx(forward, abs=0.05)
    assert flops.embedding_flops(chosen) / 1e12 == pytest.approx(0.08, abs=0.005)


def test_cached_keys_and_values_save_under_one_percent() -> None:
    saved = flops.dit_flops(RELEASED) - flops.dit_flops(RELEASED, cached=True)
    assert saved / 1e12 == pytest.approx(3.4, abs=0.05)


@pytest.mark.parametrize(
    ("size", "encode", "decode", "chunk"),
    [
        ((720, 416), [2.03, 8.05, 50.2], [3.25, 13.4, 84.5], 1681),
        ((768, 448), [2.33, 9.26, 57.8], [3.74, 15.4, 97.1], 1991),
    ],
)
def test_the_autoencoder_is_counted_layer_by_layer(
    size: tuple[int, int], encode: list[float], decode: list[float], chunk: float
) -> None:
    chosen = sized(*size)
    assert [flops.encode_flops(chosen, n) / 1e12 for n in (1, 5, 33)] == pytest.approx(encode, rel=0.003)
    assert [flops.decode_flops(chosen, n) / 1e12 for n in (1, 2, 9)] == pytest.approx(decode, rel=0.003)
    assert flops.chunk_flops(chosen) / 1e12 == pytest.approx(chunk, abs=0.5)


def test_the_decoders_stages_have_their_shares() -> None:
    layers = list(flops.decoder_layers(VAEConfig(), 9, 90, 52))
    full = [layer for layer in layers if layer.shape[1:] == (720, 416) and layer.taps != 9]
    assert sum(layer.flops for layer in full[:-1]) / 1e12 == pytest.approx(29.5, abs=0.05)
    attention = [layer for layer in layers if layer.taps < 2 and layer.inputs == 384]
    assert sum(layer.flops for layer in attention) / 1e12 == pytest.approx(0.35, abs=0.005)
    assert sum(layer.taps in {9, 27} for layer in layers) == 33, "convolutions that exchange borders, per call"
    assert sum(layer.taps in {9, 27} for layer in flops.encoder_layers(VAEConfig(), 5, 720, 416)) == 25


def test_eight_seconds_of_sound_are_little_arithmetic() -> None:
    assert flops.speech_flops(RELEASED) / 1e12 == pytest.approx(0.08, abs=0.005)


def test_weights_and_caches_take_the_bytes_of_the_released_model() -> None:
    found = memory.estimate(RELEASED)
    assert found.weights["dit"] / 1e9 == pytest.approx(37.76, abs=0.005)
    assert found.weights["text"] / 1e9 == pytest.approx(11.36, abs=0.005)
    assert [found.weights[name] / 1e9 for name in ("vae", "speech")] == pytest.approx([0.25, 0.38], abs=0.005)
    assert found.kept / 1e9 == pytest.approx(38.4, abs=0.05)
    assert [size / 1e6 for size in memory.cache_bytes(RELEASED)] == pytest.approx([630, 236], abs=0.5)


def test_more_gpus_share_the_working_memory_but_not_the_weights() -> None:
    one, eight = memory.estimate(RELEASED), memory.estimate(recipe("flashtalk_14b_8gpu"))
    assert eight.kept == one.kept
    whole_clip = RELEASED.num_tokens * RELEASED.dit.dim * 2
    assert eight.transformer - whole_clip == pytest.approx(one.transformer / 8, rel=0.01)
    assert eight.autoencoder < one.autoencoder / 7.9
    off = replace(RELEASED, parallel=replace(recipe("flashtalk_14b_8gpu").parallel, vae="off"))
    assert memory.estimate(off).autoencoder == one.autoencoder, "every GPU decodes everything"


def test_what_does_not_fit_is_said_part_by_part() -> None:
    assert memory.shortage(RELEASED, 80e9) is None
    told = memory.shortage(RELEASED, 24e9)
    assert told is not None
    for evidence in ("flashtalk_14b needs about", "transformer 37.8", "autoencoder 0.3", "working memory", "24.0 GB"):
        assert evidence in told


def test_on_a_cpu_every_network_stays_and_processes_share_the_memory() -> None:
    told = memory.shortage(recipe("flashtalk_14b_8gpu"), 100e9, cuda=False)
    assert told is not None
    assert "for 8 process(es)" in told
    assert "text encoder 11.4" in told


def test_a_start_can_need_more_than_the_stream() -> None:
    eight = memory.estimate(recipe("flashtalk_14b_8gpu"))
    assert eight.needed == eight.starting > eight.streaming, "the text encoder visits the GPU"
    told = memory.shortage(recipe("flashtalk_14b_8gpu"), 50e9)
    assert told is not None
    assert "working memory 11.4" in told
