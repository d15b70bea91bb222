"""The autoencoder: against diffusers, against itself in other groupings, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from torch import Tensor

from model import vae as vae_module
from model.config import VAEConfig
from model.vae import LATENT_MEAN, LATENT_STD, VAE, default_groups
from model.vae_primitives import Borders, History
from talkbench.errors import TalkbenchError

ROOT = Path(__file__).parents[3]
SHALLOW = VAEConfig(base_dim=4, multipliers=(1, 1), num_res_blocks=0, halves_time=(True,))


def random_vae(dtype: torch.dtype = torch.float32, config: VAEConfig | None = None) -> VAE:
    """Return a small network in which every parameter matters."""
    torch.manual_seed(3)
    vae = VAE(config or VAEConfig(base_dim=8))
    for parameter in vae.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return vae.to(dtype).channels_last()


def random_video(num_frames: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, num_frames, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def random_latent(num_frames: int, rows: int, columns: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, num_frames, rows, columns, generator=torch.Generator().manual_seed(7))


def statistics(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(values, dtype=dtype).view(-1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))


@pytest.fixture(scope="module")
def vae() -> VAE:
    return random_vae()


@pytest.fixture(scope="module")
def vae64() -> VAE:
    return random_vae(torch.float64)


@pytest.fixture(scope="module")
def theirs(vae: VAE) -> AutoencoderKLWan:
    model = AutoencoderKLWan(base_dim=8)
    model.load_state_dict(convert_wan_vae_to_diffusers(vae.state_dict()))
    return model.eval()


def their_statistics(model: AutoencoderKLWan) -> tuple[Tensor, Tensor]:
    return tuple(
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (model.config.latents_mean, model.config.latents_std)
    )


def test_names_and_shapes_are_those_of_the_released_file() -> None:
    keys = json.loads((ROOT / "tests/data/keys/vae_wan2.1.json").read_text())
    with torch.device("meta"):
        tensors = VAE(VAEConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in tensors.items()} == keys


def test_weights_made_on_meta_load_strictly_and_give_the_same_numbers(vae: VAE) -> None:
    with torch.device("meta"):
        other = VAE(vae.config)
    other.load_state_dict(vae.state_dict(), strict=True, assign=True)
    video = random_video(5, 16, 16)
    assert torch.equal(other.channels_last().encode(video), vae.encode(video))


@pytest.mark.parametrize(("num_frames", "height", "width", "batch"), [(9, 48, 32, 1), (5, 16, 40, 2), (1, 32, 32, 1)])
def test_encoding_equals_diffusers(vae: VAE, theirs: AutoencoderKLWan, num_frames, height, width, batch) -> None:
    video = random_video(num_frames, height, width, batch)
    mean, std = their_statistics(theirs)
    with torch.no_grad():
        expected = (theirs.encode(video).latent_dist.mode() - mean) / std
    latent = vae.encode(video)
    assert latent.shape == (batch, 16, (num_frames - 1) // 4 + 1, height // 8, width // 8)
    assert expected.std() > 0.1
    assert (latent - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("num_latents", "rows", "columns", "batch"), [(9, 4, 3, 1), (2, 2, 5, 2), (1, 4, 4, 1)])
def test_decoding_equals_diffusers(vae: VAE, theirs: AutoencoderKLWan, num_latents, rows, columns, batch) -> None:
    latent = random_latent(num_latents, rows, columns, batch)
    mean, std = their_statistics(theirs)
    with torch.no_grad():
        expected = theirs.decode(latent * std + mean).sample
    video = vae.decode(latent)
    assert video.shape == (batch, 3, 4 * num_latents - 3, 8 * rows, 8 * columns)
    assert expected.std() > 0.1
    assert (video - expected).abs().max() < 1e-5


@pytest.mark.parametrize("groups", [(1, 8), (1,) * 9, (9,), (1, 3, 5), (4, 5)])
def test_decoding_in_groups_equals_decoding_the_whole(vae64: VAE, groups: tuple[int, ...]) -> None:
    latent = random_latent(9, 3, 2).double()
    mu, std = statistics(torch.float64)
    with torch.no_grad():
        conv = vae64.conv2
        whole, _ = vae64.decoder(torch.nn.functional.conv3d(latent * std + mu, conv.weight, conv.bias), None, Borders())
    pieces = list(vae64.decode_groups(latent, groups))
    assert [piece.shape[2] for piece in pieces] == [4 * groups[0] - 3, *(4 * group for group in groups[1:])]
    assert (torch.cat(pieces, 2) - whole.clamp(-1, 1)).abs().max() < 1e-13


def test_float32_groups_agree_to_rounding(vae: VAE) -> None:
    latent = random_latent(9, 3, 2)
    nine = torch.cat(list(vae.decode_groups(latent, (1,) * 9)), 2)
    assert (nine - vae.decode(latent)).abs().max() < 1e-5


@pytest.mark.parametrize("group_latents", [1, 2, 8])
def test_encoding_in_groups_equals_encoding_the_whole(vae64: VAE, monkeypatch, group_latents: int) -> None:
    video = random_video(21, 16, 24).double()
    with torch.no_grad():
        raw, _ = vae64.encoder(video, None, Borders())
        mean = torch.nn.functional.conv3d(raw, vae64.conv1.weight, vae64.conv1.bias)[:, :16]
    mu, std = statistics(torch.float64)
    monkeypatch.setattr(vae_module, "GROUP_LATENTS", group_latents)
    assert (vae64.encode(video) - (mean - mu) / std).abs().max() < 1e-13


def test_the_first_frames_come_before_the_last_are_decoded(vae: VAE, monkeypatch) -> None:
    calls = []
    forward = vae.decoder.forward
    monkeypatch.setattr(vae.decoder, "forward", lambda *args: calls.append(args[0].shape[2]) or forward(*args))
    pieces = vae.decode_groups(random_latent(4, 2, 2), (1, 1, 2))
    assert calls == []
    assert next(pieces).shape[2] == 1
    assert calls == [1]
    assert next(pieces).shape[2] == 4
    assert calls == [1, 1]


def test_two_decodes_side_by_side_do_not_disturb_each_other(vae: VAE) -> None:
    first, second = random_latent(3, 2, 2), random_latent(3, 2, 2).flip(0, 2)
    interleaved = list(zip(vae.decode_groups(first, (1, 2)), vae.decode_groups(second, (1, 2)), strict=True))
    for latent, pieces in zip((first, second), zip(*interleaved, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces, 2), vae.decode(latent))


def test_what_a_group_leaves_behind_is_two_frames_per_convolution_and_no_more(vae: VAE) -> None:
    with torch.no_grad():
        _, before = vae.decoder(random_latent(5, 2, 2), None, Borders())
    assert {tensor.shape[2] for tensor in before} == {2}
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * 4 for tensor in before)


def test_activations_stay_channels_last(vae: VAE) -> None:
    with torch.no_grad():
        _, first = vae.decoder(random_latent(1, 2, 2), None, Borders())
        _, later = vae.decoder(random_latent(2, 2, 2), first, Borders())
    for tensor in (*first, *later, vae.decode(random_latent(2, 2, 2))):
        assert tensor.movedim(1, -1).is_contiguous()


def test_bfloat16_stays_near_float32_and_rounds_the_statistics_first() -> None:
    vae, exact = random_vae(torch.bfloat16), random_vae()
    video, latent = random_video(5, 32, 32), random_latent(3, 4, 4)
    for half, reference in ((vae.encode(video), exact.encode(video)), (vae.decode(latent), exact.decode(latent))):
        assert half.dtype == torch.bfloat16
        assert (half.float() - reference).norm() / reference.norm() < 0.06

    with torch.no_grad():
        first, before = vae.encoder(video[:, :, :1].bfloat16(), None, Borders())
        rest, _ = vae.encoder(video[:, :, 1:].bfloat16(), before, Borders())
        raw = torch.cat([first, rest], 2).movedim(1, -1)
        mean = torch.nn.functional.linear(raw, vae.conv1.weight.flatten(1), vae.conv1.bias).movedim(-1, 1)[:, :16]
    mu, std = statistics(torch.bfloat16)
    assert torch.equal(vae.encode(video), (mean - mu) * (1 / std))


def test_decoded_video_is_clamped(vae: VAE) -> None:
    video = vae.decode(20 * random_latent(2, 2, 2))
    assert video.abs().max() == 1


def test_later_latents_do_not_change_earlier_frames(vae64: VAE) -> None:
    latent = random_latent(4, 2, 2).double()
    other = latent.clone()
    other[:, :, 2:] += 1
    difference = (vae64.decode(latent) - vae64.decode(other)).abs().amax((0, 1, 3, 4))
    assert (difference[:5] == 0).all()
    assert (difference[5:] > 1e-3).all()


def test_groups_are_the_first_latent_and_then_eights() -> None:
    assert [default_groups(num) for num in (1, 2, 9, 12, 17)] == [[1], [1, 1], [1, 8], [1, 8, 3], [1, 8, 8]]


@pytest.mark.parametrize("num_frames", [0, 2, 4, 32])
def test_frame_counts_other_than_4n_plus_1_are_refused(vae: VAE, num_frames: int) -> None:
    with pytest.raises(TalkbenchError, match=f"video of {num_frames} frames; .*4n \\+ 1, for example"):
        vae.encode(torch.zeros(1, 3, num_frames, 16, 16))


@pytest.mark.parametrize(("height", "width"), [(20, 16), (16, 12), (0, 16)])
def test_sizes_that_are_no_multiple_of_8_are_refused(vae: VAE, height: int, width: int) -> None:
    with pytest.raises(TalkbenchError, match=f"{height}x{width} pixels .* multiples of 8"):
        vae.encode(torch.zeros(1, 3, 1, height, width))


def test_other_shapes_are_refused(vae: VAE) -> None:
    with pytest.raises(TalkbenchError, match=r"video of shape \(3, 5, 16, 16\); expected \[batch, 3"):
        vae.encode(torch.zeros(3, 5, 16, 16))
    with pytest.raises(TalkbenchError, match=r"video of shape \(1, 4, 5, 16, 16\)"):
        vae.encode(torch.zeros(1, 4, 5, 16, 16))
    with pytest.raises(TalkbenchError, match=r"latent of shape \(1, 8, 2, 4, 4\); expected \[batch, 16"):
        vae.decode(torch.zeros(1, 8, 2, 4, 4))
    with pytest.raises(TalkbenchError, match=r"latent of shape \(16, 2, 4, 4\)"):
        vae.decode(torch.zeros(16, 2, 4, 4))


@pytest.mark.parametrize("groups", [(1, 1), (1, 3), (), (3, 0), (4, -1)])
def test_groups_that_do_not_cut_the_latent_are_refused_at_once(vae: VAE, groups: tuple[int, ...]) -> None:
    with pytest.raises(TalkbenchError, match="do not cut 3 latent frames"):
        vae.decode_groups(torch.zeros(1, 16, 3, 2, 2), groups)


def test_configurations_without_known_statistics_or_with_odd_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="latent_channels is 8"):
        VAE(VAEConfig(latent_channels=8))
    with pytest.raises(ValueError, match="halves_time"):
        VAE(VAEConfig(multipliers=(1, 2)))


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_each_half_compiles_into_one_graph_per_group_size(fresh_compiler: None) -> None:
    vae = random_vae(config=SHALLOW).requires_grad_(False)
    latent, video = random_latent(5, 4, 4), random_video(3, 8, 8)
    expected = [*vae.decode_groups(latent, (1, 2, 2)), vae.encode(video)]
    graphs: list[torch.fx.GraphModule] = []

    def capture(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    vae.compile(backend=capture)
    compiled = [*vae.decode_groups(latent, (1, 2, 2)), vae.encode(video)]
    assert all(torch.equal(ours, eager) for ours, eager in zip(compiled, expected, strict=True))
    assert len(graphs) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_inductor_gives_the_same_numbers_and_keeps_no_activation_for_the_next_group(fresh_compiler: None) -> None:
    layer = random_vae().decoder.upsamples[-1]

    def step(x: Tensor, before: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        history = History(before)
        return layer(x, history, Borders()), history.after

    video = torch.randn(1, 4, 16, 16, 8).movedim(-1, 1)
    before = [torch.randn(1, 2, 16, 16, 8).movedim(-1, 1) for _ in range(2)]
    with torch.no_grad():
        expected, remembered = step(video, before)
        ours, after = torch.compile(step, fullgraph=True, dynamic=False)(video, before)
    assert (ours - expected).abs().max() < 1e-5
    for tensor, reference in zip(after, remembered, strict=True):
        assert (tensor - reference).abs().max() < 1e-5
        assert tensor.untyped_storage().nbytes() == tensor.numel() * 4
