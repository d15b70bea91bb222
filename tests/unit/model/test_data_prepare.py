"""Preparing data: the features of inference, the same bytes however often it was stopped, and a count of everything."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model.config import Recipe
from model.data import identity, prepare, work
from model.data.dataset import Dataset
from model.data.drawn import Drawn
from model.data.footage import Footage, Rejected, encoded
from model.data.work import Work, header_of
from model.pipeline import Encoders, Model, build, build_encoders
from model.recipes import recipe
from model.stream import Stream
from talkbench import atomic
from talkbench.errors import PrerequisiteError, TalkbenchError
from talkbench.progress import Silent
from tests.support import make_clip


@cache
def small() -> Recipe:
    """Return the smallest recipe that has every part."""
    wanted = recipe("tiny")
    return replace(
        wanted,
        dit=replace(wanted.dit, num_layers=1),
        shipped=None,
        vae=replace(wanted.vae, base_dim=4),
        stream=replace(wanted.stream, height=32, width=32),
    )


@dataclass(frozen=True)
class Noise:
    """Clips of noise; every third is refused."""

    count: int
    recipe: Recipe

    @property
    def ids(self) -> list[str]:
        return [f"noise-{number}" for number in range(self.count)]

    @property
    def identity(self) -> dict[str, Any]:
        return {}

    def footage(self, number: int) -> Footage:
        if number % 3 == 2:
            raise Rejected("unlucky", f"{number} is left out")
        rng = np.random.default_rng(number)
        return Footage(
            frames_THWC=rng.integers(0, 255, (33, 32, 32, 3), np.uint8),
            reference_HWC=rng.integers(0, 255, (32, 32, 3), np.uint8),
            sound_N=(0.1 * rng.standard_normal(33 * 640)).astype(np.float32),
            first_sample=0,
            prompt=f"Prompt {number}.",
            source=f"s:{number}",
            person=f"p:{number}",
        )


@pytest.fixture
def few_per_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "CLIPS_PER_SHARD", 2)


def made(folder: Path, count: int = 5) -> dict[str, int]:
    source = Noise(count, small())
    header = header_of(source, small(), None, 1, "python -m model.data.prepare")
    return dict(work.prepare(Work(folder, source, small(), None, "cpu"), header, jobs=1, progress=Silent()))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_speech_of_a_sample_is_what_the_stream_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream begins with the sound of its first new frame; the sample's first chunk with five frames of silence."""
    model, chunks = build(small()), 8
    sound_N = (0.1 * np.random.default_rng(0).standard_normal(chunks * 28 * 640)).astype(np.float32)
    heard: list[torch.Tensor] = []

    def listening(self: Model, noises: object, motion: object, conditions: object, windows: Any, *_: object) -> Any:
        heard.append(windows)
        return torch.zeros(small().latent_shape)

    monkeypatch.setattr(Model, "sample", listening)
    monkeypatch.setattr(Model, "decode", lambda *_: iter([torch.zeros(3, 1, 32, 32), *[torch.zeros(3, 4, 32, 32)] * 8]))
    list(Stream(model, Image.new("RGB", (32, 32), "red")).play([sound_N]))
    footage = Noise(1, small()).footage(0)
    frames_THWC = np.resize(footage.frames_THWC, (chunks * 28 + 5, 32, 32, 3))
    silence_N = np.zeros(5 * 640, np.float32)
    sample = encoded(model, "clip", replace(
        footage, frames_THWC=frames_THWC, sound_N=np.concatenate((silence_N, sound_N)))).sample  # fmt: skip
    assert len(heard) == sample.chunks == chunks
    for chunk, windows_PFWLC in enumerate(heard):
        assert torch.equal(sample.speech_windows(chunk, 5), windows_PFWLC), chunk


def test_the_picture_of_a_sample_is_encoded_as_the_stream_encodes_it() -> None:
    encoders = build_encoders(small())
    footage = Noise(1, small()).footage(0)
    sample = encoded(encoders, "clip", footage).sample
    appearance = encoders.encode_picture(encoders.prepare(Image.fromarray(footage.reference_HWC)))
    torch.testing.assert_close(sample.reference_CThw, appearance.reference_CThw)
    torch.testing.assert_close(sample.image_MC, appearance.image_BMC[0])
    torch.testing.assert_close(sample.text_LC, encoders.encode_text("Prompt 0."))


def test_encoders_alone_are_those_of_the_whole_model() -> None:
    alone, whole = build_encoders(small()), build(small())
    assert torch.equal(alone.encode_text("A."), whole.encode_text("A."))
    picture_CHW = torch.zeros(3, 32, 32)
    assert torch.equal(alone.encode_picture(picture_CHW).image_BMC, whole.encode_picture(picture_CHW).image_BMC)
    assert torch.equal(alone.encode_picture(picture_CHW).y_CThw, whole.encode_picture(picture_CHW).y_CThw)


@pytest.mark.usefixtures("few_per_shard")
def test_a_stopped_run_goes_on_to_the_same_bytes_and_makes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(tmp_path / "whole") == {"encoded": 4, "unlucky": 1}
    numbers: list[int] = []
    original = Work.make_shard

    def stopping(self: Work, encoders: Encoders, number: int) -> None:
        numbers.append(number)
        if number == 1 and numbers.count(1) == 1:
            raise KeyboardInterrupt
        original(self, encoders, number)

    monkeypatch.setattr(Work, "make_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "stopped")
    with pytest.raises(TalkbenchError, match="not complete"):
        Dataset(tmp_path / "stopped")
    made(tmp_path / "stopped")
    assert numbers == [0, 1, 1, 2]
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")
    monkeypatch.setattr(Work, "encoders", lambda *_: pytest.fail("nothing is left to encode"))
    made(tmp_path / "stopped")


@pytest.mark.usefixtures("few_per_shard")
def test_a_shard_that_was_removed_is_made_again(tmp_path: Path) -> None:
    made(tmp_path / "data", 3)
    before = content(tmp_path / "data")
    (tmp_path / "data" / "shards" / "00001.safetensors").unlink()
    made(tmp_path / "data", 3)
    assert content(tmp_path / "data") == before


def test_one_run_at_a_time_writes_a_folder(tmp_path: Path) -> None:
    with atomic.lock(tmp_path / ".lock", wait=False), pytest.raises(TalkbenchError, match="another process is writing"):
        made(tmp_path)


def test_other_clips_or_encoders_are_not_added_to_a_folder(tmp_path: Path) -> None:
    made(tmp_path, 1)
    with pytest.raises(TalkbenchError, match="begun with another clips"):
        made(tmp_path, 2)


def test_what_encodes_is_told_apart_by_part_and_weights(tmp_path: Path) -> None:
    base = identity.of_encoders(small(), None)
    other = identity.of_encoders(replace(small(), vae=replace(small().vae, base_dim=8)), None)
    assert {name for name in base if base[name] != other[name]} == {"vae"}
    prompt = replace(small(), stream=replace(small().stream, prompt="Else.", seed=1))
    assert identity.of_encoders(prompt, None) == base
    with pytest.raises(PrerequisiteError, match="weights are not complete"):
        identity.of_encoders(small(), tmp_path)


def test_a_drawn_clip_has_its_truth_and_its_picture_from_outside_the_window() -> None:
    source = Drawn(recipe("tiny"), 2, chunks=1)
    footage = source.footage(1)
    assert footage.frames_THWC.shape == (33, 64, 64, 3) and len(footage.truth["opening"]) == 33
    assert footage.first_sample % 640 == 0 and len(footage.sound_N) == 53 * 640
    assert not set(source.ids) & set(Drawn(recipe("tiny"), 2, chunks=1, held_out=True).ids)
    again = source.footage(1)
    assert np.array_equal(again.frames_THWC, footage.frames_THWC) and again.truth == footage.truth


def test_clips_of_a_folder_become_a_dataset_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "clips" / "ann" / "good.mp4", seconds=2)
    make_clip(tmp_path / "clips" / "bob" / "mute.mp4", seconds=2, audio=False)
    prepare.main(
        ["--source", "folder", "--root", str(tmp_path / "clips"), "--chunks", "1", "--out", str(tmp_path / "out")]
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary == {"refused": {}, "clips": 2, "outcomes": {"encoded": 1, "no-audio": 1}, "buckets": {"64x64": 1}}
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    data = Dataset(tmp_path / "out")
    assert data.entries[0].person == "folder:ann" and data.sample(0).latents_CThw.shape == (16, 9, 8, 8)
    assert data.header.command.endswith(
        f"--source folder --recipe tiny --chunks 1 --root {tmp_path / 'clips'} --device cpu"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--source", "folder"], "needs --root"), (["--source", "tiny", "--recipe", "large"], "unknown recipe 'large'"),
     (["--source", "talkvid", "--root", ".", "--no-exclusions", "--metadata", "nowhere"], "no TalkVid metadata"),
     (["--source", "tiny", "--recipe", "small"], "draws 64x64; recipe small wants 256x256"),
     (["--source", "tiny", "--device", "cuda"], "no CUDA device")],
)  # fmt: skip
def test_what_is_missing_is_said_without_a_traceback(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        prepare.main([*given, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
