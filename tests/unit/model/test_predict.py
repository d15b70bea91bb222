"""The performance model gives the values it is known for, and scales what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model import predict
from model.config import ParallelConfig, Recipe
from model.recipes import recipe
from talkbench.errors import TalkbenchError

RELEASED, H800, H200 = recipe("flashtalk_14b"), predict.DEVICES["H800"], predict.DEVICES["H200"]


def on(num_gpus: int, ring: int = 1, vae: str = "exact") -> Recipe:
    return replace(RELEASED, parallel=ParallelConfig(num_gpus // ring, ring, vae))  # type: ignore[arg-type]


def step_ms(device: predict.Device, ulysses: int, ring: int = 1, *, compiled: bool = True) -> float:
    return 1e3 * predict.step_seconds(RELEASED, device, ulysses, ring, compiled=compiled, cached=False)


@pytest.mark.parametrize(
    ("num_gpus", "eager", "compiled"),
    [(1, 1070, 800), (2, 607, 472), (4, 339, 271), (5, 272, 218), (8, 186, 152)],
)
def test_steps_on_h800_are_those_of_the_model(num_gpus: int, eager: float, compiled: float) -> None:
    assert step_ms(H800, num_gpus, compiled=False) == pytest.approx(eager, rel=0.005)
    assert step_ms(H800, num_gpus) == pytest.approx(compiled, rel=0.005)


@pytest.mark.parametrize(("num_gpus", "published"), [(1, 800), (2, 490), (4, 261), (8, 154)])
def test_steps_are_within_eight_percent_of_the_report(num_gpus: int, published: float) -> None:
    assert step_ms(H800, num_gpus) == pytest.approx(published, rel=0.08)


def test_a_step_on_eight_gpus_is_made_of_known_parts() -> None:
    parts = predict.step_parts(RELEASED, H800, 8, cached=False)
    rounded = {name: round(1e3 * seconds) for name, seconds in parts.items()}
    assert rounded == {
        "products": 72, "attention": 23, "short_attention": 2, "context": 11, "elementwise": 19, "exchange": 17,
        "fixed": 8,
    }  # fmt: skip


@pytest.mark.parametrize(("ulysses", "ring", "expected"), [(4, 2, 154), (2, 4, 165), (1, 8, 188)])
def test_rings_cost_more(ulysses: int, ring: int, expected: float) -> None:
    assert step_ms(H800, ulysses, ring) == pytest.approx(expected, rel=0.025)


def test_another_size_and_another_device() -> None:
    wide = replace(RELEASED, stream=replace(RELEASED.stream, height=768, width=448))
    found = [1e3 * predict.step_seconds(wide, H800, n, cached=False) for n in (1, 2, 4, 5, 8)]
    assert found == pytest.approx([939, 550, 297, 235, 161], rel=0.005)
    assert [step_ms(H200, 1), step_ms(H200, 1, compiled=False)] == pytest.approx([755, 943], rel=0.005)


@pytest.mark.parametrize(
    ("num_gpus", "tiles", "bands", "encode"),
    [(1, 988, 988, 97), (2, 670, 645, 71), (4, 360, 331, 38), (5, 285, 260, None), (8, 193, 174, 20)],
)
def test_the_autoencoder_split(num_gpus: int, tiles: float, bands: float, encode: float | None) -> None:
    tiled = 1e3 * predict.vae_seconds(RELEASED, H800, num_gpus, "decode", split="tiled")
    assert tiled == pytest.approx(tiles, rel=0.005)
    assert 1e3 * predict.vae_seconds(RELEASED, H800, num_gpus, "decode") == pytest.approx(bands, rel=0.005)
    if encode is not None:
        told = 1e3 * predict.vae_seconds(RELEASED, H800, num_gpus, "encode", split="tiled")
        assert told == pytest.approx(encode, abs=0.55)


def test_every_gpu_decodes_everything_if_the_split_is_off() -> None:
    assert predict.vae_seconds(RELEASED, H800, 8, "decode", split="off") == pytest.approx(0.988, rel=0.001)


def test_tiles_that_do_not_come_out_even_are_refused() -> None:
    with pytest.raises(TalkbenchError, match="7 tiles do not divide"):
        predict.vae_seconds(RELEASED, H800, 7, "decode", split="tiled")


def test_cached_context_saves_what_is_not_divided() -> None:
    saved = [step_ms(H800, n) - 1e3 * predict.step_seconds(RELEASED, H800, n) for n in (1, 8)]
    assert saved == pytest.approx([10.9, 10.9], abs=0.1)


def test_a_cycle_is_four_steps_and_the_rest() -> None:
    found = predict.cycle(on(8), H800)
    parts = sum(found[name] for name in ("audio", "decode", "encode", "rest"))
    assert found["cycle"] == pytest.approx(4 * found["dit_step"] + parts)


def test_measured_components_replace_the_level_and_keep_the_scaling() -> None:
    measured = {"audio": 0.01, "dit_step": 0.6, "decode": 0.2, "encode": 0.02, "color": 0.003, "copy": 0.001,
                "rest": 0.005}  # fmt: skip
    single = predict.cycle(on(1), H200, measured=measured)
    assert {name: single[name] for name in ("audio", "dit_step", "decode", "encode")} == {
        name: measured[name] for name in ("audio", "dit_step", "decode", "encode")
    }
    assert single["rest"] == pytest.approx(0.009)
    eight, bare = predict.cycle(on(8), H200, measured=measured), predict.cycle(on(8), H200)
    assert 0.6 / 8 < eight["dit_step"] < bare["dit_step"]
    assert 0.2 / 8 < eight["decode"] < bare["decode"]


def test_a_measured_rank_leaves_only_the_exchange_to_the_model() -> None:
    parts = predict.step_parts(on(8), H200, 8)
    measured = {"dit_step": 0.6, "dit_rank": 0.07, "decode": 0.2, "decode_rank": 0.03, "encode_rank": 0.004}
    found = predict.cycle(on(8), H200, measured=measured)
    assert found["dit_step"] == pytest.approx(0.07 + parts["exchange"] + parts["fixed"])
    assert 0.03 < found["decode"] < 0.033
    assert 0.004 < found["encode"] < 0.006


def test_devices_are_found_by_their_marketing_name() -> None:
    assert predict.device_named("NVIDIA H200, 143771 MiB, 570.1").name == "H200"
    with pytest.raises(TalkbenchError, match="no data sheet of 'RTX 4090'.*H800, H200"):
        predict.device_named("RTX 4090")
