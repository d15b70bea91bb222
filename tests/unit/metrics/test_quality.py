"""The Q-Align runner with a tiny model: what it looks at, what it asks, and what it says when something is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from talkbench.errors import TalkbenchError, Unscorable
from talkbench.media.clip import ClipFacts, FrameBatch
from talkbench.metrics import networks, quality
from talkbench.metrics.base import Context, Scores, params_digest
from talkbench.metrics.quality import QAlignParams, QAlignRunner
from talkbench.nets.clip import CLIP_MEAN, CLIP_STD
from talkbench.nets.qalign import QAlign
from talkbench.weights.catalog import WeightFile
from tests import tiny_qalign
from tests.support import moving_square

AESTHETICS, QUALITY = "qalign.aesthetics", "qalign.quality"
FRAMES = np.stack(list(moving_square(300, 48, 64)))


@pytest.fixture(autouse=True)
def _no_network_outlives_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_loaded", {})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qalign.write(tmp_path_factory.mktemp("tiny"), seed=3, image_px=56)


def runner(folder: Path, params: QAlignParams | None = None) -> QAlignRunner:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    weights = {quality.WEIGHTS: WeightFile(quality.WEIGHTS, folder, digest, "unverified")}
    return QAlignRunner(params, Context(weights=weights))


def run(made: QAlignRunner, num_frames: int, size: int = 16, rate: int = 25) -> Scores:
    made.start(ClipFacts(64, 48, Fraction(rate), has_audio=False))
    for start in range(0, num_frames, size):
        part = FRAMES[start : min(start + size, num_frames)]
        made.update(FrameBatch(part, start, (start + np.arange(len(part))) / rate))
    return made.finish()


def changed(folder: Path, to: Path, change: Any) -> Path:
    """Copy a checkpoint with `change` applied to its tensors."""
    to.mkdir()
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            save_file({name: change(name, value) for name, value in load_file(path).items()}, to / path.name)
        else:
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_scores_are_the_mean_over_frames_one_second_apart(folder: Path) -> None:
    scores = run(runner(folder), 300)
    assert scores.details["num_frames"] == 12
    for name in (AESTHETICS, QUALITY):
        terms = scores.series[name]
        assert terms.seconds_T.tolist() == list(range(12))
        assert scores.values[name] == pytest.approx(terms.values_T.mean())
        assert 1 <= terms.values_T.min() < terms.values_T.max() <= 5
    assert scores.values[AESTHETICS] != scores.values[QUALITY]


def test_each_term_is_the_score_of_that_frame_alone(folder: Path) -> None:
    made = runner(folder)
    whole = run(made, 300)
    made.start(ClipFacts(64, 48, Fraction(25), has_audio=False))
    made.update(FrameBatch(FRAMES[100:101], 0, np.zeros(1)))
    assert made.finish().values[QUALITY] == pytest.approx(whole.series[QUALITY].values_T[4], abs=1e-5)


def test_neither_batches_nor_the_clip_before_matter(folder: Path) -> None:
    made = runner(folder)
    first = run(made, 150, size=150)
    for size in (1, 7, 64):
        again = run(made, 150, size=size)
        assert again.values == first.values
        assert again.series[QUALITY].seconds_T.tolist() == first.series[QUALITY].seconds_T.tolist()
        run(made, 40)


def test_a_picture_is_encoded_once_for_both_questions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    look = QAlign.look

    def counted(net: QAlign, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels_BCHW))
        return look(net, pixels_BCHW)

    monkeypatch.setattr(QAlign, "look", counted)
    run(runner(folder), 300)
    assert seen == [2] * 6


def test_shards_in_the_older_format_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.model"):
        (pickled / name).write_bytes((folder / name).read_bytes())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name in sorted(set(index["weight_map"].values())):
        torch.save(load_file(folder / name), pickled / f"{name}.bin")
    index["weight_map"] = {tensor: f"{name}.bin" for tensor, name in index["weight_map"].items()}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert run(runner(pickled), 20).values == run(runner(folder), 20).values


def test_a_clip_without_frames_is_unscorable(folder: Path) -> None:
    with pytest.raises(Unscorable, match="no frame"):
        run(runner(folder), 0)


def test_a_model_without_opinion_is_flagged_and_scores_three(folder: Path, tmp_path: Path) -> None:
    blank = changed(folder, tmp_path / "blank", lambda name, value: value * 0 if name == "lm_head.weight" else value)
    scores = run(runner(blank), 20)
    assert scores.values[QUALITY] == pytest.approx(3.0)
    assert scores.details["uninformative"] == {AESTHETICS: True, QUALITY: True}
    assert scores.details["entropy_bits"][QUALITY] == pytest.approx(np.log2(5), abs=1e-4)
    assert not any(run(runner(folder), 20).details["uninformative"].values())


def test_numbers_that_are_not_finite_fail_loudly(folder: Path, tmp_path: Path) -> None:
    broken = changed(folder, tmp_path / "nan", lambda name, value: value / 0 if name == "model.norm.weight" else value)
    with pytest.raises(FloatingPointError, match="not finite"):
        run(runner(broken), 4)


def test_a_device_without_memory_gets_smaller_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(runner(folder), 300)
    look = QAlign.look

    def cramped(net: QAlign, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        if len(pixels_BCHW) > 1:
            raise torch.cuda.OutOfMemoryError("no memory")
        return look(net, pixels_BCHW)

    monkeypatch.setattr(QAlign, "look", cramped)
    scores = run(runner(folder), 300)
    assert scores.details == expected.details | {"batch": 1, "entropy_bits": scores.details["entropy_bits"]}
    assert scores.values[QUALITY] == pytest.approx(expected.values[QUALITY], abs=1e-5)


def test_eight_bits_are_stated_and_enter_the_key(folder: Path) -> None:
    scores = run(runner(folder, QAlignParams(int8_language=True)), 20)
    assert scores.details["precision"] == "float32, int8 language"
    assert params_digest(QAlignParams(int8_language=True)) != params_digest(QAlignParams())
    full = run(runner(folder), 20)
    assert full.details["precision"] == "float32"
    assert scores.values[QUALITY] == pytest.approx(full.values[QUALITY], abs=0.1)
    assert scores.values[QUALITY] != full.values[QUALITY]


def test_the_word_for_aesthetics_changes_that_score_only(folder: Path) -> None:
    usual, other = run(runner(folder), 20), run(runner(folder, QAlignParams(aesthetics_word="aesthetic")), 20)
    assert usual.values[QUALITY] == other.values[QUALITY]
    assert usual.values[AESTHETICS] != other.values[AESTHETICS]


def test_the_prompt_is_told_apart_at_the_picture(folder: Path) -> None:
    words = quality.vocabulary(folder / quality.TOKENIZER_FILE)
    asked = quality.question(words, QAlignParams(), "quality")
    assert asked.before[0] == 1
    assert words.decode(list(asked.before)) == "USER: How would you rate the quality of this image?\n"
    assert words.decode(list(asked.after)) == "\nASSISTANT: The quality of the image is"
    swapped = QAlignParams(prompt="{task}<|image|>The {kind} of the {task} is", kind="video")
    assert words.decode(list(quality.question(words, swapped, "quality").after)) == "The video of the quality is"


@pytest.mark.parametrize("prompt", ["no picture", "one <|image|> two <|image|> three", "at the end <|image|>"])
def test_a_prompt_without_one_place_for_the_picture_is_refused(prompt: str) -> None:
    with pytest.raises(TalkbenchError, match="it must have one"):
        QAlignParams(prompt=prompt)


@pytest.mark.parametrize(
    "wrong",
    [{"gpu_precision": "fp16"}, {"gpu_precision": "float64"}, {"frames_per_second": 0}, {"min_frames": 0},
     {"prompt": "{what}<|image|> is"}, {"prompt": "{<|image|> is"}],
)  # fmt: skip
def test_parameters_without_meaning_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(TalkbenchError, match=next(iter(wrong))):
        QAlignParams(**wrong)


def spoilt(name: str, content: bytes | None) -> Any:
    def spoil(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoilt("tokenizer.model", None), "cannot be read as a sentencepiece model"),
        (spoilt("tokenizer.model", b"<html>"), "cannot be read as a sentencepiece model"),
        (spoilt("config.json", None), "not a Q-Align checkpoint .FileNotFoundError"),
        (spoilt("config.json", b'{"model_type": "llama"}'), "not a Q-Align checkpoint .KeyError"),
        (spoilt("config.json", json.dumps(tiny_qalign.config(image_px=70)).encode()), "expected"),
        (spoilt("model-00002-of-00002.safetensors", None), "model-00002-of-00002.safetensors"),
        (spoilt("model-00002-of-00002.safetensors", b"cut"), "model-00002-of-00002.safetensors"),
    ],
)
def test_a_spoilt_folder_is_named_with_its_fault(folder: Path, tmp_path: Path, spoil: Any, message: str) -> None:
    other = changed(folder, tmp_path / "other", lambda _name, value: value)
    spoil(other)
    with pytest.raises(TalkbenchError, match=message):
        run(runner(other), 2)


def test_a_vocabulary_of_another_model_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "LEVELS", ("excellent", "unheardof"))
    with pytest.raises(TalkbenchError, match="not the tokenizer of one-align: unheardof must be one token"):
        run(runner(folder), 2)


def official_pixels(frame_HWC: np.ndarray) -> np.ndarray:
    """The official processing in its own words: scale in float64, round, subtract, divide."""
    height, width = frame_HWC.shape[:2]
    side = max(height, width)
    canvas = Image.new("RGB", (side, side), (122, 116, 104))
    canvas.paste(Image.fromarray(frame_HWC), ((side - width) // 2, (side - height) // 2))
    scaled = (np.asarray(canvas.resize((448, 448), Image.Resampling.BICUBIC)) * (1 / 255)).astype(np.float32)
    return ((scaled - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).transpose(2, 0, 1)


def frames_of_all_shapes() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    for size in [(30, 77), (77, 30), (448, 448), (501, 500), (1, 9)]:
        yield rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def test_pixels_equal_the_official_processing_to_the_last_bit() -> None:
    for frame in frames_of_all_shapes():
        assert np.array_equal(quality.normalised(quality.on_square(frame, 448)[None])[0], official_pixels(frame))


@pytest.mark.parametrize(("level", "score"), [(0, 5.0), (1, 4.0), (2, 3.0), (3, 2.0), (4, 1.0)])
def test_a_sure_answer_gives_its_own_points_and_no_entropy(level: int, score: float) -> None:
    logits = np.full((1, 5), -1e4, dtype=np.float32)
    logits[0, level] = 1e4
    assert quality.judged(logits)[0][0] == score
    assert quality.judged(logits)[1][0] == pytest.approx(0.0, abs=1e-9)


def test_two_equal_words_are_one_bit() -> None:
    scores, entropy = quality.judged(np.array([[9, 9, -99, -99, -99]], dtype=np.float32))
    assert scores[0] == pytest.approx(4.5)
    assert entropy[0] == pytest.approx(1.0)
