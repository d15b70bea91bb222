"""The profiler's measurements: every section of every chunk, one rank of several, and the power that was drawn."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import emulation, measure, pipeline, profile
from model.pipeline import Model, build
from model.recipes import recipe
from model.stand_in import picture_of, sound_of
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.speed.profile import FACTS


@pytest.fixture(scope="module")
def model() -> Model:
    return build(recipe("tiny"))


def asked(**changes: object) -> argparse.Namespace:
    given = {"device": "cpu", "weights_dir": None, "random_weights": False, "emulate": (), "warmup": 1, "chunks": 2,
             "seconds": 0.0}  # fmt: skip
    return argparse.Namespace(**(given | changes))


def test_a_measurement_accounts_for_the_whole_cycle(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr(measure, "build", lambda *_args, **_options: model)
    (found,) = measure.measured(recipe("tiny"), asked())
    sections, steps = found["sections"], recipe("tiny").sampler.num_steps
    assert set(sections) == {"audio", "dit_step", "decode", "encode", "color", "copy", "rest"}
    assert {name: len(seconds) for name, seconds in sections.items() if name != "dit_step"} == dict.fromkeys(
        set(sections) - {"dit_step"}, 2
    )
    assert len(sections["dit_step"]) == 2 * steps
    assert sum(map(sum, sections.values())) == pytest.approx(sum(found["cycles"]))
    assert sum(sections["rest"]) < 0.2 * sum(found["cycles"])
    assert set(FACTS) <= set(found)
    assert (found["weights_kind"], found["device_kind"], found["power_watts"]) == ("mini-domain", "cpu", None)
    assert found["startup"]["first_frame_seconds"] <= found["startup"]["cold_seconds"] * 3
    assert found["peak_memory_bytes"] > 10**8
    json.dumps(found, allow_nan=False)


def test_a_rank_of_several_has_less_to_do_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    seen: list[tuple[int, ...]] = []
    block = model.dit.blocks[0]
    handle = block.ffn.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape)))
    monkeypatch.setattr(emulation, "REPEATS", 1)
    found = emulation.one_rank(model, 4, warmup=1)
    handle.remove()
    assert {name: len(seconds) for name, seconds in found.items()} == {
        "dit_rank": model.recipe.sampler.num_steps, "decode_rank": 1, "encode_rank": 1,
    }  # fmt: skip
    assert {shape[1] for shape in seen} == {-(-model.recipe.num_tokens // 4)}
    assert model.dit.parallel is None


def test_a_prediction_rests_on_the_rank_and_the_data_sheet(monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    rank = {"dit_rank": [0.1], "decode_rank": [0.05], "encode_rank": [0.01]}
    monkeypatch.setattr(emulation, "one_rank", lambda *_args: rank)
    sections = {"audio": [0.01], "dit_step": [0.3], "decode": [0.2], "encode": [0.02], "rest": [0.0]}
    single = {"sections": sections, "device": "NVIDIA H200", "provenance": {}}
    found = emulation.predicted(model, 4, single, 1)
    assert (found["origin"], found["num_processes"], found["ulysses"]) == ("predicted", 4, 4)
    assert 0.1 < found["predicted"]["dit_step"] < 0.11
    assert found["provenance"]["rank_seconds"] == rank
    assert set(found["basis"]) == set(found["predicted"]) - {"cycle"}


def test_sections_of_a_chunk_are_summed_but_steps_are_not() -> None:
    records = [("dit_step", 0.1), ("dit_step", 0.2), ("decode", 0.3), ("decode", 0.1)]
    found = list(measure._by_component(records, 1.0))
    assert found == [("dit_step", 0.1), ("dit_step", 0.2), ("decode", 0.4), ("rest", pytest.approx(0.3))]
    assert list(measure._by_component(records, 0.5))[-1] == ("rest", 0.0)


def test_power_is_the_mean_of_every_gpu_summed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    lines = "0, 600.00, 700.00\\n1, 300.00, 700.00\\n0, 500.00, 700.00\\n1, [N/A], 700\\n"
    smi.write_text(f"#!/bin/sh\nprintf '{lines}'\nexec sleep 60\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(measure, "_gpu_ids", lambda: "0,1")
    with measure._power(torch.device("cuda")) as power:
        time.sleep(0.5)
    assert power == {"watts": 850.0, "limit": 1400.0}
    with measure._power(torch.device("cpu")) as power:
        pass
    assert power == {}


def test_a_missing_or_small_device_is_said_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_args: object, **_options: object) -> Model:
        raise AssertionError("loaded")

    monkeypatch.setattr(pipeline, "_dit", loaded)
    monkeypatch.setattr(pipeline, "_encoder_nets", loaded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PrerequisiteError, match="no CUDA device"):
        next(measure.measured(recipe("tiny"), asked(device="cuda")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (24 * 10**9, 24 * 10**9))
    monkeypatch.setattr(measure, "local_device", torch.device)
    with pytest.raises(PrerequisiteError, match=r"transformer 37.8.*24.0 GB are there"):
        next(measure.measured(recipe("flashtalk_14b"), asked(device="cuda")))


def test_stand_ins_have_the_shapes_that_the_stream_takes() -> None:
    chosen = replace(recipe("tiny"), stream=replace(recipe("tiny").stream, height=96, width=64))
    assert picture_of(chosen).size == (64, 96)
    sound_N = sound_of(chosen)
    assert (sound_N.shape, sound_N.dtype.name) == ((chosen.stream.samples_per_chunk,), "float32")
    assert 0.05 < abs(sound_N).max() <= 1


@pytest.mark.slow
def test_two_processes_are_measured_as_one(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    given = ["--recipe", "tiny", "--processes", "2", "--warmup", "1", "--chunks", "2", "--seconds", "0"]
    arguments = profile._parser().parse_args([*given, "--out", str(out)])
    (found,) = profile.run(arguments)
    assert (found["num_processes"], found["ulysses"], len(found["cycles"])) == (2, 2, 2)


@pytest.mark.slow
def test_what_stops_one_of_several_processes_is_said_by_name() -> None:
    arguments = profile._parser().parse_args(["--recipe", "flashtalk_14b", "--processes", "2", "--out", "-"])
    with pytest.raises(TalkbenchError, match="needs about|weights are not complete"):
        list(profile.run(arguments))
