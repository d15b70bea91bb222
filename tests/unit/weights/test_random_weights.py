"""Random weights come in the official formats; the sizes of the files are those the catalog states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from talkbench.weights import read
from talkbench.weights.catalog import catalog
from tests import random_weights


@pytest.mark.parametrize(("name", "listed"), [("amt", "amt_s"), ("syncnet", "syncnet_v2"), ("s3fd", "s3fd")])
def test_a_file_has_the_official_names_shapes_and_size(tmp_path: Path, name: str, listed: str) -> None:
    (path,) = random_weights.write(tmp_path, [name])
    state = read.state_dict(path)
    shapes = random_weights.keys(listed)
    assert all(list(tensor.shape) == shapes[key] for key, tensor in state.items())
    assert {key for key in shapes if key not in state} == {key for key in shapes if "num_batches_tracked" in key}
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert path.stat().st_size / 1e6 == pytest.approx(catalog()[name].about_megabytes, rel=0.01)


def test_the_clip_file_is_a_torchscript_archive_with_half_precision_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: shape for name, shape in random_weights.keys("clip_vitb32_full").items() if ".0." in name}
    monkeypatch.setattr(random_weights, "keys", lambda _: few)
    (path,) = random_weights.write(tmp_path, ["clip"])
    state = read.state_dict(path)
    assert set(state) == {*few, "input_resolution", "context_length", "vocab_size"}
    assert state["visual.transformer.resblocks.0.attn.in_proj_weight"].dtype == torch.float16
    assert state["visual.transformer.resblocks.0.ln_1.weight"].dtype == torch.float32
    assert state["input_resolution"] == 224


def test_the_same_seed_gives_the_same_numbers_and_another_writer_can_take_over(tmp_path: Path) -> None:
    one, two = (random_weights.write(tmp_path / folder, ["amt"])[0] for folder in ("one", "two"))
    first, second = read.state_dict(one), read.state_dict(two)
    assert all(torch.equal(first[name], second[name]) for name in first)
    (path,) = random_weights.write(tmp_path, ["s3fd"], {"s3fd": lambda path: path.write_text("fitted")})
    assert (path.name, path.read_text()) == ("sfd_face.pth", "fitted")
