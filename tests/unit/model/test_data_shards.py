"""Shards are written whole or not at all, are the same bytes again, and say what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.data import shards
from model.data.dataset import Dataset
from model.data.sample import Sample
from model.data.shards import Encoded, Header, Rejection
from talkbench.errors import TalkbenchError

HEADER = Header({"vae": "a", "text": "b"}, 2, "c", 2, "python -m model.data.prepare --source tiny")


def encoded(number: int, dtype: torch.dtype = torch.float32) -> Encoded:
    shapes = {"latents_CThw": (16, 9, 2, 2), "motion_KCThw": (2, 16, 2, 2, 2), "reference_CThw": (16, 9, 2, 2),
              "image_MC": (3, 4), "text_LC": (5, 6), "speech_KFLC": (2, 35, 2, 4)}  # fmt: skip
    generator = torch.Generator().manual_seed(number)
    tensors = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return Encoded(Sample(f"set:clip/{number}", **tensors), "64x64", "yt:a", "set:7", {"opening": [0.5, number]})


def write(folder: Path) -> Path:
    HEADER.write(folder)
    shards.write_null_text(folder, torch.zeros(3, 6))
    shards.write_shard(folder, 0, [encoded(0), Rejection("set:clip/9", "silent", "no sound"), encoded(1)])
    shards.write_shard(folder, 1, [encoded(2, torch.bfloat16)])
    shards.finish(folder, HEADER)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data")


def test_samples_come_back_as_they_were(folder: Path) -> None:
    data = Dataset(folder)
    assert len(data) == 3 and data.null_text_LC.shape == (3, 6)
    for index, dtype in enumerate((torch.float32, torch.float32, torch.bfloat16)):
        expected, found = encoded(index, dtype).sample, data.sample(index)
        assert found.id == expected.id and found.chunks == 2
        for name, tensor in expected.tensors().items():
            assert found.tensors()[name].dtype == dtype and torch.equal(found.tensors()[name], tensor), name


def test_rejections_and_truths_are_kept_beside_the_index(folder: Path) -> None:
    assert json.loads((folder / "rejections.jsonl").read_text())["reason"] == "silent"
    truths = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    assert truths[1] == {"id": "set:clip/1", "opening": [0.5, 1]}
    assert shards.finish(folder, HEADER) == {"encoded": 3, "silent": 1}


def test_the_same_clips_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_clips_that_share_a_tensor_are_written(tmp_path: Path) -> None:
    one, two = encoded(0), encoded(1)
    shared = replace(two, sample=replace(two.sample, text_LC=one.sample.text_LC))
    shards.write_shard(tmp_path, 0, [one, shared])
    assert shards.is_complete(tmp_path, 0)


def test_a_changed_bit_is_found_when_the_sample_is_read_and_the_remedy_is_named(folder: Path) -> None:
    path = shards.shard_path(folder, 1)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    found = Dataset(folder)
    found.sample(0)
    with pytest.raises(
        TalkbenchError, match=rf"00001.safetensors is damaged.*clip/2.*(\n.*)*--source tiny --out {folder}"
    ):
        found.sample(2)


@pytest.mark.parametrize("harm", ["cut", "gone", "other"])
def test_a_damaged_shard_is_named_with_the_command_that_makes_it_again(folder: Path, harm: str) -> None:
    path = shards.shard_path(folder, 0)
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(data[:-40] if harm == "cut" else shards.shard_path(folder, 1).read_bytes())
    with pytest.raises(
        TalkbenchError, match=r"00000.safetensors is damaged(.|\n)*rm -f .*00000(.|\n)*model.data.prepare"
    ):
        Dataset(folder).sample(0)


def test_a_shard_without_its_entries_is_not_complete(folder: Path) -> None:
    assert shards.is_complete(folder, 1)
    shards.shard_path(folder, 1).with_suffix(".jsonl").unlink()
    assert not shards.is_complete(folder, 1)
    with pytest.raises(TalkbenchError, match="00001.jsonl is missing"):
        shards.finish(folder, HEADER)


def test_an_unfinished_folder_is_refused_with_the_command_that_goes_on(folder: Path) -> None:
    (folder / "index.jsonl").unlink()
    with pytest.raises(TalkbenchError, match=rf"not complete(.|\n)*--source tiny --out {folder}"):
        Dataset(folder)


def test_an_empty_folder_and_one_of_rejections_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TalkbenchError, match="holds no encoded clips"):
        Dataset(tmp_path)
    header = replace(HEADER, num_shards=1)
    header.write(tmp_path)
    shards.write_shard(tmp_path, 0, [Rejection("set:clip/0", "silent", "no sound")])
    shards.finish(tmp_path, header)
    with pytest.raises(TalkbenchError, match="holds no sample"):
        Dataset(tmp_path)


def test_a_folder_of_other_data_is_not_mixed_with_and_the_difference_is_named(folder: Path) -> None:
    HEADER.write(folder)
    replace(HEADER, command="another").write(folder)
    with pytest.raises(TalkbenchError, match="begun with another chunks, clips"):
        replace(HEADER, chunks=5, clips="x").write(folder)


def test_a_header_of_another_version_is_refused(folder: Path) -> None:
    header = folder / "header.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 99'))
    with pytest.raises(TalkbenchError, match="version 99"):
        Dataset(folder)
