"""`make bench-model`: the reference model's code paths against their plain forms, as ratios in one run on this CPU.

    python -m tests.bench.model

The network is the real one at a tenth of its width (0.03 B parameters, 2,160 tokens), with random weights: what is
compared is code, not hardware. Every ratio is the median over alternating repeats in one process with one thread.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from PIL import Image
from rich.console import Console

from model import accelerate, initial, rope
from model.config import DiTConfig, ParallelConfig, VAEConfig
from model.dit import DiT
from model.kernels import make_kernel
from model.parallel.sequence import initialise
from model.parallel.tiles import TiledVAE, tiling_error
from model.pipeline import build
from model.recipes import recipe
from model.stream import Stream
from model.vae import VAE
from talkbench.provenance import describe
from tests.bench.__main__ import save, show
from tests.plain import dit as plain
from tests.unit.model.parity import sizes_of
from tests.unit.model.processes import run

CONFIG = replace(recipe("tiny").dit, dim=512, num_heads=8, num_layers=4, ffn_dim=1408)
GRID = (9, 40, 24)
REPEATS = 5
CPU = torch.device("cpu")


def paired(first: Callable[[], object], second: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return seconds of `first` over seconds of `second`, the median over alternating repeats after one warm-up."""
    first(), second()
    ratios = []
    for _ in range(repeats):
        begun = time.perf_counter()
        first()
        middle = time.perf_counter()
        second()
        ratios.append((middle - begun) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def network(config: DiTConfig = CONFIG) -> DiT:
    return initial.made(partial(DiT, config), 0, CPU, torch.float32)


class Given:
    """Inputs of a forward."""

    def __init__(self, dit: DiT) -> None:
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        config, audio = dit.config, dit.config.audio
        self.x, self.y = draw(16, *GRID), draw(20, *GRID)
        self.text, self.image = draw(20, config.text_dim), draw(1, 17, config.image_dim)
        self.windows = draw(1, 4 * GRID[0] - 3, audio.window, audio.num_layers, audio.channels)
        self.time = dit.encode_time(937.5)
        self.context, self.speech = dit.encode_context(self.text, self.image), dit.encode_audio(self.windows)

    def cached(self, dit: DiT) -> torch.Tensor:
        return dit(self.x, self.time, self.y, self.context, self.speech)

    def uncached(self, dit: DiT) -> torch.Tensor:
        context, speech = dit.encode_context(self.text, self.image), dit.encode_audio(self.windows)
        return dit(self.x, dit.encode_time(937.5), self.y, context, speech)


@torch.no_grad()
def forward() -> list[dict[str, object]]:
    dit = network()
    given, state, sizes = Given(dit), dit.state_dict(), sizes_of(CONFIG)

    def transcribed() -> torch.Tensor:
        return plain.forward(
            state, sizes, given.x, 937.5, given.text, given.image, given.y, given.windows, torch.float32
        )

    tokens = torch.randn(1, 2160, CONFIG.num_heads, CONFIG.head_dim)
    grid = (GRID[0], GRID[1] // 2, GRID[2] // 2)
    tables = rope.tables(grid, CONFIG.head_dim)
    turns = torch.complex(*rope.tables(grid, CONFIG.head_dim, dtype=torch.float64))
    lines: list[dict[str, object]] = [
        {
            "what": "forward: ours / plain transcription (loops, written to be checked)",
            "time": paired(lambda: given.cached(dit), transcribed),
            "largest difference": (given.cached(dit) - transcribed()).abs().max().item(),
        },
        {
            "what": "conditions: kept / encoded for every step",
            "time": paired(lambda: given.cached(dit), lambda: given.uncached(dit)),
            "largest difference": (given.cached(dit) - given.uncached(dit)).abs().max().item(),
        },
        {
            "what": "rotary positions: float32 tables / float64, as released",
            "time": paired(lambda: rope.rotate(tokens, *tables), lambda: _rotate_complex(tokens, turns)),
            "largest difference": (rope.rotate(tokens, *tables) - _rotate_complex(tokens, turns)).abs().max().item(),
        },
    ]
    whole, compiled = given.cached(dit), network()
    accelerate.compile_blocks(compiled)
    difference = (given.cached(compiled) - whole).abs().max().item()
    ratio = paired(lambda: given.cached(compiled), lambda: given.cached(dit))
    return [*lines, {"what": "block: compiled / plain", "time": ratio, "largest difference": difference}]


def _rotate_complex(x_BNAd: torch.Tensor, turns_Nd: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x_BNAd.double().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns_Nd[None, :, None]).flatten(-2).float()


@torch.no_grad()
def autoencoder() -> list[dict[str, object]]:
    ours = initial.made(partial(VAE, VAEConfig(base_dim=32)), 0, CPU, torch.float32).channels_last()
    theirs = AutoencoderKLWan(base_dim=32)
    theirs.load_state_dict(convert_wan_vae_to_diffusers(dict(ours.state_dict())))
    latent = torch.randn(1, 16, 9, 8, 8, generator=torch.Generator().manual_seed(0))
    video = ours.decode(latent)
    return [
        {
            "what": "decode in two calls / in nine",
            "time": paired(
                lambda: list(ours.decode_groups(latent, (1, 8))), lambda: list(ours.decode_groups(latent, (1,) * 9)), 3
            ),
        },
        {
            "what": "decode: ours / diffusers",
            "time": paired(lambda: ours.decode(latent), lambda: theirs.decode(latent), 3),
        },
        {
            "what": "encode: ours / diffusers",
            "time": paired(lambda: ours.encode(video), lambda: theirs.encode(video), 3),
        },
    ]


@torch.no_grad()
def tiles() -> list[dict[str, object]]:
    """Decode 9 frames of 256x192 in the report's tiles and exactly; untrained weights, so the size is indicative."""
    vae = initial.made(partial(VAE, VAEConfig(base_dim=16)), 0, CPU, torch.float32).channels_last()
    latent = torch.randn(1, 16, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    exact, lines = vae.decode(latent), []
    for num_tiles in (2, 4, 8):
        tiled = TiledVAE(vae, num_tiles)
        error = tiling_error(exact, tiled.decode(latent), tiled.grid(32, 24))
        lines.append({"tiles": num_tiles, **asdict(error)})
    return lines


def spread(rank: int, size: int) -> float:
    """Return seconds of a forward over all processes."""
    del rank
    torch.set_num_threads(1)
    dit = network()
    kernel = make_kernel("flash")
    with torch.no_grad():
        given = Given(dit)
        dit.use(kernel, initialise(ParallelConfig(size), device=CPU, dtype=torch.float32, dit=CONFIG, kernel=kernel))
        given.cached(dit)
        begun = time.perf_counter()
        for _ in range(REPEATS):
            given.cached(dit)
        return (time.perf_counter() - begun) / REPEATS


def parallel(folder: Path) -> list[dict[str, object]]:
    one, two = (max(run(spread, size, folder / str(size))) for size in (1, 2))
    return [{"what": "forward on two processes / half of one (1 is perfect)", "time": two / one * 2}]


def endless() -> list[dict[str, object]]:
    """Run the tiny model for 160 chunks and watch the process."""
    model = build(recipe("tiny"))
    stream = Stream(model, Image.fromarray(np.zeros((64, 64, 3), np.uint8)))
    rng, peaks = np.random.default_rng(0), {}
    for chunk in range(1, 161):
        stream.push((0.1 * rng.standard_normal(stream.config.samples_per_chunk)).astype(np.float32))
        assert sum(piece.num_frames for piece in stream) == stream.config.new_frames
        if chunk in {20, 160}:
            peaks[chunk] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [{"what": "peak memory after 160 chunks / after 20", "ratio": peaks[160] / peaks[20], "peak MB": peaks[160]}]


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=110)
    results: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "provenance": describe()}
    with tempfile.TemporaryDirectory() as name:
        for size in (1, 2):
            (Path(name) / str(size)).mkdir()
        for title, part in (
            ("Endless stream, tiny recipe", endless),
            ("Transformer", forward),
            ("Autoencoder, width 32, 33 frames of 64x64", autoencoder),
            ("Tiles of the report against the exact split", tiles),
            ("Sequence parallel", lambda: parallel(Path(name))),
        ):
            results[title] = part()
            show(title, results[title], console)  # type: ignore[arg-type]
    save(results, "model-", console)


if __name__ == "__main__":
    main()
