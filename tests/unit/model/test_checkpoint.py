"""Files in the released format: whole ones load and give the same numbers, wrong ones are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint, initial
from model.dit import DiT
from model.pipeline import build
from model.recipes import recipe
from talkbench.errors import PrerequisiteError, TalkbenchError

TINY = recipe("tiny")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    initial.write(TINY, folder, seed=4)
    return folder


@pytest.fixture
def weights(written: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return shutil.copytree(written, tmp_path / "weights")


def dit_of(folder: Path) -> DiT:
    dit = initial.made_empty(partial(DiT, TINY.dit), CPU, torch.float32)
    checkpoint.load_dit(dit, checkpoint.Files.below(folder).model)
    return dit


def shard(folder: Path) -> Path:
    return next(checkpoint.Files.below(folder).model.glob("diffusion_pytorch_model-*.safetensors"))


def test_written_weights_load_to_the_same_numbers_in_every_part(written: Path) -> None:
    loaded, direct = build(TINY, written), build(TINY, random_seed=4)
    assert loaded.weights == "released"
    for name in ("dit", "vae", "speech", "_text", "_image"):
        one, other = getattr(loaded, name).state_dict(), getattr(direct, name).state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_a_checkpoint_in_several_shards_loads(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1_000_000)
    initial.write(TINY, tmp_path, seed=4)
    assert len(list(checkpoint.Files.below(tmp_path).model.glob("*.safetensors"))) > 2
    one, several = dit_of(written).state_dict(), dit_of(tmp_path).state_dict()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_the_base_model_and_the_audio_file_load_as_their_union_the_audio_file_winning(weights: Path) -> None:
    tensors = load_file(shard(weights))
    audio = {name: tensor for name, tensor in tensors.items() if name.startswith("audio_proj.")
             or ".audio_cross_attn." in name or ".norm_x." in name}  # fmt: skip
    assert len(audio) == 10 + 8 * TINY.dit.num_layers
    base = {name: tensor for name, tensor in tensors.items() if name not in audio}
    folder = shard(weights).parent
    (folder / checkpoint.DIT_INDEX).unlink()
    shard(weights).unlink()
    save_file(base, folder / "diffusion_pytorch_model.safetensors")
    changed = {"head.head.bias": tensors["head.head.bias"] + 1}
    save_file(audio | changed, folder / checkpoint.AUDIO_FILE)
    union = dit_of(weights).state_dict()
    assert torch.equal(union["head.head.bias"], changed["head.head.bias"])
    assert all(torch.equal(union[name], tensors[name]) for name in tensors if name not in changed)


def test_every_missing_and_wrong_tensor_is_named(weights: Path) -> None:
    tensors = load_file(shard(weights))
    for block in range(TINY.dit.num_layers):
        del tensors[f"blocks.{block}.norm3.weight"]
    tensors["head.head.bias"] = tensors["head.head.bias"][:5].clone()
    tensors["head.extra"] = torch.zeros(1)
    save_file(tensors, shard(weights))
    with pytest.raises(TalkbenchError) as caught:
        dit_of(weights)
    message = str(caught.value)
    assert "4 missing (blocks.{0-3}.norm3.weight)" in message
    assert "1 not expected (head.extra)" in message
    assert "1 of another shape (head.head.bias [5] instead of [64])" in message


@pytest.mark.parametrize("part", ["vae", "text", "image"])
def test_a_file_of_another_model_is_refused(part: str, weights: Path) -> None:
    files = checkpoint.Files.below(weights)
    other = files.vae if part == "text" else files.text
    shutil.copy(other, getattr(files, part))
    with pytest.raises(TalkbenchError, match="does not fit"):
        build(TINY, weights)


def test_a_text_encoder_in_the_place_of_the_transformer_is_refused(weights: Path) -> None:
    save_file(torch.load(checkpoint.Files.below(weights).text), shard(weights))
    with pytest.raises(TalkbenchError, match="does not fit DiT"):
        dit_of(weights)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


@pytest.mark.parametrize("spoil", [_cut, _page])
@pytest.mark.parametrize("part", ["dit", "vae", "speech"])
def test_a_damaged_file_is_named(part: str, spoil: Callable[[Path], None], weights: Path) -> None:
    files = checkpoint.Files.below(weights)
    path = {"dit": shard(weights), "vae": files.vae, "speech": files.speech / "pytorch_model.bin"}[part]
    spoil(path)
    with pytest.raises(TalkbenchError, match=path.name):
        build(TINY, weights)


def test_a_pickle_that_would_run_code_is_not_run(weights: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "run",))

    torch.save({"conv1.weight": Trap()}, checkpoint.Files.below(weights).vae)
    with pytest.raises(TalkbenchError):
        build(TINY, weights)
    assert not (tmp_path / "run").exists()


def test_a_configuration_of_another_network_is_refused_with_both_numbers(weights: Path) -> None:
    path = checkpoint.Files.below(weights).model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 30, "unknown": 1}))
    with pytest.raises(TalkbenchError, match="num_layers 30 instead of 4"):
        dit_of(weights)


def test_missing_weights_are_listed_with_the_commands_that_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError) as caught:
        build(replace(TINY, weights_seed=None), tmp_path)
    message = str(caught.value)
    assert "Wan2.1_VAE.pth" in message
    assert "hf download Soul-AILab/SoulX-FlashTalk-14B" in message
    assert "--random-weights" in message


def test_a_model_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    huge = replace(recipe("flashtalk_14b"), compute=replace(TINY.compute, dtype="float64"))
    with pytest.raises(PrerequisiteError, match=r"needs about \d+\.\d GB of memory .* are there"):
        build(huge, tmp_path)
