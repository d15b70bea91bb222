"""The plain transcription is judged by properties, printed numbers and the code of others, never by ours."""

from __future__ import annotations

import ast
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.plain import color, dit, loop, sampler, states, vae


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dit_inputs(sizes: dict[str, int], grid: tuple[int, int, int], seed: int = 0) -> dict[str, Tensor]:
    frames, rows, columns = grid
    num_frames = 4 * (frames - 1) + 1
    return {
        "x_CThw": normal(16, frames, 2 * rows, 2 * columns, seed=seed),
        "text_LD": normal(5, sizes["text_dim"], seed=seed + 1),
        "image_1LD": normal(1, 7, sizes["image_dim"], seed=seed + 2),
        "y_CThw": normal(20, frames, 2 * rows, 2 * columns, seed=seed + 3),
        "audio_PF5LC": normal(1, num_frames, 5, sizes["audio_layers"], sizes["audio_channels"], seed=seed + 4),
    }


def test_the_plain_code_does_not_import_the_model_it_judges() -> None:
    for path in Path(dit.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in {"model", "talkbench_model", "talkbench"}], path


@pytest.mark.parametrize("head_dim", [8, 12, 16, 64, 128])
def test_rotation_keeps_norms_and_leaves_the_first_token_alone(head_dim: int) -> None:
    x = normal(30, 2, head_dim)
    rotated = dit.rope(x, (2, 3, 5))
    torch.testing.assert_close(rotated.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotated[0], x[0])
    assert (rotated[1:] - x[1:]).abs().amax(dim=(1, 2)).min() > 1e-3


def test_rotated_products_depend_on_the_offset_between_two_tokens_only() -> None:
    grid = (3, 3, 4)
    q, k = normal(1, 1, 24).double().expand(36, 1, 24), normal(1, 1, 24, seed=1).double().expand(36, 1, 24)
    scores = (dit.rope(q, grid)[:, 0] @ dit.rope(k, grid)[:, 0].T).reshape(*grid, *grid)
    for offset in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 2, -1)):
        seen = [
            scores[t, r, c, t + offset[0], r + offset[1], c + offset[2]]
            for t in range(grid[0] - offset[0])
            for r in range(grid[1] - offset[1])
            for c in range(max(0, -offset[2]), grid[2] - max(0, offset[2]))
        ]
        torch.testing.assert_close(torch.stack(seen), seen[0].expand(len(seen)))


def test_the_released_head_width_splits_into_22_21_and_21_pairs() -> None:
    angles = dit.rope_angles((2, 2, 2), 128)
    changed = [(angles[token] != 0).nonzero().flatten().tolist() for token in (4, 2, 1)]
    assert changed == [list(range(22)), list(range(22, 43)), list(range(43, 64))]
    assert angles[4, 1] == pytest.approx(10000 ** (-2 / 44))
    assert angles[1, 44] == pytest.approx(10000 ** (-2 / 42))


def test_attention_agrees_with_torchs_own() -> None:
    q, k, v = normal(7, 3, 8), normal(9, 3, 8, seed=1), normal(9, 3, 8, seed=2)
    q_AN, k_AM, v_AM = (x.transpose(0, 1) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(q_AN, k_AM, v_AM).transpose(0, 1).reshape(7, -1)
    torch.testing.assert_close(dit.attention(q, k, v, torch.float32), expected)


def test_bfloat16_is_about_eight_thousandths_from_float32() -> None:
    sizes = states.TINY_DIT
    state, inputs = states.random_state(states.dit_shapes(sizes), 0), dit_inputs(sizes, (3, 3, 5))
    exact = dit.forward(state, sizes, time=937.5, dtype=torch.float32, **inputs)
    rounded = dit.forward(state, sizes, time=937.5, dtype=torch.bfloat16, **inputs)
    assert rounded.dtype is torch.float32
    assert 2e-3 < float((rounded - exact).norm() / exact.norm()) < 1.5e-2


def speakers() -> tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]:
    """Return rotated queries and keys of tokens that look at their own half of the picture, and masks of the halves."""
    grid, halves = (2, 3, 6), torch.zeros(3, 6, 12)
    halves[0, :, :4] = halves[2, :, 4:8] = halves[1, :, 8:] = 1
    content_NAd = torch.nn.functional.one_hot(halves[:, ::2, ::2].argmax(0).flatten(), 12).float()[:, None] * 9
    content_NAd = content_NAd.repeat(2, 2, 1) + 0.3 * normal(36, 2, 12)
    return content_NAd, content_NAd, halves, grid


def test_tokens_of_two_speakers_and_the_background_lie_apart_on_a_line() -> None:
    q, k, masks, grid = speakers()
    positions = dit.speaker_positions(q, k, masks, grid).reshape(grid)
    assert ((positions[:, :, :2] > 0) & (positions[:, :, :2] <= 4)).all()
    assert ((positions[:, :, 4:] > 20) & (positions[:, :, 4:] <= 24)).all()
    assert (positions[:, :, 2:4] == 12).all()
    assert positions[:, :, :2].max() == pytest.approx(4, abs=1e-3)
    exchanged = dit.speaker_positions(q, k, masks[[1, 0, 2]], grid).reshape(grid)
    torch.testing.assert_close(exchanged[:, :, :2], positions[:, :, :2] + 20)


def test_a_speaker_hears_the_own_voice_first() -> None:
    width, tokens = 16, 8
    state = {
        "a.q_linear.weight": torch.eye(width), "a.q_linear.bias": torch.zeros(width),
        "a.kv_linear.weight": torch.cat([torch.zeros(width, 2), torch.eye(width)[:, :2]]),
        "a.kv_linear.bias": torch.cat([torch.ones(width), torch.zeros(width)]),
        "a.proj.weight": torch.eye(width), "a.proj.bias": torch.zeros(width),
    }  # fmt: skip
    voices = torch.eye(2).repeat_interleave(tokens // 2, 0)[None]
    u = 3 * torch.ones(3, width)
    heard = dit.audio_attention(state, "a", u, voices, 1, torch.tensor([2.0, 22.0, 12.0]))[:, :2]
    assert heard[0, 0] > 0.9
    assert heard[1, 1] > 0.9
    torch.testing.assert_close(heard[2], torch.tensor([0.5, 0.5]))
    together = dit.audio_attention(state, "a", u, voices, 1, None)[:, :2]
    torch.testing.assert_close(together, torch.full((3, 2), 0.5))


def test_masks_change_what_a_two_speaker_network_does() -> None:
    sizes = states.TINY_DIT
    state, inputs = states.random_state(states.dit_shapes(sizes), 0), dit_inputs(sizes, (3, 3, 6))
    inputs["audio_PF5LC"] = normal(2, 9, 5, sizes["audio_layers"], sizes["audio_channels"])
    apart, swapped, together = (
        dit.forward(state, sizes, time=625.0, dtype=torch.float32, masks_3hw=masks, **inputs)
        for masks in (speakers()[2], speakers()[2][[1, 0, 2]], None)
    )
    assert (apart - swapped).abs().max() > 1e-2
    assert (apart - together).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (4, [1000, 937.5, 833.3333, 625, 0]),
        (2, [1000, 833.3333, 0]),
        (10, [1000, 975.64, 946.01, 909.21, 862.28, 800.36, 714.90, 589.32, 386.74, 4.98, 0]),
    ],
)
def test_times_are_the_published_ones(num_steps: int, expected: list[float]) -> None:
    assert sampler.times(num_steps, 5.0) == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("num_steps", [2, 4, 10])
def test_a_perfect_network_gives_its_clean_latents_and_every_step_draws(num_steps: int) -> None:
    clean, draws = normal(16, 3, 4, 4, seed=5), []

    def draw(dtype: torch.dtype) -> Tensor:
        draws.append(normal(16, 3, 4, 4, seed=100 + len(draws)).to(dtype))
        return draws[-1]

    def velocity(x: Tensor, time: float) -> Tensor:
        return (x - clean) / (time / 1000)

    result = sampler.sample(velocity, clean[:, :1], draw, num_steps=num_steps, shift=5.0)
    torch.testing.assert_close(result, clean, atol=1e-5, rtol=0)
    assert len(draws) == num_steps + 1


def test_windows_inside_the_sound_make_groups_of_eight_consecutive_features() -> None:
    features = torch.arange(200.0).reshape(200, 1, 1)
    clip = loop.windows(features, 100, 33)[0, :, :, 0, 0]
    assert clip[0].tolist() == [98, 99, 100, 101, 102]
    for k in range(1, 9):
        entries = [*clip[4 * k - 3][:3], clip[4 * k - 2][2], clip[4 * k - 1][2], *clip[4 * k][2:]]
        assert [int(entry) - 100 for entry in entries] == list(range(4 * k - 5, 4 * k + 3))


def test_windows_at_the_end_repeat_the_newest_feature() -> None:
    clip = loop.windows(torch.arange(200.0).reshape(200, 1, 1), 167, 33)[0, :, :, 0, 0]
    assert clip[0].tolist() == [165, 166, 167, 168, 169]
    assert clip[-2].tolist() == [196, 197, 198, 199, 199]
    assert clip[-1].tolist() == [197, 198, 199, 199, 199]


def test_the_mask_is_one_in_the_first_latent_frame_only() -> None:
    assert loop.mask(9).shape == (4, 9)
    assert loop.mask(9)[:, 0].tolist() == [1, 1, 1, 1]
    assert loop.mask(9)[:, 1:].abs().sum() == 0


def image(seed: int = 0, height: int = 24, width: int = 20) -> Tensor:
    smooth = torch.nn.functional.interpolate(normal(1, 3, 4, 4, seed=seed), (height, width), mode="bicubic")[0]
    return torch.tanh(smooth) * 0.8


def test_lab_agrees_with_opencv() -> None:
    rgb = (image() + 1) / 2
    expected = cv2.cvtColor(rgb.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2Lab)
    # OpenCV interpolates in tables of 33 entries per axis
    assert np.abs(color.lab(rgb).permute(1, 2, 0).numpy() - expected).max() < 0.5
    torch.testing.assert_close(color.rgb(color.lab(rgb)), rgb, atol=1e-4, rtol=0)


def test_colour_of_the_reference_itself_stays() -> None:
    video = image()[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(color.correct(video, image(), 1.0), video, atol=2e-4, rtol=0)
    other = image(1)[:, None]
    torch.testing.assert_close(color.correct(other, image(), 0.0), other, atol=1e-6, rtol=0)


def test_colour_takes_the_statistics_of_the_reference() -> None:
    reference, frame = image() * 0.4, image(1) * 0.4 + 0.2
    corrected = color.lab((color.correct(frame[:, None], reference, 1.0)[:, 0] + 1) / 2)
    expected = color.lab((reference + 1) / 2)
    torch.testing.assert_close(corrected.mean(dim=(1, 2)), expected.mean(dim=(1, 2)), atol=0.3, rtol=0)
    torch.testing.assert_close(corrected.std(dim=(1, 2)), expected.std(dim=(1, 2)), atol=0.3, rtol=0.02)


@pytest.fixture(scope="module")
def vae_state() -> dict[str, Tensor]:
    return states.random_state(states.vae_shapes(8), 3)


@pytest.fixture(scope="module")
def library_vae(vae_state: dict[str, Tensor]) -> torch.nn.Module:
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    library = AutoencoderKLWan(base_dim=8, z_dim=16).eval().requires_grad_(False)
    library.load_state_dict(convert_wan_vae_to_diffusers(dict(vae_state)), strict=True)
    return library


@pytest.mark.parametrize("num_frames", [1, 5, 13])
def test_the_autoencoder_agrees_with_diffusers(
    vae_state: dict[str, Tensor], library_vae: torch.nn.Module, num_frames: int
) -> None:
    video = torch.tanh(normal(3, num_frames, 32, 48))
    latent = vae.encode(vae_state, video)
    mean, deviation = (
        torch.tensor(values).reshape(-1, 1, 1, 1)
        for values in (library_vae.config.latents_mean, library_vae.config.latents_std)
    )
    expected = (library_vae.encode(video[None]).latent_dist.mode()[0] - mean) / deviation
    torch.testing.assert_close(latent, expected, atol=1e-5, rtol=0)
    decoded = vae.decode(vae_state, latent)
    expected = library_vae.decode((latent * deviation + mean)[None]).sample[0]
    assert decoded.shape == video.shape
    torch.testing.assert_close(decoded, expected.clamp(-1, 1), atol=1e-5, rtol=0)


def test_every_chunk_of_the_loop_yields_28_frames_and_a_remainder_of_sound_is_dropped() -> None:
    rings, motions = [], []

    def velocity(x: Tensor, time: float, y: Tensor, seen: Tensor) -> Tensor:
        motions.append((y.shape, seen.shape))
        return torch.zeros_like(x)

    def encode(video: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(video.mean(0), 8)[::4]
        return small.expand(16, *small.shape).clone()

    def features(ring: np.ndarray) -> Tensor:
        rings.append(ring)
        return torch.zeros(200, 2, 3)

    networks = loop.Networks(velocity, encode, lambda latent: torch.tanh(normal(3, 33, 16, 16)), features)
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * 17_920 + 900).astype(np.float32)
    chunks = list(loop.stream(networks, loop.Settings(), image(0, 16, 16), sound, lambda _: normal(16, 9, 2, 2)))
    assert [chunk.shape for chunk in chunks] == [(3, 28, 16, 16)] * 2
    assert motions == [((20, 9, 2, 2), (1, 33, 5, 2, 3))] * 8
    assert all(len(ring) == 128_000 for ring in rings)
    assert not rings[0][:-17_920].any()
    gain = rings[0][-17_920:] / sound[:17_920]
    np.testing.assert_allclose(gain, gain[0], rtol=1e-4)
    assert not rings[1][: -2 * 17_920].any()
    assert rings[1][-2 * 17_920 :].all()
