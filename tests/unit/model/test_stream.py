"""The chunk loop: every frame of the sound, in flat memory, exact after saving, whatever size is pushed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import flow
from model.pipeline import Model, build
from model.recipes import recipe
from model.stream import Piece, Stream
from model.timing import SECTIONS, Timeline
from talkbench.errors import TalkbenchError

CHUNK = 17_920
PER_FRAME = 640


@cache
def tiny(groups: tuple[int, ...] = (1, 8)) -> Model:
    """Return the smallest model that has every part: 32x32 pixels, one block."""
    wanted = recipe("tiny")
    return build(
        replace(
            wanted,
            dit=replace(wanted.dit, num_layers=1),
            vae=replace(wanted.vae, base_dim=4),
            stream=replace(wanted.stream, height=32, width=32),
            compute=replace(wanted.compute, decode_groups=groups),
            shipped=None,
        )
    )


def picture(seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(noise).resize((48, 40), Image.Resampling.BICUBIC)


def speech(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


def joined(pieces: Iterator[Piece]) -> np.ndarray:
    return np.concatenate([piece.frames_FHWC for piece in pieces])


def played(sound: np.ndarray, blocks: list[int], **options: object) -> np.ndarray:
    """Return all frames of a sound pushed in blocks of these sizes."""
    stream = Stream(tiny(), picture(), **options)
    frames = []
    for block in np.split(sound, np.cumsum(blocks)[:-1]):
        stream.push(block)
        frames += [piece.frames_FHWC for piece in stream]
    stream.finish()
    frames += [piece.frames_FHWC for piece in stream]
    return np.concatenate(frames)


def test_a_chunk_comes_as_soon_as_its_sound_is_there_and_not_before() -> None:
    stream = Stream(tiny(), picture())
    stream.push(speech(CHUNK - 1))
    assert list(stream) == []
    stream.push(speech(1))
    pieces = list(stream)
    assert [(piece.first_frame, piece.num_frames, piece.last_of_chunk) for piece in pieces] == [(0, 28, True)]
    assert pieces[0].frames_FHWC.shape == (28, 32, 32, 3)
    assert list(stream) == []


@pytest.mark.parametrize("extra", [0, 1, PER_FRAME, 5 * PER_FRAME + 3, CHUNK - 1])
def test_every_frame_of_the_sound_is_delivered_and_none_more(extra: int) -> None:
    sound = speech(CHUNK + extra)
    frames = played(sound, [sound.size])
    assert len(frames) == -(-sound.size // PER_FRAME)


def test_how_the_sound_is_cut_into_blocks_does_not_matter() -> None:
    sound = speech(2 * CHUNK + 2000)
    whole = played(sound, [sound.size])
    assert np.array_equal(whole, played(sound, [1, CHUNK - 2, CHUNK + 5, sound.size - 2 * CHUNK - 4]))


def test_the_same_seed_gives_the_same_frames_and_another_seed_others() -> None:
    sound = speech(CHUNK)
    first = played(sound, [CHUNK], seed=1)
    assert np.array_equal(first, played(sound, [CHUNK], seed=1))
    assert not np.array_equal(first, played(sound, [CHUNK], seed=2))


def test_sound_and_prompt_and_picture_change_the_frames() -> None:
    base = played(speech(CHUNK), [CHUNK])
    assert not np.array_equal(base, played(speech(CHUNK, seed=1), [CHUNK]))
    assert not np.array_equal(base, played(speech(CHUNK), [CHUNK], prompt="Somebody sings."))


def test_released_behaviour_drops_the_last_chunk_that_is_not_full() -> None:
    sound = speech(2 * CHUNK - 1)
    assert len(played(sound, [sound.size], released_behaviour=True)) == 28
    assert len(played(speech(CHUNK - 1), [CHUNK - 1])) == 28


def test_frames_handed_out_as_they_are_decoded_are_the_same_frames() -> None:
    sound = speech(CHUNK + 3000)

    def pieces(model: Model) -> list[Piece]:
        stream = Stream(model, picture())
        stream.push(sound)
        stream.finish()
        return list(stream)

    at_once, early = pieces(tiny()), pieces(tiny((1,) * 9))
    assert [piece.num_frames for piece in early if piece.chunk == 0] == [4] * 7
    assert [piece.last_of_chunk for piece in early if piece.chunk == 0] == [False] * 6 + [True]
    assert early[-1].last_of_chunk
    difference = joined(iter(at_once)).astype(int) - joined(iter(early))
    assert np.abs(difference).max() <= 1


def test_a_saved_stream_goes_on_to_the_same_frames(tmp_path: Path) -> None:
    sound = speech(3 * CHUNK + 1000)
    whole = played(sound, [sound.size])
    stream = Stream(tiny(), picture())
    stream.push(sound[: CHUNK + 700])
    before = joined(iter(stream))
    stream.save(tmp_path / "stream.safetensors")
    restored = Stream.restore(tiny(), tmp_path / "stream.safetensors")
    restored.push(sound[CHUNK + 700 :])
    restored.finish()
    assert np.array_equal(np.concatenate((before, joined(iter(restored)))), whole)


def test_a_saved_stream_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    stream = Stream(tiny(), picture())
    stream.save(tmp_path / "stream.safetensors")
    other = build(replace(tiny().recipe, sampler=replace(tiny().recipe.sampler, num_steps=2)))
    with pytest.raises(TalkbenchError, match="another model: sampler differ"):
        Stream.restore(other, tmp_path / "stream.safetensors")


@pytest.mark.parametrize("content", [b"", b"no stream at all, but some text"])
def test_a_file_that_is_no_saved_stream_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(content)
    with pytest.raises(TalkbenchError, match="is not a saved stream"):
        Stream.restore(tiny(), tmp_path / "stream")


def test_a_chunk_that_fails_can_be_made_again_and_nothing_before_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = speech(2 * CHUNK)
    whole = played(sound, [sound.size])
    stream = Stream(tiny(), picture())
    stream.push(sound[:CHUNK])
    first = joined(iter(stream))
    stream.push(sound[CHUNK:])
    with monkeypatch.context() as patched:
        patched.setattr(flow, "sample", _out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            list(stream)
    assert np.array_equal(np.concatenate((first, joined(iter(stream)))), whole)


def _out_of_memory(*_: object) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory left")


def test_a_consumer_that_leaves_in_the_middle_of_a_chunk_gets_it_again_whole() -> None:
    model = tiny((1,) * 9)
    stream = Stream(model, picture())
    stream.push(speech(CHUNK))
    pieces = iter(stream)
    first = next(pieces).frames_FHWC
    again = list(stream)
    assert len(again) == 7
    assert np.array_equal(again[0].frames_FHWC, first)
    assert list(pieces) == []
    assert stream.num_delivered == 28


def test_a_cancelled_stream_ends_where_it_is() -> None:
    stream = Stream(tiny((1,) * 9), picture())
    stream.push(speech(2 * CHUNK))
    pieces = iter(stream)
    next(pieces)
    stream.cancel()
    assert list(pieces) == []
    assert list(stream) == []
    with pytest.raises(TalkbenchError, match="finished"):
        stream.push(speech(10))


def test_numbers_that_are_not_finite_are_reported_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Callable[..., torch.Tensor] = flow.sample
    monkeypatch.setattr(flow, "sample", lambda *given: right(*given) * float("nan"))
    stream = Stream(tiny(), picture())
    stream.push(speech(CHUNK))
    with pytest.raises(FloatingPointError, match="chunk 0"):
        joined(iter(stream))


@pytest.mark.parametrize("bad", [np.zeros((2, 100), np.float32), np.full(10, np.nan, np.float32)])
def test_sound_that_is_not_finite_or_not_mono_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(TalkbenchError, match="expected finite samples on one axis"):
        Stream(tiny(), picture()).push(bad)


def test_silence_and_no_sound_at_all_are_no_errors() -> None:
    assert len(played(np.zeros(CHUNK, np.float32), [CHUNK])) == 28
    stream = Stream(tiny(), picture())
    stream.push(np.zeros(0, np.float32))
    stream.finish()
    assert list(stream) == []


def test_every_part_of_a_chunk_is_timed() -> None:
    timeline = Timeline()
    stream = Stream(tiny(), picture(), timeline=timeline)
    stream.push(speech(CHUNK))
    list(stream)
    names = [name for name, _ in timeline.records]
    assert {name: names.count(name) for name in SECTIONS} == {
        "audio": 1, "dit_step": 4, "decode": 2, "color": 2, "encode": 1, "copy": 1,
    }  # fmt: skip
    assert all(seconds >= 0 for _, seconds in timeline.records)


def test_an_hour_of_stream_takes_no_more_than_ten_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The networks are left out; what the loop keeps is measured over 3,214 chunks, with a restart on the way."""
    model = tiny()
    monkeypatch.setattr(type(model), "sample", lambda *_: torch.zeros(16, 9, 4, 4))
    monkeypatch.setattr(type(model), "decode", lambda *_: iter([torch.zeros(3, 1, 32, 32), torch.zeros(3, 32, 32, 32)]))
    monkeypatch.setattr(type(model), "encode", lambda *_: torch.zeros(16, 2, 4, 4))
    monkeypatch.setattr(type(model.speech), "features", lambda *_: torch.zeros(200, 2, 64))
    monkeypatch.setattr("model.pipeline.normalise", lambda samples, *_: samples)
    monkeypatch.setattr("model.color.correct", lambda video, *_: video)
    stream = Stream(model, picture())
    block = speech(16_000)
    peaks = []
    tracemalloc.start()
    for second in range(3600):
        stream.push(block)
        for piece in stream:
            assert piece.first_frame == piece.chunk * 28
        if second in {600, 3599}:
            stream.save(tmp_path / "stream")
            stream = Stream.restore(model, tmp_path / "stream")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    tracemalloc.stop()
    assert stream.num_delivered == 3214 * 28
    assert peaks[1] <= 1.05 * peaks[0]
