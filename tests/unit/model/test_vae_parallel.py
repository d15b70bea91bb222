"""The autoencoder on several processes: bands equal one process, tiles equal the same tiles cut by hand."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.config import VAEConfig
from model.parallel.bands import BandedVAE, Bands
from model.parallel.tiles import TiledVAE, choose_grid, spans, tiling_error
from model.vae import VAE
from talkbench.errors import TalkbenchError

from .processes import run

SHALLOW = VAEConfig(base_dim=4, multipliers=(1, 1), num_res_blocks=0, halves_time=(True,))


def random_vae(dtype: torch.dtype = torch.float64, config: VAEConfig | None = None) -> VAE:
    torch.manual_seed(3)
    vae = VAE(config or VAEConfig(base_dim=8, num_res_blocks=1))
    for parameter in vae.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return vae.to(dtype).channels_last()


def random_video(num_frames: int, height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, num_frames, height, width, generator=torch.Generator().manual_seed(5)) * 2 - 1


def random_latent(num_frames: int, rows: int, columns: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 16, num_frames, rows, columns, generator=torch.Generator().manual_seed(7))


def largest(ours: Tensor, expected: Tensor) -> float:
    """Return the largest difference, infinite where shapes differ."""
    return (ours - expected).abs().max().item() if ours.shape == expected.shape else math.inf


def everything(rank: int, num_processes: int) -> dict[str, Any]:
    """Run all comparisons that need processes at once: starting them is what takes the time."""
    return {
        "bands": banded_differences(),
        "tiles": tiled_results(num_processes),
        "refusals": band_refusals(),
        "distvae": distvae_differences() if num_processes == 2 and find_spec("distvae") else None,
    }


@pytest.fixture(scope="module", params=[2, 3, 4])
def results(request, tmp_path_factory) -> list[dict[str, Any]]:
    """Return what every rank found."""
    return run(everything, request.param, tmp_path_factory.mktemp("group"))


def banded_differences() -> dict[str, float]:
    """Compare bands with one process: tall and wide pictures, uneven bands, encode, decode, streamed, float32."""
    differences = {}
    vae = random_vae()
    banded = BandedVAE(vae, dist.group.WORLD)
    for name, rows, columns, batch in (("tall", 5, 3, 1), ("wide", 2, 7, 2)):
        latent = random_latent(3, rows, columns, batch).double()
        video = random_video(5, 8 * rows, 8 * columns, batch).double()
        differences[f"decode {name}"] = largest(banded.decode(latent), vae.decode(latent))
        differences[f"encode {name}"] = largest(banded.encode(video), vae.encode(video))
    pieces = list(banded.decode_groups(latent, (1, 1, 1)))
    assert [piece.shape[2] for piece in pieces] == [1, 4, 4]
    differences["streamed"] = largest(torch.cat(pieces, 2), vae.decode(latent))
    vae, latent, video = vae.float(), latent.float(), video.float()
    differences["decode float32"] = largest(banded.decode(latent), vae.decode(latent))
    differences["encode float32"] = largest(banded.encode(video), vae.encode(video))
    return differences


def test_bands_equal_one_process(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert len(result["bands"]) == 7
        for name, difference in result["bands"].items():
            assert difference <= (1e-5 if "float32" in name else 1e-14), name


def band_refusals() -> list[str]:
    banded = BandedVAE(random_vae(config=SHALLOW), dist.group.WORLD)
    messages = []
    for call, argument in (
        (banded.decode, random_latent(1, 1, 1)),
        (banded.encode, random_video(1, 2, 2)),
        (banded.encode, random_video(2, 8, 8)),
        (lambda latent: banded.decode_groups(latent, (1, 1)), random_latent(1, 4, 4)),
    ):
        with pytest.raises(TalkbenchError) as caught:
            call(argument.double())
        messages.append(str(caught.value))
    return messages


def test_more_processes_than_latent_rows_and_bad_sizes_are_refused_on_every_rank(results: list[dict[str, Any]]) -> None:
    for result in results:
        few_rows, few_pixels, frames, groups = result["refusals"]
        for message in (few_rows, few_pixels):
            assert f"{len(results)} processes cannot share 1 latent rows (1x1)" in message
        assert "video of 2 frames" in frames
        assert "do not cut 1 latent frames" in groups


def distvae_differences() -> tuple[float, float]:
    """Compare bands with DistVAE's split of diffusers' autoencoder, both on this group."""
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
    from distvae.vae import parallelize_decoder, parallelize_encoder

    vae = random_vae(torch.float32, VAEConfig(base_dim=8))
    theirs = AutoencoderKLWan(base_dim=8)
    theirs.load_state_dict(convert_wan_vae_to_diffusers(vae.state_dict()))
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (theirs.config.latents_mean, theirs.config.latents_std)
    )
    parallelize_decoder(theirs, dist.group.WORLD)
    parallelize_encoder(theirs, dist.group.WORLD)
    banded = BandedVAE(vae, dist.group.WORLD)
    latent, video = random_latent(3, 5, 3), random_video(5, 40, 24)
    with torch.no_grad():
        decoded = theirs.decode(latent * std + mean).sample
        encoded = (theirs.encode(video).latent_dist.mode() - mean) / std
    return largest(banded.decode(latent), decoded), largest(banded.encode(video), encoded)


def test_bands_equal_distvae(results: list[dict[str, Any]]) -> None:
    if results[0]["distvae"] is None:
        pytest.skip("compared on two processes, and only where distvae is installed")
    assert max(max(result["distvae"]) for result in results) < 1e-5


class Alone(dist.ProcessGroup):
    """Stands in for a group where no message is sent."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)


@pytest.mark.parametrize(
    ("length", "num_ranks", "sizes"), [(90, 8, [12] * 2 + [11] * 6), (96, 8, [12] * 8), (5, 2, [3, 2])]
)
def test_bands_are_contiguous_and_cover_the_longer_axis(length: int, num_ranks: int, sizes: list[int]) -> None:
    video = torch.arange(8 * length).view(1, 1, 1, 8 * length, 1).expand(1, 1, 1, 8 * length, 16)
    bands = [Bands(length, 2, Alone(rank, num_ranks)) for rank in range(num_ranks)]
    assert bands[0].sizes == sizes
    assert [band.cut(video).shape[3] for band in bands] == [8 * size for size in sizes]
    assert torch.equal(torch.cat([band.cut(video) for band in bands], 3), video)
    sideways = [Bands(2, length, Alone(rank, num_ranks)) for rank in range(num_ranks)]
    assert torch.equal(torch.cat([band.cut(video.mT) for band in sideways], 4), video.mT)


def compiled_differences(rank: int, num_processes: int) -> float:
    vae = random_vae(config=SHALLOW)
    latent = random_latent(3, 3, 2).double()
    expected = vae.decode(latent)
    vae.compile(backend="aot_eager")
    return largest(BandedVAE(vae, dist.group.WORLD).decode(latent), expected)


@pytest.mark.slow
def test_bands_compile_with_their_exchanges_in_the_graph(tmp_path: Path) -> None:
    assert max(run(compiled_differences, 2, tmp_path)) <= 1e-14


@pytest.mark.parametrize(
    ("num_tiles", "rows", "columns", "grid"),
    [
        (2, 96, 56, (2, 1)), (4, 96, 56, (2, 2)), (8, 96, 56, (4, 2)),
        (2, 90, 52, (2, 1)), (4, 90, 52, (2, 2)), (5, 90, 52, (5, 1)), (8, 90, 52, (2, 4)), (1, 7, 5, (1, 1)),
    ],
)  # fmt: skip
def test_grids_are_those_of_the_released_code(num_tiles: int, rows: int, columns: int, grid: tuple[int, int]) -> None:
    assert choose_grid(num_tiles, rows, columns) == grid


@pytest.mark.parametrize(("num_tiles", "rows", "columns"), [(8, 90, 50), (5, 96, 56), (3, 4, 4)])
def test_grids_that_would_lose_columns_are_refused(num_tiles: int, rows: int, columns: int) -> None:
    with pytest.raises(TalkbenchError, match=f"{num_tiles} tiles do not divide a latent of {rows}x{columns}"):
        choose_grid(num_tiles, rows, columns)


def test_outer_tiles_have_both_margins_inside_and_all_tiles_are_equal() -> None:
    cut = [(span.start, span.stop, span.keep, span.length) for span in spans(96, 4, 2)]
    assert cut == [(0, 28, 0, 24), (22, 50, 2, 24), (46, 74, 2, 24), (68, 96, 4, 24)]
    assert [(span.start, span.stop, span.keep, span.length) for span in spans(90, 1, 2)] == [(0, 90, 0, 90)]


def test_margins_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TalkbenchError, match="a tile of 3 latent rows with 2 more on either side does not fit into 6"):
        spans(6, 2, 2)
    with pytest.raises(TalkbenchError, match="does not fit"):
        TiledVAE(random_vae(config=SHALLOW), 4).decode(torch.zeros(1, 16, 1, 6, 6).double())


def test_tiles_are_whole_decodes_with_the_margin_cut_off() -> None:
    vae = random_vae(torch.float32, VAEConfig(base_dim=4))
    latent = random_latent(2, 8, 10)
    top, bottom, left, right = slice(0, 6), slice(2, 8), slice(0, 7), slice(3, 10)
    upper = [vae.decode(latent[..., top, left])[..., :32, :40], vae.decode(latent[..., top, right])[..., :32, 16:]]
    lower = [vae.decode(latent[..., bottom, side]) for side in (left, right)]
    lower = [lower[0][..., 16:, :40], lower[1][..., 16:, 16:]]
    by_hand = torch.cat([torch.cat(upper, 4), torch.cat(lower, 4)], 3)
    assert torch.equal(TiledVAE(vae, 4, decode_halo=1).decode(latent), by_hand)

    video = random_video(5, 64, 80)
    left, right = slice(0, 72), slice(8, 80)
    sides = [vae.encode(video[..., left])[..., :5], vae.encode(video[..., right])[..., 4:]]
    assert torch.equal(TiledVAE(vae, 2, encode_halo=2).encode(video), torch.cat(sides, 4))


def test_one_tile_is_the_exact_result() -> None:
    vae = random_vae(torch.float32)
    latent, video = random_latent(2, 3, 5), random_video(5, 24, 40)
    assert torch.equal(TiledVAE(vae, 1).decode(latent), vae.decode(latent))
    assert torch.equal(TiledVAE(vae, 1).encode(video), vae.encode(video))


def without_attention() -> VAE:
    vae = random_vae(config=VAEConfig(base_dim=4))
    for half in (vae.encoder, vae.decoder):
        for parameter in half.middle[1].proj.parameters():
            parameter.data.zero_()
    return vae


@pytest.mark.parametrize(("halo", "reached"), [(18, True), (17, False)])
def test_a_margin_of_18_latents_is_as_far_as_the_decoder_looks_without_attention(halo: int, reached: bool) -> None:
    vae, latent = without_attention(), random_latent(2, 60, 1).double()
    difference = largest(TiledVAE(vae, 3, decode_halo=halo).decode(latent), vae.decode(latent))
    assert (difference < 5e-14) if reached else (difference > 1e-13)


@pytest.mark.parametrize(("halo", "reached"), [(14, True), (13, False)])
def test_a_margin_of_14_latents_is_as_far_as_the_encoder_looks_without_attention(halo: int, reached: bool) -> None:
    vae, video = without_attention(), random_video(5, 8 * 48, 8).double()
    difference = largest(TiledVAE(vae, 3, encode_halo=halo).encode(video), vae.encode(video))
    assert (difference < 5e-14) if reached else (difference > 1e-13)


def tiled_results(num_processes: int) -> tuple[Any, ...]:
    vae = random_vae(torch.float32, VAEConfig(base_dim=4, num_res_blocks=1))
    latent, video = random_latent(3, 12, 12), random_video(5, 96, 96)
    together, alone = TiledVAE(vae, dist.group.WORLD), TiledVAE(vae, num_processes)
    pieces = list(together.decode_groups(latent, (1, 1, 1)))
    return (
        together.grid(12, 12),
        torch.equal(together.decode(latent), alone.decode(latent)),
        torch.equal(together.encode(video), alone.encode(video)),
        largest(torch.cat(pieces, 2), alone.decode(latent)),
    )


def test_tiles_over_processes_equal_the_same_tiles_by_one(results: list[dict[str, Any]]) -> None:
    for result in results:
        grid, decoded, encoded, streamed = result["tiles"]
        assert grid == {2: (2, 1), 3: (3, 1), 4: (2, 2)}[len(results)]
        assert decoded
        assert encoded
        assert streamed < 1e-5


def test_the_error_of_tiles_is_measured_overall_and_at_the_seams() -> None:
    exact = torch.zeros(1, 3, 2, 64, 96)
    assert tiling_error(exact, exact, (2, 2)).psnr_db == math.inf
    tiled = exact.clone()
    tiled[0, 0, 0, 20, 20] = 0.5  # 12 pixels from the row cut, 28 from the column cut
    tiled[0, 1, 1, 24, 0] = 0.25  # within 8 of the row cut at 32
    error = tiling_error(exact, tiled, (2, 2))
    assert (error.max_difference, error.max_seam_difference) == (0.5, 0.25)
    mean_square = (0.5**2 + 0.25**2) / exact.numel()
    assert error.psnr_db == pytest.approx(10 * math.log10(4 / mean_square))
    assert tiling_error(exact, tiled, (1, 1)).max_seam_difference == 0
    assert tiling_error(exact, tiled, (1, 4)).max_seam_difference == 0.5


def test_the_released_margins_cost_accuracy_that_the_error_shows() -> None:
    vae = random_vae(torch.float32, VAEConfig(base_dim=4))
    latent = random_latent(2, 16, 12)
    tiled = TiledVAE(vae, 4)
    error = tiling_error(vae.decode(latent), tiled.decode(latent), tiled.grid(16, 12))
    assert 10 < error.psnr_db < 80
    assert error.max_difference >= error.max_seam_difference > 1e-3
