"""The network: released names, cached against uncached conditions, compiled against plain, sharded against whole."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from model import accelerate, initial
from model.config import DiTConfig, ParallelConfig
from model.dit import DiT
from model.kernels import make_kernel
from model.parallel.sequence import initialise
from model.recipes import recipe
from tests.support import ROOT
from tests.unit.model.processes import run

TINY = recipe("tiny").dit
SMALL_GRID = (3, 6, 10)
"""Latent frames, rows and columns: 45 tokens, which neither 2, 4 nor 8 divides."""


def network(config: DiTConfig = TINY, dtype: torch.dtype = torch.float32) -> DiT:
    return initial.made(partial(DiT, config), 3, torch.device("cpu"), dtype)


def inputs(config: DiTConfig = TINY, grid: tuple[int, int, int] = SMALL_GRID) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    draw = partial(torch.randn, generator=generator)
    frames = 4 * (grid[0] - 1) + 1
    audio = config.audio
    return {
        "x": draw(16, *grid),
        "y": draw(20, *grid),
        "text": draw(7, config.text_dim),
        "image": draw(1, 17, config.image_dim),
        "speech": draw(1, frames, audio.window, audio.num_layers, audio.channels),
    }


def velocity(dit: DiT, given: dict[str, torch.Tensor], time: float = 937.5) -> torch.Tensor:
    with torch.no_grad():
        return dit(
            given["x"],
            dit.encode_time(time),
            given["y"],
            dit.encode_context(given["text"], given["image"]),
            dit.encode_audio(given["speech"]),
        )


def test_names_and_shapes_are_those_of_the_released_checkpoint() -> None:
    with torch.device("meta"):
        dit = DiT(DiTConfig())
    released = json.loads((ROOT / "tests/data/keys/dit_soulx_flashtalk_14b.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in dit.state_dict().items()} == released
    assert sum(tensor.numel() for tensor in dit.parameters()) == 18_882_046_784


def test_conditions_encoded_once_give_the_same_bits_as_encoded_for_every_step() -> None:
    dit, given = network(), inputs()
    with torch.no_grad():
        context, speech = dit.encode_context(given["text"], given["image"]), dit.encode_audio(given["speech"])
        kept = [dit(given["x"], dit.encode_time(t), given["y"], context, speech) for t in (1000.0, 625.0)]
    assert all(torch.equal(velocity(dit, given, t), v) for t, v in zip((1000.0, 625.0), kept, strict=True))


def test_every_input_reaches_the_velocity() -> None:
    dit, given = network(), inputs()
    whole = velocity(dit, given)
    for name in given:
        changed = given | {name: given[name].roll(1, -1)}
        assert not torch.allclose(velocity(dit, changed), whole, atol=1e-4), name
    assert not torch.allclose(velocity(dit, given, 625.0), whole, atol=1e-4)


def test_text_padding_takes_part_so_its_length_matters() -> None:
    given = inputs()
    longer = replace(TINY, text_len=2 * TINY.text_len)
    assert not torch.allclose(velocity(network(), given), velocity(network(longer), given), atol=1e-4)


def test_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="200 text tokens, at most 128"):
        network().encode_context(torch.zeros(200, TINY.text_dim), torch.zeros(1, 17, TINY.image_dim))


def test_sound_of_a_latent_frame_reaches_other_frames_only_through_self_attention() -> None:
    config = replace(TINY, num_layers=1)
    dit, given = network(config), inputs(config)
    later = given["speech"].clone()
    later[:, -1] += 1
    with torch.no_grad():
        dit.blocks[0].self_attn.o.weight.zero_()
        changed = (velocity(dit, given) - velocity(dit, given | {"speech": later})).abs().amax(dim=(0, 2, 3))
    assert changed[-1] > 1e-3
    assert changed[:-1].max() == 0


def test_bfloat16_stays_within_its_rounding_of_float32() -> None:
    given = inputs()
    exact, rounded = velocity(network(), given), velocity(network(dtype=torch.bfloat16), given)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() / exact.norm() < 2e-2


def test_the_block_compiles_once_without_a_break_and_gives_the_same_numbers() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    dit, given = network(), inputs()
    plain = velocity(dit, given)
    accelerate.compile_blocks(dit, backend="aot_eager")
    assert (velocity(dit, given) - plain).abs().max() < 1e-6
    velocity(dit, given, 625.0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def sharded(rank: int, size: int, degrees: list[tuple[int, int]], heads: int, folder: Path) -> list[tuple]:
    """Compare a forward on all processes with the one that one process made before, relative to its largest value."""
    config = replace(TINY, num_heads=heads, dim=16 * heads)
    found = []
    for dtype in (torch.float32, torch.float64):
        dit, given = network(config, dtype), inputs(config)
        whole = torch.load(folder / f"{dtype}.pt")
        for ulysses, ring in degrees:
            kernel = make_kernel("flash")
            parallel = initialise(
                ParallelConfig(ulysses, ring), device=torch.device("cpu"), dtype=dtype, dit=config, kernel=kernel
            )
            dit.use(kernel, parallel)
            difference = (velocity(dit, given) - whole).abs().max() / whole.abs().max()
            found.append((dtype, ulysses, ring, difference.item()))
    return found


@pytest.mark.parametrize(
    ("size", "heads", "degrees"),
    [(2, 8, [(2, 1), (1, 2)]), (4, 8, [(4, 1), (2, 2), (1, 4)]), (5, 10, [(5, 1)])],
)
def test_a_forward_over_processes_equals_one_process(
    size: int, heads: int, degrees: list[tuple[int, int]], tmp_path: Path
) -> None:
    config = replace(TINY, num_heads=heads, dim=16 * heads)
    for dtype in (torch.float32, torch.float64):
        torch.save(velocity(network(config, dtype), inputs(config)), tmp_path / f"{dtype}.pt")
    for found in run(sharded, size, tmp_path, degrees, heads, tmp_path):
        for dtype, ulysses, ring, difference in found:
            assert difference <= (1e-6 if dtype == torch.float32 else 1e-14), (dtype, ulysses, ring, difference)
